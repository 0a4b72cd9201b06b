/* The range, among fractions of the full one, whose quantization has the least squared error. Exact
 * for weights; for activations over a histogram of the batches so far. */
#include "qat/histogram.h"
#include "qat/observer.h"

typedef struct MseConfig {
    int64_t candidates;
    double decay;
} MseConfig;

static const Field fields[] = {
    FIELD_INT(MseConfig, candidates, "40", 2, RANGE_CANDIDATES_MAX,
              "ranges tried, from the full one down to a fifth of it"),
    FIELD_FLOAT(MseConfig, decay, "0.99", 0, 1,
                "of earlier batches' counts, kept at each batch; activations only"),
    FIELD_END,
};

static bool attach(Quant *q, Error *err) {
    (void)err;
    if (!q->is_weight) histogram_new(q);
    return true;
}

static void fit(Quant *q, int64_t scale, const float *x, int64_t count) {
    const MseConfig *config = q->spec.quantizer.config;
    RangeData data = {.x = x, .count = count};
    quant_set_range(q, scale,
                    range_search(data, observer_range(x, count), q->grid, q->offset != NULL,
                                 q->spec.scale_dtype, (int)config->candidates));
}

static bool observe(Quant *q, Observed seen) {
    const MseConfig *config = q->spec.quantizer.config;
    if (q->is_weight) {
        quant_fit_each(q, seen.x, seen.count, fit);
        return true;
    }
    Histogram h = histogram_of(q);
    if (!histogram_add(h, seen, (float)config->decay, histogram_tail)) return false;
    quant_set_range(q, 0,
                    histogram_search(h, q->grid, q->offset != NULL, q->spec.scale_dtype,
                                     (int)config->candidates));
    return true;
}

const Quantizer quantizer_mse = {
    .kind = {.name = "mse",
             .help = "the range with the least squared error",
             .config_bytes = sizeof(MseConfig),
             .fields = fields},
    .flags = QUANTIZER_FOR_WEIGHTS | QUANTIZER_FOR_ACTIVATIONS,
    .attach = attach,
    .observe = observe,
};
