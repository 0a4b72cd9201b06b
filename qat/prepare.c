#include "qat/prepare.h"

#include <assert.h>
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "core/log.h"

/* What the search sees: a shape-only record and the modules in the order of building. */
typedef struct Search {
    Qat *qat;
    Tape *tape;
    Module **modules;
    int count;
    Error *err;
} Search;

static bool collect(void *context, Module *module) {
    Search *s = context;
    if (!module->child_count) s->modules[s->count++] = module;
    return true;
}

static Param *weight_of(const Module *module) {
    for (int i = 0; i < module->param_count; i++)
        if (module->params[i]->role == PARAM_WEIGHT) return module->params[i];
    return NULL;
}

static bool is_kind(const Module *module, const char *kind) {
    return !strcmp(module->layer->kind.name, kind);
}

static bool is_depthwise(const Param *weight) {
    Shape s = weight->value.shape;
    return s.rank == 4 && s.dim[3] == 1 && s.dim[0] > 1;
}

/* ---- Rules ---- */

static bool word_matches(const Qat *qat, const WeightSite *site, const char *word) {
    int index = (int)(site - qat->sites);
    if (!strcmp(word, "first")) return index == 0;
    if (!strcmp(word, "last")) return index == qat->site_count - 1;
    if (!strcmp(word, "depthwise"))
        return is_kind(site->module, "conv") && is_depthwise(site->weight);
    return is_kind(site->module, word) || !fnmatch(word, site->module->name, 0);
}

/* Whether one of the comma-separated words of `layers` names the site. */
static bool rule_matches(const Qat *qat, const WeightSite *site, const char *layers) {
    char word[256];
    while (*layers) {
        size_t length = strcspn(layers, ",");
        size_t skip = strspn(layers, " ");
        size_t used = length > skip ? length - skip : 0;
        while (used && layers[skip + used - 1] == ' ') used--;
        if (used < sizeof word) {
            memcpy(word, layers + skip, used);
            word[used] = 0;
            if (word_matches(qat, site, word)) return true;
        }
        layers += length + (layers[length] == ',');
    }
    return false;
}

static int first_set(int a, int b, int c) {
    int bits = bits_value(a);
    if (!bits) bits = bits_value(b);
    return bits ? bits : bits_value(c);
}

static void site_bits(const Qat *qat, const WeightSite *site, int *weight, int *activation) {
    const QatConfig *c = &qat->config;
    *weight = first_set(c->weights.bits, c->bits, 0);
    *activation = first_set(c->activations.bits, c->bits, 0);
    const QuantRule *rules = c->rules.items;
    for (int i = 0; i < c->rules.count; i++) {
        if (!rule_matches(qat, site, rules[i].layers)) continue;
        int w = first_set(rules[i].weight_bits, rules[i].bits, 0);
        int a = first_set(rules[i].activation_bits, rules[i].bits, 0);
        if (w) *weight = w;
        if (a) *activation = a;
    }
}

/* A rule that names nothing is a mistake in the config. */
static bool check_rules(const Qat *qat, Error *err) {
    const QuantRule *rules = qat->config.rules.items;
    for (int i = 0; i < qat->config.rules.count; i++) {
        bool is_used = false;
        for (int j = 0; j < qat->site_count; j++)
            is_used = is_used || rule_matches(qat, &qat->sites[j], rules[i].layers);
        if (!is_used)
            return FAIL(err, ERROR_INPUT,
                        "quant.rules.%d: no layer with weights matches '%s'; the first is '%s'", i,
                        rules[i].layers, qat->site_count ? qat->sites[0].module->name : "(none)");
    }
    return true;
}

static QuantSpec spec_of(const TensorQuantConfig *c, int bits, bool is_signed) {
    static const Dtype scale_dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    return (QuantSpec){.quantizer = c->quantizer,
                       .bits = bits,
                       .is_affine = c->affine,
                       .is_signed = is_signed,
                       .granularity = (Granularity)c->granularity,
                       .group_size = c->group_size,
                       .scale_dtype = scale_dtypes[c->scale]};
}

/* ---- Edges ---- */

static void add_reader(Qat *qat, Edge *edge, const char *name) {
    if (edge->reader_count == edge->reader_capacity) {
        edge->reader_capacity = edge->reader_capacity ? 2 * edge->reader_capacity : 4;
        const char **wider = arena_new_array(qat->arena, const char *, edge->reader_capacity);
        if (edge->reader_count)
            memcpy(wider, edge->readers, sizeof *wider * (size_t)edge->reader_count);
        edge->readers = wider;
    }
    edge->readers[edge->reader_count++] = name;
}

