/* GPTQ (Frantar et al. 2022): layer by layer, from the input to the output, levels of least loss in
 * the layer's own output, by what the layer's inputs say (qat/ptq/gptq_solve.h). A convolution is
 * the matrix that its pixels meet; each of its groups is a matrix of its own. */
#include <math.h>

#include "core/log.h"
#include "qat/ptq.h"
#include "qat/ptq/gptq_solve.h"
#include "qat/ptq/hessian.h"

enum { INPUTS_QUANTIZED, INPUTS_EXACT };

typedef struct GptqConfig {
    int64_t block, memory;
    double damping;
    bool act_order, static_groups;
    int inputs;
} GptqConfig;

static const char *const inputs_choices[] = {"quantized", "exact", NULL};
static const Field fields[] = {
    FIELD_FLOAT(GptqConfig, damping, "0.01", 0, 1,
                "of the Hessian's mean diagonal, added to it; ten times that where it must be"),
    FIELD_BOOL(GptqConfig, act_order, "true", "columns of large inputs first"),
    FIELD_BOOL(GptqConfig, static_groups, "false",
               "groups' scales of the weights as they were; always so with act_order"),
    FIELD_CHOICE(GptqConfig, inputs, "quantized", inputs_choices,
                 "a layer's, from the network with the layers before it quantized, or exact"),
    FIELD_INT(GptqConfig, block, "128", 1, 65536, "columns that are corrected at once"),
    FIELD_INT(GptqConfig, memory, "4096", 1, 1 << 24, "MiB that a layer may take"),
    FIELD_END,
};

/* The layer at work. */
typedef struct Work {
    Ptq *ptq;
    const GptqConfig *config;
    const WeightSite *site;
    Arena *arena;
    bool is_met; /* a product with the weight: */
    ConvGeometry geometry;
    Hessian hessian;
    int64_t columns_seen;
} Work;

/* What all groups of it come to. */
typedef struct Result {
    double error, nearest, energy, damping;
    int64_t dead;
} Result;

/* ---- Inputs ---- */

static const Var *find_product(const Work *layer, const Tape *t) {
    for (int i = 0; i < t->count; i++) {
        const Var *v = t->vars[i];
        if (v->op && v->op->geometry && v->in[1] == layer->site->weight->read) return v;
    }
    return NULL;
}

static int64_t run_of(const WeightSite *site) {
    int64_t row, run;
    quant_geometry(&site->quant->spec, site->weight->value.shape, &row, &run);
    int64_t columns = tensor_count(&site->weight->value) / ptq_channels(site);
    return run < columns ? run : columns;
}

static bool begin(Work *layer, const ConvGeometry *geometry, Error *err) {
    const WeightSite *site = layer->site;
    int64_t columns = tensor_count(&site->weight->value) / ptq_channels(site);
    int64_t rows = ptq_channels(site) / geometry->groups;
    int64_t bytes = hessian_bytes(geometry) +
                    gptq_solve_bytes(rows, columns, run_of(site), layer->config->block);
    if (bytes > layer->config->memory << 20)
        return FAIL(err, ERROR_INPUT,
                    "layer '%s' has %ld inputs, for which GPTQ takes %ld bytes: raise its memory, "
                    "now %ld MiB",
                    site->name, (long)columns, (long)bytes, (long)layer->config->memory);
    layer->is_met = true;
    layer->hessian = hessian_new(geometry, layer->arena);
    return true;
}

static bool add_batch(void *context, const PtqBatch *batch, Error *err) {
    Work *layer = context;
    bool is_exact = layer->config->inputs == INPUTS_EXACT;
    const Var *product = find_product(layer, is_exact ? layer->ptq->exact : layer->ptq->quantized);
    if (!product) return true;
    layer->geometry = product->op->geometry(product);
    if (!layer->is_met) TRY(begin(layer, &layer->geometry, err));
    const Tensor *input = &product->in[0]->value;
    ArenaMark mark = arena_mark(layer->arena);
    float *values = arena_new_array(layer->arena, float, tensor_count(input));
    tensor_decode(input, values);
    hessian_add(&layer->hessian, &layer->geometry, values, batch->rows);
    layer->columns_seen += layer->geometry.batch * layer->geometry.out_h * layer->geometry.out_w;
    arena_rewind(layer->arena, mark);
    return true;
}

