#include "qat/histogram.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "qat/observer.h"

enum {
    HALF = HISTOGRAM_BINS / 2,
    BLOCK = 512, /* bin numbers staged on the stack, so that their arithmetic vectorizes */
};

/* Beyond these, widths of bins and their inverses leave the range of f32. */
static const float magnitude_min = 0x1p-100f, magnitude_max = 0x1p125f;
static const double tail = 1e-6;

static void merge_pairs(float *counts) {
    for (int i = 0; i < HALF; i++) {
        bool is_inside = 2 * i + 1 < HALF;
        counts[HALF + i] = is_inside ? counts[HALF + 2 * i] + counts[HALF + 2 * i + 1] : 0;
    }
    for (int i = 0; i < HALF; i++) {
        bool is_inside = 2 * i + 1 < HALF;
        counts[HALF - 1 - i] = is_inside ? counts[HALF - 1 - 2 * i] + counts[HALF - 2 - 2 * i] : 0;
    }
}

static void grow(Histogram h, float largest) {
    int exponent;
    frexpf(largest, &exponent);
    float limit = ldexpf(1, exponent);
    if (*h.limit == 0) *h.limit = limit;
    for (; *h.limit < limit; *h.limit *= 2) merge_pairs(h.counts);
}

static void count_span(const float *x, int64_t count, float per_width, uint32_t *found) {
    for (int64_t done = 0; done < count; done += BLOCK) {
        int32_t bins[BLOCK];
        int64_t block = count - done < BLOCK ? count - done : BLOCK;
        for (int64_t i = 0; i < block; i++) {
            float place = x[done + i] * per_width + HALF;
            place = place > 0 ? place : 0; /* a NaN too */
            bins[i] = (int32_t)(place < HISTOGRAM_BINS - 1 ? place : HISTOGRAM_BINS - 1);
        }
        for (int64_t i = 0; i < block; i++) found[bins[i]]++;
    }
}

/* Whole numbers add up to the same in any order. */
static void count_all(const float *x, int64_t count, float per_width, uint32_t *found) {
    int64_t blocks = (count + BLOCK - 1) / BLOCK;
#pragma omp parallel
    {
        uint32_t own[HISTOGRAM_BINS] = {0};
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; block++) {
            int64_t first = block * BLOCK;
            count_span(x + first, count - first < BLOCK ? count - first : BLOCK, per_width, own);
        }
#pragma omp critical(histogram_merge)
        for (int i = 0; i < HISTOGRAM_BINS; i++) found[i] += own[i];
    }
}

bool histogram_add(Histogram h, const float *x, int64_t count, float decay) {
    assert(count <= UINT32_MAX);
    Range range = observer_range(x, count);
    float largest = -range.low > range.high ? -range.low : range.high;
    if (!(largest >= magnitude_min && largest <= magnitude_max)) return false;
    grow(h, largest);
    uint32_t found[HISTOGRAM_BINS] = {0};
    count_all(x, count, HALF / *h.limit, found);
    for (int i = 0; i < HISTOGRAM_BINS; i++) h.counts[i] = h.counts[i] * decay + (float)found[i];
    return true;
}

static double total_of(Histogram h) {
    double total = 0;
    for (int i = 0; i < HISTOGRAM_BINS; i++) total += (double)h.counts[i];
    return total;
}

/* Width of a bin. */
static double width_of(Histogram h) {
    return (double)*h.limit / HALF;
}

float histogram_quantile(Histogram h, double at) {
    double target = at * total_of(h), below = 0, low = -(double)*h.limit;
    for (int i = 0; i < HISTOGRAM_BINS; i++) {
        double here = (double)h.counts[i];
        if (here > 0 && below + here >= target)
            return (float)(low + (i + (target - below) / here) * width_of(h));
        below += here;
    }
    return *h.limit;
}

float histogram_magnitude_quantile(Histogram h, double at) {
    double target = at * total_of(h), below = 0;
    for (int i = 0; i < HALF; i++) {
        double here = (double)h.counts[HALF + i] + (double)h.counts[HALF - 1 - i];
        if (here > 0 && below + here >= target)
            return (float)((i + (target - below) / here) * width_of(h));
        below += here;
    }
    return *h.limit;
}

void histogram_centres(Histogram h, float centres[HISTOGRAM_BINS]) {
    float width = *h.limit / HALF;
    for (int i = 0; i < HISTOGRAM_BINS; i++) centres[i] = ((float)(i - HALF) + 0.5f) * width;
}

Range histogram_range(Histogram h) {
    return (Range){histogram_quantile(h, tail), histogram_quantile(h, 1 - tail)};
}

Range histogram_search(Histogram h, Grid grid, bool is_affine, Dtype scale_dtype, int candidates) {
    float centres[HISTOGRAM_BINS];
    histogram_centres(h, centres);
    RangeData data = {.x = centres, .weight = h.counts, .count = HISTOGRAM_BINS};
    return range_search(data, histogram_range(h), grid, is_affine, scale_dtype, candidates);
}

typedef struct HistogramParams {
    Param *counts, *limit;
} HistogramParams;

void histogram_new(Quant *q) {
    HistogramParams *params = arena_new_array(q->model->arena, HistogramParams, 1);
    params->counts = quant_buffer(q, "histogram", SHAPE(HISTOGRAM_BINS));
    params->limit = quant_buffer(q, "limit", SHAPE(1));
    q->state = params;
}

Histogram histogram_of(const Quant *q) {
    const HistogramParams *params = q->state;
    return (Histogram){tensor_f32(&params->counts->value), tensor_f32(&params->limit->value)};
}
