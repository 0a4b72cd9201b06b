/* Moving averages of the batches' extremes (Jacob et al. 2018, section 3.1; PyTorch's
 * MovingAverageMinMaxObserver with averaging constant 1 - decay). A weight needs no average: its
 * range is taken as it is now. */
#include "qat/observer.h"

typedef struct EmaConfig {
    double decay;
} EmaConfig;

static const Field fields[] = {
    FIELD_FLOAT(EmaConfig, decay, "0.99", 0, 0.999999,
                "of the range so far, kept at each batch; activations only"),
    FIELD_END,
};

static bool attach(Quant *q, Error *err) {
    (void)err;
    if (!q->is_weight) running_range_new(q);
    return true;
}

static bool observe(Quant *q, Observed seen) {
    const EmaConfig *config = q->spec.quantizer.config;
    if (q->is_weight) return quantizer_minmax.observe(q, seen);
    return running_range_observe(q, seen, (float)(1 - config->decay));
}

const Quantizer quantizer_ema = {
    .kind = {.name = "ema",
             .help = "moving averages of the smallest and largest value of each batch",
             .config_bytes = sizeof(EmaConfig),
             .fields = fields},
    .flags = QUANTIZER_FOR_WEIGHTS | QUANTIZER_FOR_ACTIVATIONS,
    .attach = attach,
    .observe = observe,
};