static bool has_seen(const Hessian *h) {
    for (int64_t i = 0; i < h->groups * h->size; i++)
        if (h->sum[i / h->size * h->size * h->size + i % h->size * (h->size + 1)] != 0) return true;
    return false;
}

/* ---- Levels ---- */

static void fit(void *context, const float *x, int64_t rows, int64_t length, float *scale,
                float *offset) {
    quant_fit_runs(context, x, rows, length, scale, offset);
}

static void add_result(Result *all, const GptqSolution *one) {
    all->error += one->error;
    all->nearest += one->nearest;
    all->energy += one->energy;
    all->damping = fmax(all->damping, one->damping);
    all->dead += one->dead;
}

/* A scale of the whole weight is the quantizer's as it stands. */
static void copy_scale(const Quant *q, int64_t rows, const GptqSolution *s, Arena *arena) {
    const Scales *scales = quant_freeze(q, arena);
    for (int64_t i = 0; i < rows; i++) {
        s->scale[i] = scales->scale[0];
        if (s->offset) s->offset[i] = tensor_f32(&q->offset->value)[0];
    }
}

/* Group by group: rows of the weight under one matrix. */
static bool solve(const Work *layer, const float *weight, const GptqSolution *whole, Result *all,
                  Error *err) {
    const WeightSite *site = layer->site;
    const Hessian *h = &layer->hessian;
    const GptqConfig *config = layer->config;
    bool is_whole = site->quant->spec.granularity == GRANULARITY_TENSOR;
    int64_t rows = ptq_channels(site) / h->groups, run = run_of(site);
    int64_t runs = (h->size + run - 1) / run;
    for (int64_t group = 0; group < h->groups; group++) {
        int64_t row = group * rows;
        GptqProblem problem = {.rows = rows,
                               .columns = h->size,
                               .weight = weight + row * h->size,
                               .hessian = h->sum + group * h->size * h->size,
                               .grid = site->quant->grid,
                               .scale_dtype = site->quant->spec.scale_dtype,
                               .run = run,
                               .fit = is_whole ? NULL : fit,
                               .context = site->quant,
                               .settings = {.block = config->block,
                                            .damping = config->damping,
                                            .act_order = config->act_order,
                                            .static_groups = config->static_groups}};
        GptqSolution s = {.values = whole->values + row * h->size,
                          .scale = whole->scale + row * runs,
                          .offset = whole->offset ? whole->offset + row * runs : NULL};
        if (is_whole) copy_scale(site->quant, rows, &s, layer->arena);
        TRY(gptq_solve(&problem, &s, layer->arena, err));
        add_result(all, &s);
    }
    if (is_whole) return true;
    return quant_set_scales(site->quant, whole->scale, whole->offset, err);
}

static bool choose_levels(const Work *layer, Result *result, Error *err) {
    const WeightSite *site = layer->site;
    Arena *arena = layer->arena;
    int64_t count = tensor_count(&site->weight->value), channels = ptq_channels(site);
    int64_t runs = channels * ((count / channels + run_of(site) - 1) / run_of(site));
    float *weight = arena_new_array(arena, float, count);
    ptq_weight(site, weight);
    GptqSolution whole = {.values = arena_new_array(arena, float, count),
                          .scale = arena_new_array(arena, float, runs)};
    if (site->quant->offset) whole.offset = arena_new_array(arena, float, runs);
    TRY(solve(layer, weight, &whole, result, err));
    quantize_levels(whole.values, quant_freeze(site->quant, arena), 0, count, whole.values);
    ptq_set_levels(site, whole.values);
    return true;
}

/* ---- Reports ---- */

