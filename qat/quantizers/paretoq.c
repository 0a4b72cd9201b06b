/* ParetoQ (Liu et al. 2025, "ParetoQ: Scaling laws in extremely low-bit LLM quantization", arXiv
 * 2502.02631): weights on the grid that suits their bits, with a learned range alpha.
 *     1 bit         levels -1, 1 (elastic binarization, Liu et al. 2022, "BiT")
 *                   w^ = alpha sign(w), a weight of 0 below        alpha starts at mean|w|
 *                   dw = dy where |w| <= alpha                     d alpha = sum of sign(w) dy
 *     1.58, 2 bits  stretched grids (SEQ): three and four balanced levels that share 2 alpha
 * evenly, w^ = alpha (round(u n - h) + h) / n            alpha starts at max|w| u = clip(w / alpha,
 * +-0.99); n = 1.5, h = 0 of three, n = 2, h = 0.5 of four |u| < 0.99: dw = dy, d alpha = sum of dy
 * (w^ - w) / alpha; else dw = 0, d alpha = sum of dy w^ / alpha 3 to 8 bits   LSQ
 * (qat/quantizers/lsq.c); the largest magnitude starts at the highest level with 1 / sqrt(N Qp) on
 * the gradient of alpha, where N is how many share it and Qp = 2^(b-1) - 1, 1 below 3 bits.
 *
 * What is stored and trained is the s of values = s times levels: of three s = alpha / 1.5 and
 * levels -1, 0, 1, of four s = alpha / 4 and levels -3, -1, 1, 3. Its gradient is alpha / s times
 * that of alpha; divided by (alpha / s)^2, gradient descent moves alpha as if it were trained. */
#include <math.h>

#include "qat/observer.h"

/* alpha / s, where alpha is what learns; else 1. */
static double alpha_steps(const Quant *q) {
    if (q->range_gradient != RANGE_STRETCHED) return 1;
    return (grid_high(q->grid) - grid_low(q->grid) + q->grid.step) / 2.0;
}

static bool attach(Quant *q, Error *err) {
    if (q->offset)
        return FAIL(err, ERROR_INPUT, "quantizer 'paretoq' of %s is symmetric: unset affine",
                    q->name);
    int64_t row_length, run_length;
    if (q->spec.bits <= 2) q->grid = grid_odd(q->spec.bits);
    if (q->spec.bits == 1)
        q->range_gradient = RANGE_SIGN;
    else if (q->spec.bits == 2 || q->spec.bits == BITS_TERNARY)
        q->range_gradient = RANGE_STRETCHED;
    quant_geometry(&q->spec, q->shape, &row_length, &run_length);
    double most = q->spec.bits == 2 ? 1 : grid_high(q->grid), steps = alpha_steps(q);
    q->grad_scale = (float)(1 / (sqrt((double)run_length * most) * steps * steps));
    return true;
}

static void fit(Quant *q, int64_t scale, const float *x, int64_t count) {
    Range range = observer_range(x, count);
    double start = fmax(-(double)range.low, (double)range.high), steps = grid_high(q->grid);
    if (q->range_gradient == RANGE_STRETCHED) steps = alpha_steps(q);
    if (q->range_gradient == RANGE_SIGN) start = observer_moments(x, count).mean_magnitude;
    tensor_f32(&q->scale->value)[scale] =
        fake_quant_stored_scale(DTYPE_F32, (float)(start / steps));
}

static bool observe(Quant *q, Observed seen) {
    if (!observer_range_is_usable(observer_range(seen.x, seen.count))) return false;
    quant_fit_each(q, seen.x, seen.count, fit);
    return true;
}

const Quantizer quantizer_paretoq = {
    .kind = {.name = "paretoq",
             .help = "learned range on the grid that suits 1, 1.58, 2 or more bits"},
    .flags = QUANTIZER_FOR_WEIGHTS | QUANTIZER_FOR_ONE_BIT,
    .attach = attach,
    .observe = observe,
    .learns = true,
    .range_gradient = RANGE_LSQ,
};
