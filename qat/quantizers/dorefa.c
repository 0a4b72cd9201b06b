/* DoReFa-Net (Zhou et al. 2016), with quantize_k(r) = round((2^k - 1) r) / (2^k - 1):
 *     weights       2 quantize_k(tanh(w) / (2 max|tanh(w)|) + 1/2) - 1
 *     activations   quantize_k(clip(x, 0, 1))
 * A weight thus takes the odd levels -(2^k - 1), ..., -1, 1, ..., 2^k - 1 at the scale
 * 1 / (2^k - 1), an activation the levels 0 .. 2^k - 1 at the same; nothing is observed and nothing
 * learned. */
#include "qat/observer.h"

static bool attach(Quant *q, Error *err) {
    if (q->spec.granularity != GRANULARITY_TENSOR)
        return FAIL(
            err, ERROR_INPUT,
            "quantizer 'dorefa' of %s has one scale per tensor: set its granularity to tensor",
            q->name);
    if (q->spec.is_affine)
        return FAIL(err, ERROR_INPUT, "quantizer 'dorefa' of %s is symmetric: unset affine",
                    q->name);
    if (q->spec.bits == BITS_TERNARY)
        return FAIL(
            err, ERROR_INPUT,
            "quantizer 'dorefa' of %s has levels of either sign and none of 0: set its bits "
            "to 2, or use 'lsq' or 'paretoq'",
            q->name);
    if (!q->is_weight && q->spec.is_signed)
        return FAIL(err, ERROR_INPUT,
                    "quantizer 'dorefa' clips to [0, 1] but %s has negative values: put it after a "
                    "relu, or use 'lsq' there",
                    q->name);
    if (q->is_weight) q->grid = grid_odd(q->spec.bits);
    *tensor_f32(&q->scale->value) = 1 / (float)grid_high(q->grid);
    return true;
}

static Var *fake(Quant *q, Tape *t, Var *x) {
    if (q->is_weight) {
        x = op_tanh(t, x);
        x = op_max_normalize(t, x);
    }
    return quant_fake(q, t, x);
}

const Quantizer quantizer_dorefa = {
    .kind = {.name = "dorefa", .help = "tanh-normalised weights; activations clipped to [0, 1]"},
    .flags = QUANTIZER_FOR_WEIGHTS | QUANTIZER_FOR_ACTIVATIONS,
    .attach = attach,
    .fake = fake,
};
