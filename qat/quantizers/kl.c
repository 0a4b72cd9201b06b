/* The range whose quantization keeps the distribution of the values: entropy calibration (Migacz,
 * 8-bit Inference with TensorRT, 2017), over a histogram c of |x| (affine: of x on both sides of
 * 0), for n levels of it: 2^(b-1) signed, 2^b unsigned and affine.
 *
 *     for i = n ... bins:              the first i bins; affine: i bins around 0, in proportion
 *         P = c[0 ... i-1], what lies outside added to the bin at that end, over its sum
 *         Q = c[0 ... i-1] merged into n runs, run l from floor(l i / n), the sum of each spread
 *             evenly over those of its bins that P fills, over its sum
 *         D[i] = sum P log(P / Q)      infinite where Q is 0 and P is not
 *     range = (argmin D + 1/2) width   the widest of equals; at most the extremes
 *
 * Which the paper leaves open: the bin at 0 counts as its neighbour does, since 0 always is a level
 * and a ReLU's many zeros cost nothing. Where fewer than 4 values come on a bin, pairs of bins
 * become one until they do, or n bins are left; with fewer the range is the full one.
 *
 * D needs of each run two sums only, so the search costs n logarithms for each i. */
#include <math.h>

#include "core/parallel.h"
#include "qat/histogram.h"
#include "qat/observer.h"

enum { HALF = HISTOGRAM_BINS / 2, VALUES_PER_BIN = 4 };

typedef struct KlConfig {
    double decay;
} KlConfig;

static const Field fields[] = {
    FIELD_FLOAT(KlConfig, decay, "0.99", 0, 1,
                "of earlier batches' counts, kept at each batch; activations only"),
    FIELD_END,
};

/* Counts on one side of 0, outwards. */
typedef struct Side {
    double counts[HALF];
    int used; /* bins up to the last that is not empty */
} Side;

typedef struct Sides {
    Side below, above;
    double width; /* of a bin */
} Sides;

/* Sums over the bins from the lowest used one: element i is of those before i. */
typedef struct Sums {
    double count[HISTOGRAM_BINS + 1], entropy[HISTOGRAM_BINS + 1]; /* c, c log c */
    int filled[HISTOGRAM_BINS + 1];
    int below, bins, levels; /* bins below 0, and in all; n */
} Sums;

static double log_weighted(double count) {
    return count > 0 ? count * log(count) : 0;
}

static double total_of(const Side *side) {
    double total = 0;
    for (int i = 0; i < side->used; i++) total += side->counts[i];
    return total;
}

static void find_used(Side *side) {
    side->used = HALF;
    while (side->used > 0 && side->counts[side->used - 1] == 0) side->used--;
}

static void merge_pairs(Side *side) {
    for (int i = 0; i < HALF; i++)
        side->counts[i] = 2 * i + 1 < HALF ? side->counts[2 * i] + side->counts[2 * i + 1] : 0;
    find_used(side);
}

static bool is_sparse(const Sides *sides, int levels) {
    const Side *below = &sides->below, *above = &sides->above;
    int bins = below->used + above->used;
    return bins > levels && total_of(below) + total_of(above) < VALUES_PER_BIN * bins;
}

static void sides_of(const float *counts, double limit, int levels, bool is_affine, Sides *out) {
    Side *below = &out->below, *above = &out->above;
    for (int i = 0; i < HALF; i++) {
        below->counts[i] = (double)counts[HALF - 1 - i];
        above->counts[i] = (double)counts[HALF + i];
        if (is_affine) continue;
        above->counts[i] += below->counts[i];
        below->counts[i] = 0;
    }
    below->counts[0] = below->counts[1];
    above->counts[0] = above->counts[1];
    find_used(below);
    find_used(above);
    out->width = limit / HALF;
    while (is_sparse(out, levels)) {
        merge_pairs(below);
        merge_pairs(above);
        out->width *= 2;
    }
}

static void sums_of(const Sides *sides, int levels, Sums *out) {
    out->below = sides->below.used;
    out->bins = sides->below.used + sides->above.used;
    out->levels = levels;
    out->count[0] = out->entropy[0] = out->filled[0] = 0;
    for (int i = 0; i < out->bins; i++) {
        double count = i < out->below ? sides->below.counts[out->below - 1 - i]
                                      : sides->above.counts[i - out->below];
        out->count[i + 1] = out->count[i] + count;
        out->entropy[i + 1] = out->entropy[i] + log_weighted(count);
        out->filled[i + 1] = out->filled[i] + (count > 0);
    }
}

