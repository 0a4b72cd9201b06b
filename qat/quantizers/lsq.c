/* Learned step size (Esser et al. 2020, "Learned Step Size Quantization"). With the levels Qn .. Qp
 *     v^          = s clamp(round(v / s), Qn, Qp)
 *     d v^ / d s  = round(v / s) - v / s in the range, the clamped level outside
 *     d v^ / d v  = 1 in the range, 0 outside
 * s starts at
 *     2 mean|v| / sqrt(Qp)
 * and its gradient is multiplied by
 *     1 / sqrt(N Qp)
 * where N is, for weights, how many share the scale (per tensor: all, as in the paper) and, for
 * activations, how many features the layer has: the elements of one sample, without the batch. */
#include <math.h>

#include "qat/observer.h"

static bool attach(Quant *q, Error *err) {
    if (q->offset)
        return FAIL(err, ERROR_INPUT,
                    "quantizer 'lsq' of %s learns no offset: use 'lsq_plus', or symmetric",
                    q->name);
    int64_t row_length, run_length;
    quant_geometry(&q->spec, q->shape, &row_length, &run_length);
    q->grad_scale = (float)(1 / sqrt((double)run_length * grid_high(q->grid)));
    return true;
}

static void fit(Quant *q, int64_t scale, const float *x, int64_t count) {
    double step = 2 * observer_moments(x, count).mean_magnitude / sqrt(grid_high(q->grid));
    tensor_f32(&q->scale->value)[scale] = fake_quant_stored_scale(DTYPE_F32, (float)step);
}

static bool observe(Quant *q, Observed seen) {
    if (!observer_range_is_usable(observer_range(seen.x, seen.count))) return false;
    quant_fit_each(q, seen.x, seen.count, fit);
    return true;
}

const Quantizer quantizer_lsq = {
    .kind = {.name = "lsq", .help = "learned step size, symmetric"},
    .flags = QUANTIZER_FOR_WEIGHTS | QUANTIZER_FOR_ACTIVATIONS,
    .attach = attach,
    .observe = observe,
    .learns = true,
    .range_gradient = RANGE_LSQ,
};
