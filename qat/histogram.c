#include "qat/histogram.h"

#include <assert.h>
#include <math.h>

enum {
    HALF = HISTOGRAM_BINS / 2,
    HALVINGS_WORTH = 4, /* fewer than 128 bins on either side are in use */
    EXPONENTS = 300,
    EXPONENT_ZERO = 160, /* denormal numbers have exponents down to -148 */
};

/* Beyond these, widths of bins and their inverses leave the range of f32. */
static const float magnitude_min = 0x1p-100f, magnitude_max = 0x1p125f;
const double histogram_tail = 1e-6;

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

static double total_of(Histogram h) {
    double total = 0;
    for (int i = 0; i < HISTOGRAM_BINS; i++) total += (double)h.counts[i];
    return total;
}

static void grow(Histogram h, float largest) {
    int exponent;
    frexpf(largest, &exponent);
    float limit = ldexpf(1, exponent);
    if (*h.limit == 0) *h.limit = limit;
    for (; *h.limit < limit; *h.limit *= 2) merge_pairs(h.counts);
}

/* The batch over bins up to `limit`, the outer ones with what lies beyond. */
static void count_batch(Histogram h, Observed seen, float limit) {
    h.probe->limit = limit;
    probe_over(h.probe, seen.x, seen.count, seen.scratch);
}

/* Whether more than a share `beyond` of all that was counted, this batch too, would lie in the
 * outer bins. */
static bool is_too_small(Histogram h, Observed seen, double decay, double beyond) {
    const uint32_t *batch = h.probe->counts;
    enum { LAST = HISTOGRAM_BINS - 1 };
    double before = decay * ((double)h.counts[0] + (double)h.counts[LAST]);
    double outside = before + (double)batch[0] + (double)batch[LAST];
    return outside > beyond * (decay * total_of(h) + (double)seen.count);
}

/* How many times the bins could be halved around 0, and hold all but a share `beyond` still. */
static int halvings_of(Histogram h, double beyond) {
    double needed = (1 - beyond) * total_of(h), inside = 0;
    for (int i = 0; i < HALF; i++) {
        inside += (double)h.counts[HALF + i] + (double)h.counts[HALF - 1 - i];
        if (inside < needed) continue;
        int halvings = 0;
        while (i < HALF >> (halvings + 1)) halvings++;
        return halvings;
    }
    return 0;
}

/* The least power of two above all of the batch's magnitudes but a share `beyond`; 0: the rest is
 * zeros. */
static float limit_of_batch(Observed seen, double beyond) {
    int64_t found[EXPONENTS] = {0};
#pragma omp parallel for schedule(static) reduction(+ : found[:EXPONENTS])
    for (int64_t i = 0; i < seen.count; i++) {
        int exponent = 0;
        frexpf(seen.x[i], &exponent);
        found[seen.x[i] == 0 ? 0 : exponent + EXPONENT_ZERO]++;
    }
    int64_t outside = 0;
    for (int e = EXPONENTS - 1; e > 0; e--) {
        outside += found[e];
        if ((double)outside > beyond * (double)seen.count) return ldexpf(1, e - EXPONENT_ZERO);
    }
    return 0;
}

/* Where a few outliers made bins so wide that the rest lies in some of the innermost, counting
 * begins anew with finer ones, of this batch. */
static void refine(Histogram h, Observed seen, double beyond) {
    if (halvings_of(h, beyond) < HALVINGS_WORTH) return;
    float limit = limit_of_batch(seen, beyond);
    if (limit < magnitude_min || limit > ldexpf(*h.limit, -HALVINGS_WORTH)) return;
    *h.limit = limit;
    count_batch(h, seen, limit);
    for (int i = 0; i < HISTOGRAM_BINS; i++) h.counts[i] = (float)h.probe->counts[i];
}

bool histogram_add(Histogram h, Observed seen, float decay, double beyond) {
    assert(seen.count <= UINT32_MAX);
    Probe *probe = h.probe;
    if (!seen.is_seen) count_batch(h, seen, *h.limit);
    float largest = -probe->low > probe->high ? -probe->low : probe->high;
    if (!(largest >= magnitude_min && largest <= magnitude_max)) return false;
    if (*h.limit == 0) grow(h, largest);
    /* Bins as they were when values lay nearer, or none yet; it is rare. */
    if (probe->limit != *h.limit) count_batch(h, seen, *h.limit);
    if (largest > *h.limit && is_too_small(h, seen, (double)decay, beyond)) {
        grow(h, largest);
        count_batch(h, seen, *h.limit);
    }
    for (int i = 0; i < HISTOGRAM_BINS; i++)
        h.counts[i] = h.counts[i] * decay + (float)probe->counts[i];
    refine(h, seen, beyond);
    return true;
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
    return (Range){histogram_quantile(h, histogram_tail),
                   histogram_quantile(h, 1 - histogram_tail)};
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