static void report(const Work *layer, const Result *r) {
    const char *name = layer->site->name;
    double energy = r->energy > 0 ? r->energy : 1,
           ratio = r->nearest > 0 ? r->error / r->nearest : 1;
    log_info("%-24s output error %.2e, rounded to nearest %.2e (%.2f times), %ld inputs", name,
             r->error / energy, r->nearest / energy, ratio, (long)layer->hessian.size);
    if (r->damping != layer->config->damping)
        log_warning("%s: the Hessian has no Cholesky factor until %g of its mean diagonal is added",
                    name, r->damping);
    if (layer->columns_seen < layer->hessian.size)
        log_warning(
            "%s: %ld inputs, but calibration shows each %ld times, fewer than there are: raise "
            "calibration.rows",
            name, (long)layer->hessian.size, (long)layer->columns_seen);
    ptq_note(layer->ptq, name, "inputs", (double)layer->hessian.size);
    ptq_note(layer->ptq, name, "output_error", r->error / energy);
    ptq_note(layer->ptq, name, "output_error_nearest", r->nearest / energy);
    ptq_note(layer->ptq, name, "error_ratio", ratio);
    ptq_note(layer->ptq, name, "damping", r->damping);
    ptq_note(layer->ptq, name, "dead_inputs", (double)r->dead);
}

/* Of layers wide enough that a ratio says something. */
enum { WIDE = 64 };
typedef struct Ratios {
    double log_sum;
    int count;
} Ratios;

static void add_ratio(Ratios *ratios, const Work *layer, const Result *r) {
    if (layer->hessian.size < WIDE || !(r->nearest > 0 && r->error > 0)) return;
    ratios->log_sum += log(r->error / r->nearest);
    ratios->count++;
}

/* ---- The method ---- */

static bool quantize_layer(Work *layer, Ratios *ratios, Error *err) {
    unsigned network = layer->config->inputs == INPUTS_EXACT ? PTQ_EXACT : PTQ_QUANTIZED;
    const char *name = layer->site->name;
    TRY(ptq_stream(layer->ptq, network, add_batch, layer, err));
    if (!layer->is_met) {
        ptq_skip(layer->ptq, name, "no product of the network reads its weight");
        return true;
    }
    hessian_finish(&layer->hessian);
    if (!has_seen(&layer->hessian)) {
        ptq_skip(layer->ptq, name, "its input is 0 in all %ld rows of calibration data",
                 (long)layer->ptq->data.row_count);
        return true;
    }
    Result result = {0};
    if (!choose_levels(layer, &result, err)) {
        error_prefix(err, "%s", name);
        return false;
    }
    report(layer, &result);
    add_ratio(ratios, layer, &result);
    return true;
}

static bool apply(Ptq *p, const void *config, Error *err) {
    Ratios ratios = {0};
    for (int i = 0; i < p->qat->site_count; i++) {
        const WeightSite *site = &p->qat->sites[i];
        if (!site->quant) continue;
        if (!ptq_takes_levels(site)) {
            ptq_skip(p, site->name, "quantizer '%s' rounds a function of the weight",
                     site->quant->row->kind.name);
            continue;
        }
        Work layer = {.ptq = p, .config = config, .site = site, .arena = arena_new("GPTQ")};
        bool ok = quantize_layer(&layer, &ratios, err);
        arena_free(layer.arena);
        TRY(ok);
    }
    if (!ratios.count) return true;
    double mean = exp(ratios.log_sum / ratios.count);
    log_info("output error of the %d layers of at least %d inputs: %.3f times that of rounding to "
             "nearest (geometric mean)",
             ratios.count, WIDE, mean);
    ptq_note(p, NULL, "error_ratio", mean);
    return true;
}

const PtqMethod ptq_method_gptq = {
    .kind = {.name = "gptq",
             .help = "levels of least loss in each layer's output (Frantar et al. 2022)",
             .config_bytes = sizeof(GptqConfig),
             .fields = fields},
    .apply = apply,
};
