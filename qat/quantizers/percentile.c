/* A quantile of |x| (affine: of x on either side), which a few outliers do not move. Exact for
 * weights; for activations from a histogram of the batches so far. */
#include "qat/histogram.h"
#include "qat/observer.h"

typedef struct PercentileConfig {
    double quantile, decay;
} PercentileConfig;

static const Field fields[] = {
    FIELD_FLOAT(PercentileConfig, quantile, "0.999", 0.5, 1, "fraction of the values to cover"),
    FIELD_FLOAT(PercentileConfig, decay, "0.99", 0, 1,
                "of earlier batches' counts, kept at each batch; activations only"),
    FIELD_END,
};

static bool attach(Quant *q, Error *err) {
    (void)err;
    if (!q->is_weight) histogram_new(q);
    return true;
}

static void fit(Quant *q, int64_t scale, const float *x, int64_t count) {
    const PercentileConfig *config = q->spec.quantizer.config;
    double at = config->quantile;
    Range range = {0, 0};
    if (q->offset) {
        range.low = observer_quantile(x, count, 1 - at, false);
        range.high = observer_quantile(x, count, at, false);
    } else {
        range.high = observer_quantile(x, count, at, true);
    }
    quant_set_range(q, scale, range);
}

static bool observe(Quant *q, Observed seen) {
    const PercentileConfig *config = q->spec.quantizer.config;
    double at = config->quantile;
    if (q->is_weight) {
        quant_fit_each(q, seen.x, seen.count, fit);
        return true;
    }
    Histogram h = histogram_of(q);
    double beyond = (1 - at) / 4; /* well outside of what the quantile asks for */
    if (!histogram_add(h, seen, (float)config->decay, beyond)) return false;
    Range range = {0, 0};
    if (q->offset) {
        range.low = histogram_quantile(h, 1 - at);
        range.high = histogram_quantile(h, at);
    } else {
        range.high = histogram_magnitude_quantile(h, at);
    }
    quant_set_range(q, 0, range);
    return true;
}

const Quantizer quantizer_percentile = {
    .kind = {.name = "percentile",
             .help = "the range that covers a given fraction of the values",
             .config_bytes = sizeof(PercentileConfig),
             .fields = fields},
    .flags = QUANTIZER_FOR_WEIGHTS | QUANTIZER_FOR_ACTIVATIONS,
    .attach = attach,
    .observe = observe,
};
