/* Bias correction (Nagel et al. 2019, "Data-free quantization through weight equalization and bias
 * correction", in its empirical form). Quantization moves the mean of a layer's outputs; the bias
 * takes that back, channel by channel:
 *     b += E[y] - E[y^]
 * y of the exact network, y^ of the quantized one, over rows and positions, behind the joined norm.
 * From input to output, so that each layer's correction sees those before it: one pass of the exact
 * network in all, and one of the quantized one a layer. */
#include <math.h>

#include "qat/ptq.h"

/* Means of outputs, of one site or of all; in sums until the pass is over. */
typedef struct Means {
    const Qat *qat;
    double **sums; /* [sites][channels] */
    double *counts;
    int only; /* this site alone of the quantized network; -1: all of the exact one */
} Means;

static void add(Means *m, int site, const Var *output) {
    ptq_add_channel_sums(output, m->sums[site]);
    m->counts[site] += (double)shape_rows(output->value.shape);
}

static bool visit(void *context, const PtqBatch *batch, Error *err) {
    (void)err;
    Means *m = context;
    for (int i = 0; m->only < 0 && i < m->qat->site_count; i++)
        if (m->sums[i]) add(m, i, batch->exact[i].output);
    if (m->only >= 0) add(m, m->only, batch->quantized[m->only].output);
    return true;
}

static bool is_corrected(const WeightSite *site) {
    return site->quant && ptq_has_bias(site);
}

static Means means_new(const Ptq *p, int only) {
    int sites = p->qat->site_count;
    Means m = {.qat = p->qat, .only = only};
    m.sums = arena_new_array(p->scratch, double *, sites);
    m.counts = arena_new_array(p->scratch, double, sites);
    for (int i = 0; i < sites; i++) {
        const WeightSite *site = &p->qat->sites[i];
        if (is_corrected(site) && (only < 0 || only == i))
            m.sums[i] = arena_new_array(p->scratch, double, ptq_channels(site));
    }
    return m;
}

static bool correct(Ptq *p, int index, const Means *exact, Error *err) {
    const WeightSite *site = &p->qat->sites[index];
    ArenaMark mark = arena_mark(p->scratch);
    Means now = means_new(p, index);
    TRY(ptq_stream(p, PTQ_QUANTIZED, visit, &now, err));
    int64_t channels = ptq_channels(site);
    float *correction = arena_new_array(p->scratch, float, channels);
    double largest = 0;
    for (int64_t c = 0; c < channels; c++) {
        double shift =
            exact->sums[index][c] / exact->counts[index] - now.sums[index][c] / now.counts[index];
        correction[c] = (float)shift;
        largest = fmax(largest, fabs(shift));
    }
    ptq_add_bias(site, correction);
    ptq_note(p, site->name, "largest_correction", largest);
    arena_rewind(p->scratch, mark);
    return true;
}

static bool apply(Ptq *p, const void *config, Error *err) {
    (void)config;
    Means exact = means_new(p, -1);
    TRY(ptq_stream(p, PTQ_EXACT, visit, &exact, err));
    for (int i = 0; i < p->qat->site_count; i++) {
        const WeightSite *site = &p->qat->sites[i];
        if (is_corrected(site))
            TRY(correct(p, i, &exact, err));
        else if (site->quant)
            ptq_skip(p, site->name, "it has no bias that could take a correction");
    }
    return true;
}

const PtqMethod ptq_method_bias_correct = {
    .kind = {.name = "bias_correct",
             .help =
                 "takes from each bias what quantization adds to the mean of a layer's outputs"},
    .apply = apply,
};
