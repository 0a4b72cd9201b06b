#include "qat/range.h"

#include <assert.h>
#include <float.h>

#include "autograd/ops.h"
#include "core/parallel.h"

enum { BLOCK = 512 /* elements staged on the stack */, LANES = 8 };

/* Where the search ends, as GPTQ's (maxshrink 0.8). */
static const float fraction_min = 0.2f;

RangeFit range_fit(Range range, Grid grid, bool is_affine, Dtype scale_dtype) {
    float low = range.low < 0 ? range.low : 0, high = range.high > 0 ? range.high : 0;
    float steps = (float)(grid_high(grid) - grid_low(grid));
    float largest = -low > high ? -low : high;
    RangeFit fit = {0};
    if (is_affine)
        fit.scale = (high - low) / steps;
    else if (grid_low(grid) == 0)
        fit.scale = high / steps;
    else
        fit.scale = largest / (steps / 2);
    if (fit.scale < FLT_MIN) fit.scale = FLT_MIN;
    if (is_affine) {
        float lowest = -steps * fake_quant_stored_scale(scale_dtype, fit.scale);
        fit.offset = low > lowest ? low : lowest;
    }
    return fit;
}

/* Sum of weight (x^ - x)^2 over one block, in lanes that the compiler can keep in a register. */
static double block_error(const float *x, const float *weight, const float *faked, int64_t count) {
    float sums[LANES] = {0};
    int64_t whole = count - count % LANES;
    for (int64_t i = 0; i < whole; i += LANES)
        for (int j = 0; j < LANES; j++) {
            float error = faked[i + j] - x[i + j];
            sums[j] += (weight ? weight[i + j] : 1.0f) * (error * error);
        }
    double sum = 0;
    for (int64_t i = whole; i < count; i++) {
        float error = faked[i] - x[i];
        sum += (weight ? weight[i] : 1.0f) * (error * error);
    }
    for (int j = 0; j < LANES; j++) sum += sums[j];
    return sum;
}

static double squared_error(RangeData data, RangeFit fit, Grid grid, Dtype scale_dtype) {
    float scale = fake_quant_stored_scale(scale_dtype, fit.scale);
    float zero = fake_quant_zero(grid, fit.offset, scale);
    Scales scales = {.row_length = BLOCK,
                     .run_length = BLOCK,
                     .count = 1,
                     .dtype = scale_dtype,
                     .grid = grid,
                     .scale = &scale,
                     .zero = &zero};
    double sum = 0;
    for (int64_t done = 0; done < data.count; done += BLOCK) {
        float faked[BLOCK];
        int64_t block = data.count - done < BLOCK ? data.count - done : BLOCK;
        quantize_levels(data.x + done, &scales, 0, block, faked);
        levels_decode(faked, &scales, 0, block, faked);
        sum += block_error(data.x + done, data.weight ? data.weight + done : NULL, faked, block);
    }
    return sum;
}

static Range range_shrink(Range full, int candidate, int candidates) {
    float fraction = 1 - (1 - fraction_min) * (float)candidate / (float)(candidates - 1);
    return (Range){full.low * fraction, full.high * fraction};
}

typedef struct Search {
    RangeData data;
    Range full;
    Grid grid;
    bool is_affine;
    Dtype scale_dtype;
    int candidates;
} Search;

static double candidate_error(const Search *s, int candidate) {
    Range range = range_shrink(s->full, candidate, s->candidates);
    RangeFit fit = range_fit(range, s->grid, s->is_affine, s->scale_dtype);
    return squared_error(s->data, fit, s->grid, s->scale_dtype);
}

Range range_search(RangeData data, Range full, Grid grid, bool is_affine, Dtype scale_dtype,
                   int candidates) {
    assert(candidates >= 2 && candidates <= RANGE_CANDIDATES_MAX);
    double errors[RANGE_CANDIDATES_MAX];
    Search search = {data, full, grid, is_affine, scale_dtype, candidates};
    if (parallel_is_active()) { /* one of many searches that run side by side */
        for (int i = 0; i < candidates; i++) errors[i] = candidate_error(&search, i);
    } else {
#pragma omp parallel for schedule(dynamic)
        for (int i = 0; i < candidates; i++) errors[i] = candidate_error(&search, i);
    }
    int best = 0;
    for (int i = 1; i < candidates; i++)
        if (errors[i] < errors[best]) best = i;
    return range_shrink(full, best, candidates);
}
