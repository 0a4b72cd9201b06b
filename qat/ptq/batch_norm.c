/* Batch-norm re-estimation: running statistics as the quantized network has them (Sun et al. 2019,
 * "Hybrid 8-bit floating point training and inference for deep neural networks", among others). Of
 * what a norm reads, unfolded, u = c / f + bias where it is joined, over rows and positions:
 *     running_mean = E[u]        running_variance = n / (n - 1) (E[u u] - E[u]^2)
 * From input to output, one pass a norm.
 *
 * A joined norm's f = gamma / sigma is part of the weight that is quantized. Scales of channels and
 * groups follow it, so that levels stay, but where a weight lay halfway between two. One scale for
 * all channels cannot: such a norm's variance stays, and its mean alone is taken. So do both of a
 * channel that does not vary at all, of which nothing can be learned. */
#include <math.h>
#include <string.h>

#include "autograd/layers/batch_norm.h"
#include "qat/ptq.h"

/* A variance of so small a share of the mean square is what rounding leaves. */
static const double constant = 1e-12;

typedef struct Statistics {
    const Module *norm;
    double *sum, *square; /* [channels], of what the norm reads */
    double count;
} Statistics;

static bool visit(void *context, const PtqBatch *batch, Error *err) {
    (void)batch;
    (void)err;
    Statistics *s = context;
    const Var *x = s->norm->last_in[0];
    int64_t rows = shape_rows(x->value.shape), channels = shape_last(x->value.shape);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < channels; c++) {
            double v = (double)var_f32(x)[r * channels + c];
            s->sum[c] += v;
            s->square[c] += v * v;
        }
    s->count += (double)rows;
    return true;
}

/* The site that the norm is joined to, or NULL. */
static const WeightSite *site_of(const Qat *qat, const Module *norm) {
    for (int i = 0; i < qat->site_count; i++)
        if (qat->sites[i].norm == norm) return &qat->sites[i];
    return NULL;
}

/* Whether scales can follow a factor of each channel. */
static bool scales_follow(const WeightSite *site) {
    const Quant *q = site->quant;
    bool has_own =
        q->spec.granularity == GRANULARITY_CHANNEL || q->spec.granularity == GRANULARITY_GROUP;
    return has_own && !q->row->fake;
}

/* How many channels' statistics were left alone. */
static int64_t set_statistics(const Statistics *s, const WeightSite *site, const float *factors,
                              bool takes_variance) {
    float *mean = tensor_f32(&module_find_param(s->norm, "running_mean")->value);
    const Param *variance_param = module_find_param(s->norm, "running_variance");
    const Param *bias = site ? module_find_param(site->module, "bias") : NULL;
    float *variance = tensor_f32(&variance_param->value);
    int64_t channels = tensor_count(&variance_param->value), kept = 0;
    for (int64_t c = 0; c < channels; c++) {
        double f = site ? (double)factors[c] : 1, m = s->sum[c] / s->count;
        double square = s->square[c] / s->count;
        double v = (square - m * m) * s->count / (s->count - 1) / (f * f);
        float own = 0;
        if (bias) tensor_decode_part(&bias->value, c, 1, &own);
        if (!(square - m * m > constant * square)) {
            kept++;
            continue;
        }
        mean[c] = (float)(m / f + (double)own);
        if (takes_variance) variance[c] = (float)v;
    }
    return kept;
}

static int64_t levels_changed(const Tensor *before, const Tensor *after) {
    int64_t changed = 0;
    for (int64_t i = 0, count = tensor_count(before); i < count; i++)
        changed += tensor_f32(before)[i] != tensor_f32(after)[i];
    return changed;
}

/* Statistics of a joined norm, and scales that follow. */
static bool settle_joined(Ptq *p, const Statistics *s, const WeightSite *site, Error *err) {
    int64_t channels = ptq_channels(site);
    float *before = arena_new_array(p->scratch, float, channels);
    float *after = arena_new_array(p->scratch, float, channels);
    bool follows = scales_follow(site);
    Tensor levels = ptq_levels(site, p->scratch);
    batch_norm_factors(s->norm, before);
    int64_t kept = set_statistics(s, site, before, follows);
    batch_norm_factors(s->norm, after);
    for (int64_t c = 0; c < channels; c++) after[c] /= before[c];
    if (follows) TRY(quant_scale_rows(site->quant, after, err));
    Tensor now = ptq_levels(site, p->scratch);
    ptq_note(p, s->norm->name, "levels_changed", (double)levels_changed(&levels, &now));
    ptq_note(p, s->norm->name, "channels_kept", (double)kept);
    if (!follows)
        ptq_skip(p, s->norm->name, "its variance stays, since the channels of %s share a scale",
                 site->name);
    return true;
}

static bool settle(Ptq *p, const Statistics *s, Error *err) {
    const WeightSite *site = site_of(p->qat, s->norm);
    if (s->count < 2) {
        ptq_skip(p, s->norm->name, "one value a channel has no variance");
        return true;
    }
    if (site) return settle_joined(p, s, site, err);
    ptq_note(p, s->norm->name, "channels_kept", (double)set_statistics(s, NULL, NULL, true));
    return true;
}

typedef struct Norms {
    Module **items;
    int count;
} Norms;

static bool collect(void *context, Module *module) {
    Norms *norms = context;
    if (module->layer->flags & LAYER_FOLDS) norms->items[norms->count++] = module;
    return true;
}

static bool apply(Ptq *p, const void *config, Error *err) {
    (void)config;
    Model *model = p->qat->model;
    Norms norms = {.items = arena_new_array(p->scratch, Module *, model->module_count)};
    model_visit(model, collect, &norms);
    if (!norms.count) ptq_skip(p, "network", "it has no batch norm");
    for (int i = 0; i < norms.count; i++) {
        ArenaMark mark = arena_mark(p->scratch);
        Statistics s = {.norm = norms.items[i]};
        int64_t channels = shape_last(module_find_param(s.norm, "gamma")->value.shape);
        s.sum = arena_new_array(p->scratch, double, channels);
        s.square = arena_new_array(p->scratch, double, channels);
        TRY(ptq_stream(p, PTQ_QUANTIZED, visit, &s, err) && settle(p, &s, err));
        arena_rewind(p->scratch, mark);
    }
    return true;
}

const PtqMethod ptq_method_batch_norm = {
    .kind = {.name = "batch_norm",
             .help = "running statistics of batch norms anew, as the quantized network has them"},
    .apply = apply,
};
