#include "qat/prepare.h"

#include <assert.h>
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "autograd/layers.h"
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

/* One group per input channel; a convolution that reads a single channel is an ordinary one. */
static bool is_depthwise(const Module *module) {
    if (!is_kind(module, "conv")) return false;
    const ConvConfig *c = module->config;
    int64_t channels = shape_last(module->last_in[0]->value.shape);
    return channels > 1 && (c->depthwise || c->groups == channels);
}

/* ---- Rules ---- */

enum { WORD_BYTES = 256 };

static bool word_matches(const Qat *qat, const WeightSite *site, const char *word) {
    int index = (int)(site - qat->sites);
    if (!strcmp(word, "first")) return index == 0;
    if (!strcmp(word, "last")) return index == qat->site_count - 1;
    if (!strcmp(word, "depthwise")) return is_depthwise(site->module);
    return is_kind(site->module, word) || !fnmatch(word, site->module->name, 0);
}

/* The next of the comma-separated words at *rest, without the spaces around it, cut to what fits;
 * false past the last. */
static bool next_word(const char **rest, char word[WORD_BYTES]) {
    const char *from = *rest + strspn(*rest, " ,");
    size_t length = strcspn(from, ",");
    *rest = from + length;
    while (length && from[length - 1] == ' ') length--;
    snprintf(word, WORD_BYTES, "%.*s", (int)length, from);
    return length > 0;
}

