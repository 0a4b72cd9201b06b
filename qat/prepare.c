#include "qat/prepare.h"

#include <string.h>

#include "autograd/layers/batch_norm.h"
#include "qat/search.h"

/* ---- What there is ---- */

static bool collect(void *context, Module *module) {
    Search *s = context;
    if (!module->child_count) s->modules[s->count++] = module;
    return true;
}

/* As in training, where a dropout is seen, on a batch of two, where a batch norm has a variance. */
static bool run_dry(Search *s) {
    Model *model = s->qat->model;
    Tape *t = s->tape;
    tape_begin(t, (TapeMode){.is_dry = true, .is_training = true});
    Shape batch = {.rank = model->input.rank + 1, .dim = {2}};
    memcpy(batch.dim + 1, model->input.dim, sizeof(int64_t) * (size_t)model->input.rank);
    model_forward(model, t, tape_constant(t, (Tensor){.dtype = DTYPE_F32, .shape = batch}));
    if (t->error.code != ERROR_NONE) *s->err = t->error;
    return t->error.code == ERROR_NONE;
}

static void add_site(Qat *qat, Module *module, Param *weight) {
    qat->sites[qat->site_count++] = (WeightSite){.name = param_weight_name(weight),
                                                 .module = module,
                                                 .weight = weight,
                                                 .is_only = module_weight_count(module) == 1};
}

static void find_sites(Search *s) {
    Qat *qat = s->qat;
    qat->sites = arena_new_array(qat->arena, WeightSite, qat->model->param_count);
    for (int i = 0; i < s->count; i++) {
        Module *module = s->modules[i];
        for (int j = 0; j < module->param_count; j++)
            if (module->params[j]->role == PARAM_WEIGHT) add_site(qat, module, module->params[j]);
    }
}

int search_readers(const Search *s, const Var *v) {
    int readers = 0;
    for (int i = 0; i < s->tape->count; i++)
        for (int j = 0; j < s->tape->vars[i]->in_count; j++)
            readers += s->tape->vars[i]->in[j] == v;
    return readers;
}

Module *search_sole_reader(const Search *s, const Module *module, unsigned flags) {
    if (search_readers(s, module->last_out) != 1) return NULL;
    for (int i = 0; i < s->count; i++) {
        Module *m = s->modules[i];
        if (m->last_in[0] == module->last_out && (m->layer->flags & flags) == flags) return m;
    }
    return NULL;
}

/* ---- What is quantized ---- */

QuantSpec search_spec(const TensorQuantConfig *config, const Granularity *granularities, int bits,
                      bool is_signed) {
    static const Dtype scale_dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    return (QuantSpec){.quantizer = config->quantizer,
                       .bits = bits,
                       .is_affine = config->affine,
                       .is_signed = is_signed,
                       .granularity = granularities[config->granularity],
                       .group_size = config->group_size,
                       .scale_dtype = scale_dtypes[config->scale]};
}

/* A norm folds into the weight of a layer that has no other. */
static bool quantize_weight(Search *s, WeightSite *site, int bits) {
    if (bits == BITS_FLOAT) return true;
    QuantSpec spec = search_spec(&s->qat->config.weights, qat_weight_granularities, bits, true);
    if (!quant_new(s->qat->model, site->weight->name, true, site->weight->value.shape, &spec,
                   &s->qat->phase, &site->quant, s->err))
        return error_blame(s->err, "quant.weights");
    View view = {quant_view, site->quant};
    if (site->is_only) site->norm = search_sole_reader(s, site->module, LAYER_FOLDS);
    if (site->norm) {
        batch_norm_join(site->norm, site->weight, view, &s->qat->phase.is_faking);
        quant_join(site->quant, site->norm);
    } else {
        site->weight->view = view;
    }
    return true;
}

/* Sites first .. end - 1, of one layer: its input is as wide as the most demanding weight asks. */
static bool quantize_layer(Search *s, int first, int end, int *activation_bits) {
    WeightSite *sites = s->qat->sites;
    Quant *input = NULL;
    *activation_bits = 0;
    for (int i = first; i < end; i++) {
        int weight_bits, bits;
        rules_bits(s->qat, &sites[i], &weight_bits, &bits);
        TRY(quantize_weight(s, &sites[i], weight_bits));
        if (bits > *activation_bits) *activation_bits = bits;
    }
    TRY(edges_quantize_input(s, sites[first].module, 0, *activation_bits, &input));
    for (int i = first; i < end; i++) {
        sites[i].input = input;
        sites[i].input_at = edges_place(s, sites[i].module, 0);
    }
    return true;
}

static bool quantize_all(Search *s) {
    const Qat *qat = s->qat;
    bool any = false; /* activation is quantized: a network of float activations has float adds */
    for (int first = 0, end; first < qat->site_count; first = end) {
        int bits;
        for (end = first; end < qat->site_count; end++)
            if (qat->sites[end].module != qat->sites[first].module) break;
        TRY(quantize_layer(s, first, end, &bits));
        any = any || bits != BITS_FLOAT;
    }
    return !any || residual_quantize(s);
}

bool qat_prepare(Model *model, const QatConfig *config, Arena *arena, Qat **out, Error *err) {
    Qat *qat = arena_new_array(arena, Qat, 1);
    *qat = (Qat){.model = model, .config = *config, .arena = arena};
    qat_set_evaluation(qat);
    Search s = {.qat = qat, .tape = tape_new(arena), .err = err};
    s.modules = arena_new_array(arena, Module *, model->module_count);
    model_visit(model, collect, &s);
    bool ok = run_dry(&s);
    if (ok) find_sites(&s);
    ok = ok && rules_check(qat, err) && quantize_all(&s);
    tape_free(s.tape);
    *out = qat;
    return ok;
}

/* ---- Questions ---- */

bool qat_is_active(const Qat *qat) {
    for (int i = 0; i < qat->site_count; i++)
        if (qat->sites[i].quant || qat->sites[i].input) return true;
    return false;
}

const WeightSite *qat_find_site(const Qat *qat, const Module *module) {
    for (int i = 0; i < qat->site_count; i++)
        if (qat->sites[i].module == module) return &qat->sites[i];
    return NULL;
}