/* The first of `kept` bins. */
static int first_of(const Sums *s, int kept) {
    return s->below - (int)(((int64_t)kept * s->below * 2 + s->bins) / (2 * (int64_t)s->bins));
}

static double divergence(const Sums *s, int kept) {
    int first = first_of(s, kept), end = first + kept, last = end - 1;
    double under = s->count[first], over = s->count[s->bins] - s->count[end];
    double inner = s->count[end] - s->count[first];
    double at_first = s->count[first + 1] - s->count[first];
    double at_last = s->count[end] - s->count[last];
    double sum = s->entropy[last] - s->entropy[first + 1] + log_weighted(at_first + under) +
                 log_weighted(at_last + over);
    for (int l = 0; l < s->levels; l++) {
        int from = first + (int)((int64_t)l * kept / s->levels);
        int to = first + (int)((int64_t)(l + 1) * kept / s->levels);
        double count = s->count[to] - s->count[from], p = count;
        int filled = s->filled[to] - s->filled[from];
        if (from == first) {
            p += under;
            filled += at_first == 0 && under > 0;
        }
        if (to == end) {
            p += over;
            filled += at_last == 0 && over > 0;
        }
        if (p == 0) continue;
        if (count == 0) return INFINITY;
        sum -= p * log(count / filled);
    }
    double total = s->count[s->bins];
    return sum / total - log(total) + log(inner);
}

/* How many bins to keep; at least `levels` are there. */
static int search(const Sums *s) {
    double found[HISTOGRAM_BINS + 1];
    if (parallel_is_active()) { /* one of many searches that run side by side */
        for (int i = s->levels; i <= s->bins; i++) found[i] = divergence(s, i);
    } else {
#pragma omp parallel for schedule(dynamic, 16)
        for (int i = s->levels; i <= s->bins; i++) found[i] = divergence(s, i);
    }
    int best = s->bins;
    for (int i = s->bins; i >= s->levels; i--)
        if (found[i] < found[best]) best = i;
    return best;
}

/* `counts` as a Histogram has them, up to `limit` on both sides; values lie in `full`. */
static Range range_of(const float *counts, double limit, Range full, Grid grid, bool is_affine) {
    Sides sides;
    Sums sums;
    int levels = grid_high(grid) + 1;
    sides_of(counts, limit, levels, is_affine, &sides);
    sums_of(&sides, levels, &sums);
    if (sums.bins < sums.levels) return full;
    int kept = search(&sums);
    int below = sums.below - first_of(&sums, kept), above = kept - below;
    float low = below ? (float)(-(below + 0.5) * sides.width) : 0;
    float high = above ? (float)((above + 0.5) * sides.width) : 0;
    if (!is_affine) return (Range){0, fminf(high, fmaxf(-full.low, full.high))};
    return (Range){fmaxf(low, full.low), fminf(high, full.high)};
}

static bool attach(Quant *q, Error *err) {
    (void)err;
    if (!q->is_weight) histogram_new(q);
    return true;
}

static void fit(Quant *q, int64_t scale, const float *x, int64_t count) {
    Range full = observer_range(x, count);
    double limit = (double)fmaxf(-full.low, full.high);
    float counts[HISTOGRAM_BINS] = {0};
    for (int64_t i = 0; i < count && observer_range_is_usable(full); i++) {
        if (isnan(x[i])) continue;
        int bin = (int)floor((double)x[i] / limit * HALF) + HALF;
        counts[bin < HISTOGRAM_BINS ? bin : HISTOGRAM_BINS - 1]++;
    }
    quant_set_range(q, scale, range_of(counts, limit, full, q->grid, q->offset != NULL));
}

static bool observe(Quant *q, Observed seen) {
    const KlConfig *config = q->spec.quantizer.config;
    if (q->is_weight) {
        quant_fit_each(q, seen.x, seen.count, fit);
        return true;
    }
    Histogram h = histogram_of(q);
    if (!histogram_add(h, seen, (float)config->decay, histogram_tail)) return false;
    Range full = {histogram_quantile(h, 0), histogram_quantile(h, 1)};
    quant_set_range(q, 0, range_of(h.counts, (double)*h.limit, full, q->grid, q->offset != NULL));
    return true;
}

const Quantizer quantizer_kl = {
    .kind = {.name = "kl",
             .help = "the range that keeps the distribution: least KL divergence",
             .config_bytes = sizeof(KlConfig),
             .fields = fields},
    .flags = QUANTIZER_FOR_WEIGHTS | QUANTIZER_FOR_ACTIVATIONS,
    .attach = attach,
    .observe = observe,
};