static Edge *edge_new(Qat *qat) {
    if (qat->edge_count == qat->edge_capacity) {
        qat->edge_capacity = qat->edge_capacity ? 2 * qat->edge_capacity : 32;
        Edge *wider = arena_new_array(qat->arena, Edge, qat->edge_capacity);
        if (qat->edge_count) memcpy(wider, qat->edges, sizeof *wider * (size_t)qat->edge_count);
        qat->edges = wider;
    }
    return &qat->edges[qat->edge_count++];
}

/* The quantizer of `bits` on the edge that carries `x`, made on first use. */
static bool edge_find(Search *s, Var *x, int bits, Edge **out) {
    Qat *qat = s->qat;
    for (int i = 0; i < qat->edge_count; i++) {
        Edge *edge = &qat->edges[i];
        if (edge->var == x && edge->quant->spec.bits == bits) {
            *out = edge;
            return true;
        }
    }
    Edge *edge = edge_new(qat);
    *edge = (Edge){.producer = x->op && *x->scope ? x->scope : "input", .var = x};
    const char *name = arena_format(qat->arena, "%s.out%d", edge->producer, bits);
    QuantSpec spec = spec_of(&qat->config.activations, bits, !var_is_nonnegative(x));
    *out = edge;
    return quant_new(qat->model, name, false, x->value.shape, &spec, &qat->phase, &edge->quant,
                     s->err);
}

/* Puts the edge's quantizer of `bits` on one input of a module. */
static bool quantize_input(Search *s, Module *module, int port, int bits, Quant **quant) {
    Edge *edge;
    if (bits == BITS_FLOAT) return true;
    if (!edge_find(s, module->last_in[port], bits, &edge)) {
        error_prefix(s->err, "input of %s", module->name);
        return false;
    }
    add_reader(s->qat, edge, module->name);
    module->inputs[port] = (View){quant_view, edge->quant};
    if (quant) *quant = edge->quant;
    return true;
}

static int count_readers(const Tape *t, const Var *v) {
    int readers = 0;
    for (int i = 0; i < t->count; i++)
        for (int j = 0; j < t->vars[i]->in_count; j++) readers += t->vars[i]->in[j] == v;
    return readers;
}

/* The batch norm that alone reads what `module` writes, or NULL. */
static Module *sole_norm(const Search *s, const Module *module) {
    for (int i = 0; i < s->count; i++) {
        Module *m = s->modules[i];
        if (is_kind(m, "batch_norm") && m->last_in[0] == module->last_out)
            return count_readers(s->tape, module->last_out) == 1 ? m : NULL;
    }
    return NULL;
}

static bool quantize_weight(Search *s, WeightSite *site, int bits) {
    if (bits == BITS_FLOAT) return true;
    QuantSpec spec = spec_of(&s->qat->config.weights, bits, true);
    TRY(quant_new(s->qat->model, site->weight->name, true, site->weight->value.shape, &spec,
                  &s->qat->phase, &site->quant, s->err));
    View view = {quant_view, site->quant};
    site->norm = sole_norm(s, site->module);
    if (site->norm)
        batch_norm_join(site->norm, site->module, view);
    else
        site->weight->view = view;
    return true;
}

/* ---- Residual adds ---- */

/* The value that an add's sum becomes for its readers: after the activation that alone reads it. */
static const Var *stream_after(const Search *s, const Module *add) {
    const Var *sum = add->last_out;
    if (count_readers(s->tape, sum) != 1) return sum;
    for (int i = 0; i < s->count; i++)
        if (s->modules[i]->last_in[0] == sum &&
            (s->modules[i]->last_out->op->flags & OP_IS_NONNEGATIVE))
            return s->modules[i]->last_out;
    return sum;
}

static bool quantize_adds(Search *s) {
    int bits = first_set(s->qat->config.residual_bits, s->qat->config.bits, 0);
    if (bits == BITS_FLOAT) return true;
    for (int i = 0; i < s->count; i++) {
        Module *add = s->modules[i];
        if (!is_kind(add, "add")) continue;
        for (int port = 0; port < 2; port++) TRY(quantize_input(s, add, port, bits, NULL));
        const Var *stream = stream_after(s, add);
        for (int j = 0; j < s->count; j++) {
            Module *reader = s->modules[j];
            bool reads = reader->last_in[0] == stream && reader->last_out != stream;
            if (reads && !reader->inputs[0].apply && !weight_of(reader) && !is_kind(reader, "add"))
                TRY(quantize_input(s, reader, 0, bits, NULL));
        }
    }
    return true;
}