static bool rule_matches(const Qat *qat, const WeightSite *site, const char *layers) {
    char word[WORD_BYTES];
    while (next_word(&layers, word))
        if (word_matches(qat, site, word)) return true;
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

static bool word_is_used(const Qat *qat, const char *word) {
    for (int i = 0; i < qat->site_count; i++)
        if (word_matches(qat, &qat->sites[i], word)) return true;
    return false;
}

static bool fail_word(const Qat *qat, int rule, const char *word, Error *err) {
    const char **names = arena_new_array(qat->arena, const char *, qat->site_count);
    for (int i = 0; i < qat->site_count; i++) names[i] = qat->sites[i].module->name;
    const char *near = nearest_name(word, names, qat->site_count);
    if (near)
        return FAIL(err, ERROR_INPUT,
                    "quant.rules.%d: no layer with weights matches '%s'; did you mean '%s'?", rule,
                    word, near) ||
               error_blame(err, "quant.rules.%d.layers", rule);
    return FAIL(err, ERROR_INPUT,
                "quant.rules.%d: no layer with weights matches '%s'; the first is '%s'", rule, word,
                qat->site_count ? names[0] : "(none)") ||
           error_blame(err, "quant.rules.%d.layers", rule);
}

/* A word that names nothing is a mistake in the config. */
static bool check_rules(const Qat *qat, Error *err) {
    const QuantRule *rules = qat->config.rules.items;
    if (!bits_value(qat->config.bits))
        return FAIL(err, ERROR_INPUT,
                    "quant.bits has nothing to inherit from; give 2 to 8, or 32") ||
               error_blame(err, "quant.bits");
    for (int i = 0; i < qat->config.rules.count; i++) {
        const char *rest = rules[i].layers;
        char word[WORD_BYTES];
        int words = 0;
        for (; next_word(&rest, word); words++)
            if (!word_is_used(qat, word)) return fail_word(qat, i, word, err);
        if (!words)
            return FAIL(err, ERROR_INPUT, "quant.rules.%d: layers names nothing", i) ||
                   error_blame(err, "quant.rules.%d.layers", i);
    }
    return true;
}

/* `granularities`: what the choices of the setting stand for. */
static QuantSpec spec_of(const TensorQuantConfig *c, const Granularity *granularities, int bits,
                         bool is_signed) {
    static const Dtype scale_dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    return (QuantSpec){.quantizer = c->quantizer,
                       .bits = bits,
                       .is_affine = c->affine,
                       .is_signed = is_signed,
                       .granularity = granularities[c->granularity],
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

/* Where the value is made, so that one pass makes and quantizes it, and nobody keeps it in float
 * for readers to come. */
static void quantize_at_source(Search *s, const Var *x, Quant *quant) {
    for (int i = 0; x->op && i < s->count; i++) {
        if (s->modules[i]->last_out != x) continue;
        module_add_output(s->modules[i], (View){quant_view, quant});
        return;
    }
}

static bool is_network_input(const Var *x) {
    while (x->op && (x->op->flags & OP_ALIASES)) x = x->in[0];
    return !x->op;
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
    QuantSpec spec = spec_of(&qat->config.activations, qat_activation_granularities, bits,
                             !var_is_nonnegative(x));
    if (is_network_input(x)) spec.quantizer = qat->config.input;
    Shape sample = x->value.shape;
    sample.dim[0] = 1;
    *out = edge;
    if (!quant_new(qat->model, name, false, sample, &spec, &qat->phase, &edge->quant, s->err))
        return error_blame(s->err, "quant.activations");
    quantize_at_source(s, x, edge->quant);
    return true;
}

static int count_readers(const Tape *t, const Var *v) {
    int readers = 0;
    for (int i = 0; i < t->count; i++)
        for (int j = 0; j < t->vars[i]->in_count; j++) readers += t->vars[i]->in[j] == v;
    return readers;
}

/* A dropout scales what it keeps in training only; a quantizer goes before it, so that its range is
 * that of evaluation too. The dropout that alone feeds `module`, or reshapes before it; or NULL. */
static Module *dropout_before(const Search *s, const Module *module, int port) {
    const Var *x = module->last_in[port], *dropped = NULL;
    while (x->op && (x->op->flags & (OP_DROPS | OP_ALIASES)) && count_readers(s->tape, x) == 1) {
        if (x->op->flags & OP_DROPS) dropped = x;
        x = x->in[0];
    }
    for (int i = 0; dropped && i < s->count; i++)
        if (s->modules[i]->last_out == dropped && is_kind(s->modules[i], "dropout"))
            return s->modules[i];
    return NULL;
}

/* Puts the edge's quantizer of `bits` on one input of a module. */
static bool quantize_input(Search *s, Module *module, int port, int bits, Quant **quant) {
    Edge *edge;
    if (bits == BITS_FLOAT) return true;
    Module *dropout = dropout_before(s, module, port);
    Module *place = dropout ? dropout : module;
    int place_port = dropout ? 0 : port;
    if (!edge_find(s, place->last_in[place_port], bits, &edge)) {
        error_prefix(s->err, "input of %s", module->name);
        return false;
    }
    add_reader(s->qat, edge, module->name);
    place->inputs[place_port] = (View){quant_view, edge->quant};
    if (quant) *quant = edge->quant;
    return true;
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
    QuantSpec spec = spec_of(&s->qat->config.weights, qat_weight_granularities, bits, true);
    if (!quant_new(s->qat->model, site->weight->name, true, site->weight->value.shape, &spec,
                   &s->qat->phase, &site->quant, s->err))
        return error_blame(s->err, "quant.weights");
    View view = {quant_view, site->quant};
    site->norm = sole_norm(s, site->module);
    if (site->norm) {
        batch_norm_join(site->norm, site->module, view, &s->qat->phase.is_faking);
        quant_join(site->quant, site->norm);
    } else {
        site->weight->view = view;
    }
    return true;
}

/* ---- Residual adds ---- */

static bool is_activation(const Module *module) {
    static const char *const kinds[] = {"relu", "relu6", "gelu", "silu", "sigmoid", "tanh"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (is_kind(module, kinds[i])) return true;
    return false;
}

/* The value that an add's sum becomes for its readers: after the activation that alone reads it. */
static const Var *stream_after(const Search *s, const Module *add) {
    const Var *sum = add->last_out;
    if (count_readers(s->tape, sum) != 1) return sum;
    for (int i = 0; i < s->count; i++)
        if (s->modules[i]->last_in[0] == sum && is_activation(s->modules[i]))
            return s->modules[i]->last_out;
    return sum;
}

/* Products and adds have their own edges, and a reshape leaves it to what reads it. */
static bool reads_at_stream_bits(const Module *reader, const Var *stream) {
    if (reader->last_in[0] != stream || reader->last_out == stream) return false;
    if (reader->last_out->op->flags & OP_ALIASES) return false;
    return !reader->inputs[0].apply && !weight_of(reader) && !is_kind(reader, "add");
}

static bool quantize_adds(Search *s) {
    int bits = first_set(s->qat->config.residual_bits, s->qat->config.bits, 0);
    if (bits == BITS_FLOAT) return true;
    for (int i = 0; i < s->count; i++) {
        Module *add = s->modules[i];
        if (!is_kind(add, "add")) continue;
        for (int port = 0; port < 2; port++) TRY(quantize_input(s, add, port, bits, NULL));
        const Var *stream = stream_after(s, add);
        for (int j = 0; j < s->count; j++)
            if (reads_at_stream_bits(s->modules[j], stream))
                TRY(quantize_input(s, s->modules[j], 0, bits, NULL));
    }
    return true;
}

/* ---- Prepare ---- */

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
    bool any = false; /* activation is quantized: a network of float activations has float adds */
    for (int i = 0; i < qat->site_count; i++) {
        WeightSite *site = &qat->sites[i];
        int weight_bits, activation_bits;
        site_bits(qat, site, &weight_bits, &activation_bits);
        TRY(quantize_weight(s, site, weight_bits));
        TRY(quantize_input(s, site->module, 0, activation_bits, &site->input));
        any = any || activation_bits != BITS_FLOAT;
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
        log_info("edge   %-18s -> %-18s %d bits %s, %s, %s", edge->producer, readers, q->spec.bits,
                 q->spec.is_signed || q->spec.is_affine ? "signed" : "unsigned", q->row->kind.name,
                 granularity_text(q));
    }
    for (int i = 0; i < qat->site_count; i++) {
        const WeightSite *site = &qat->sites[i];
        if (!site->quant) {
            log_info("weight %-40s stays float", site->weight->name);
            continue;
        }
        log_info("weight %-40s %d bits, %s, %s%s%s", site->weight->name, site->quant->spec.bits,
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

static bool freeze_norm(void *context, Module *module) {
    if (is_kind(module, "batch_norm")) batch_norm_freeze(module, *(const bool *)context);
    return true;
}

/* All of them: joined to a product or not. */
static void freeze_norms(Qat *qat, bool is_frozen) {
    qat->is_norm_frozen = is_frozen;
    model_visit(qat->model, freeze_norm, &is_frozen);
}

int64_t qat_start(const Qat *qat, int64_t total) {
    return in_steps(qat->config.start, total);
}

void qat_set_step(Qat *qat, int64_t step, int64_t total) {
    qat->phase.is_faking = step >= qat_start(qat, total);
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
