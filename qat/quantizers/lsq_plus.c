/* LSQ+ (Bhalgat et al. 2020, "LSQ+: Improving low-bit quantization through learnable offsets and
 * better initialization"). The step learns as in LSQ; an affine one has an offset that learns too,
 *     x^ = s clamp(round((x - offset) / s), 0, 2^b - 1) + offset
 *     d x^ / d offset = 1 outside the range, 0 within
 * (with the offset rounded to whole steps, so that 0 stays a level). Weights start at
 *     s = max(|mean - 3 deviation|, |mean + 3 deviation|) / 2^(b-1)
 * activations and affine weights at the range with the least squared error over the first batch. */
#include <math.h>

#include "qat/histogram.h"
#include "qat/observer.h"

enum { CANDIDATES = 40 };

static bool attach(Quant *q, Error *err) {
    (void)err;
    int64_t row_length, run_length;
    quant_geometry(&q->spec, q->shape, &row_length, &run_length);
    q->grad_scale = (float)(1 / sqrt((double)run_length * grid_high(q->grid)));
    return true;
}

static void fit_weight(Quant *q, int64_t scale, const float *x, int64_t count) {
    if (q->offset) {
        RangeData data = {.x = x, .count = count};
        quant_set_range(q, scale,
                        range_search(data, observer_range(x, count), q->grid, true,
                                     q->spec.scale_dtype, CANDIDATES));
        return;
    }
    Moments m = observer_moments(x, count);
    double reach = fmax(fabs(m.mean - 3 * m.deviation), fabs(m.mean + 3 * m.deviation));
    float step = (float)(reach / -grid_low(q->grid));
    tensor_f32(&q->scale->value)[scale] = fake_quant_stored_scale(DTYPE_F32, step);
}

static bool fit_activation(Quant *q, Observed seen) {
    float counts[HISTOGRAM_BINS] = {0}, limit = 0;
    uint32_t found[HISTOGRAM_BINS];
    Probe probe = {.counts = found};
    Histogram h = {counts, &limit, &probe};
    seen.is_seen = false; /* of that probe */
    if (!histogram_add(h, seen, 1, histogram_tail)) return false;
    quant_set_range(
        q, 0, histogram_search(h, q->grid, q->offset != NULL, q->spec.scale_dtype, CANDIDATES));
    return true;
}

static bool observe(Quant *q, Observed seen) {
    if (!q->is_weight) return fit_activation(q, seen);
    if (!observer_range_is_usable(observer_range(seen.x, seen.count))) return false;
    quant_fit_each(q, seen.x, seen.count, fit_weight);
    return true;
}

const Quantizer quantizer_lsq_plus = {
    .kind = {.name = "lsq_plus", .help = "learned step size; where affine, learned offset too"},
    .flags = QUANTIZER_FOR_WEIGHTS | QUANTIZER_FOR_ACTIVATIONS,
    .attach = attach,
    .observe = observe,
    .learns = true,
    .range_gradient = RANGE_LSQ,
};