/* ---- Prepare ---- */

static bool run_dry(Search *s) {
    Model *model = s->qat->model;
    Tape *t = s->tape;
    t->is_dry = true;
    t->needs_grad = false;
    tape_begin(t, false);
    Shape batch = {.rank = model->input.rank + 1, .dim = {1}};
    memcpy(batch.dim + 1, model->input.dim, sizeof(int64_t) * (size_t)model->input.rank);
    model_forward(model, t, tape_constant(t, (Tensor){.dtype = DTYPE_F32, .shape = batch}));
    if (t->error.code != ERROR_NONE) *s->err = t->error;
    return t->error.code == ERROR_NONE;
}

static void find_sites(Search *s) {
    Qat *qat = s->qat;
    qat->sites = arena_new_array(qat->arena, WeightSite, s->count);
    for (int i = 0; i < s->count; i++) {
        Param *weight = weight_of(s->modules[i]);
        if (weight)
            qat->sites[qat->site_count++] = (WeightSite){.module = s->modules[i], .weight = weight};
    }
}

static bool quantize_all(Search *s) {
    Qat *qat = s->qat;
    bool any = false;
    for (int i = 0; i < qat->site_count; i++) {
        WeightSite *site = &qat->sites[i];
        int weight_bits, activation_bits;
        site_bits(qat, site, &weight_bits, &activation_bits);
        TRY(quantize_weight(s, site, weight_bits));
        TRY(quantize_input(s, site->module, 0, activation_bits, &site->input));
        any = any || weight_bits != BITS_FLOAT || activation_bits != BITS_FLOAT;
    }
    return !any || quantize_adds(s);
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
    ok = ok && check_rules(qat, err) && quantize_all(&s);
    tape_free(s.tape);
    *out = qat;
    return ok;
}

static const char *granularity_text(const Quant *q) {
    static const char *const texts[] = {"per tensor", "per channel", "per group", "per token"};
    return texts[q->spec.granularity];
}

void qat_describe(const Qat *qat) {
    for (int i = 0; i < qat->edge_count; i++) {
        const Edge *edge = &qat->edges[i];
        const Quant *q = edge->quant;
        char readers[512] = "";
        for (int j = 0; j < edge->reader_count; j++) {
            size_t used = strlen(readers);
            snprintf(readers + used, sizeof readers - used, "%s%s", j ? ", " : "",
                     edge->readers[j]);
        }
        log_info("edge   %-28s -> %-36s %d bits %s, %s, %s", edge->producer, readers, q->spec.bits,
                 q->spec.is_signed || q->spec.is_affine ? "signed" : "unsigned", q->row->kind.name,
                 granularity_text(q));
    }
    for (int i = 0; i < qat->site_count; i++) {
        const WeightSite *site = &qat->sites[i];
        if (!site->quant) {
            log_info("weight %-28s stays float", site->weight->name);
            continue;
        }
        log_info("weight %-28s %d bits, %s, %s%s%s", site->weight->name, site->quant->spec.bits,
                 site->quant->row->kind.name, granularity_text(site->quant),
                 site->norm ? ", folds " : "", site->norm ? site->norm->name : "");
    }
}

/* Steps for a setting that is a share of the training below 1, and steps from 1 on. */
static int64_t in_steps(double setting, int64_t total) {
    return setting < 1 ? (int64_t)(setting * (double)total) : (int64_t)setting;
}

/* As in_steps, with 1 meaning never. */
static bool is_past(double setting, int64_t step, int64_t total) {
    return setting != 1 && step >= in_steps(setting, total);
}

static void freeze_norms(Qat *qat, bool is_frozen) {
    qat->is_norm_frozen = is_frozen;
    for (int i = 0; i < qat->site_count; i++)
        if (qat->sites[i].norm) batch_norm_freeze(qat->sites[i].norm, is_frozen);
}

void qat_set_step(Qat *qat, int64_t step, int64_t total) {
    qat->phase.is_faking = step >= in_steps(qat->config.start, total);
    qat->phase.is_observing = !is_past(qat->config.freeze_observers, step, total);
    bool is_frozen = is_past(qat->config.freeze_batch_norm, step, total);
    if (is_frozen != qat->is_norm_frozen) freeze_norms(qat, is_frozen);
}

void qat_set_evaluation(Qat *qat) {
    qat->phase = (QuantPhase){.is_faking = true, .is_observing = false};
}

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
