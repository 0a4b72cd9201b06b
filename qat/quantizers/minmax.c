/* The plain range: a weight's as it is now, an activation's widest ever (PyTorch's MinMaxObserver).
 */
#include "qat/observer.h"

static bool attach(Quant *q, Error *err) {
    (void)err;
    if (!q->is_weight && q->count) running_range_new(q);
    return true;
}

static void fit(Quant *q, int64_t scale, const float *x, int64_t count) {
    quant_set_range(q, scale, observer_range(x, count));
}

static bool observe(Quant *q, Observed seen) {
    if (!q->is_weight) return running_range_observe(q, seen, 0);
    quant_fit_each(q, seen.x, seen.count, fit);
    return true;
}

const Quantizer quantizer_minmax = {
    .kind = {.name = "minmax", .help = "smallest and largest value; also gives scales per token"},
    .flags = QUANTIZER_FOR_WEIGHTS | QUANTIZER_FOR_ACTIVATIONS | QUANTIZER_FOR_TOKENS,
    .attach = attach,
    .observe = observe,
};
