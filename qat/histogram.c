#include "qat/histogram.h"

#include <assert.h>
#include <math.h>

enum { HALF = HISTOGRAM_BINS / 2 };

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

bool histogram_add(Histogram h, Observed seen, float decay) {
    assert(seen.count <= UINT32_MAX);
    Probe *probe = h.probe;
    if (!seen.is_seen) {
        probe->limit = *h.limit;
        probe_over(probe, seen.x, seen.count, seen.scratch);
    }
    float largest = -probe->low > probe->high ? -probe->low : probe->high;
    if (!(largest >= magnitude_min && largest <= magnitude_max)) return false;
    grow(h, largest);
    if (probe->limit != *h.limit) { /* bins as they were when values lay nearer; it is rare */
        probe->limit = *h.limit;
        probe_over(probe, seen.x, seen.count, seen.scratch);
    }
    for (int i = 0; i < HISTOGRAM_BINS; i++)
        h.counts[i] = h.counts[i] * decay + (float)probe->counts[i];
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
    q->probe.counts = arena_new_array(q->model->arena, uint32_t, HISTOGRAM_BINS);
}

Histogram histogram_of(Quant *q) {
    const HistogramParams *params = q->state;
    return (Histogram){tensor_f32(&params->counts->value), tensor_f32(&params->limit->value),
                       &q->probe};
}
