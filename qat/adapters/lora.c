#include "qat/adapters/lora.h"

#include <math.h>
#include <string.h>

#include "autograd/ops.h"
#include "qat/loftq.h"

static const char *const inits[] = {"default", "loftq", NULL};

static const Field rule_fields[] = {
    FIELD_STRING(LoraRule, layers, REQUIRED, "layers that differ, as a pattern of target"),
    FIELD_INT(LoraRule, rank, "0", 0, 65536, "their rank; 0: the adapter's"),
    FIELD_FLOAT(LoraRule, alpha, "0", 0, 1e6, "their alpha; 0: the adapter's"),
    FIELD_END,
};

static const Field fields[] = {
    ADAPTER_FIELDS(LoraConfig),
    FIELD_INT(LoraConfig, rank, "8", 1, 65536, "r: rows of A, columns of B"),
    FIELD_FLOAT(LoraConfig, alpha, "8", 1e-6, 1e6, "the update is alpha / r B A"),
    FIELD_FLOAT(LoraConfig, dropout, "0", 0, 0.99,
                "share of A's input that is set to 0 in training"),
    FIELD_BOOL(LoraConfig, rslora, "false", "alpha / sqrt(r) in the place of alpha / r"),
    FIELD_BOOL(LoraConfig, dora, "false", "learn the lengths of the weight's rows apart"),
    FIELD_CHOICE(LoraConfig, init, "default", inits,
                 "of A and B: default (A random, B zeros), or loftq (what storing the base in few "
                 "bits lost)"),
    FIELD_STRUCTS(LoraConfig, rules, "[]", LoraRule, rule_fields,
                  "layers with another rank or alpha; later rules win"),
    FIELD_STRING(LoraConfig, from, "",
                 "directory of a PEFT adapter to start from, which says all of the above but "
                 "dropout",
                 .is_path = true),
    FIELD_END,
};

/* ---- Making ---- */

static void apply_rules(const LoraConfig *c, LoraLayer *l) {
    const LoraRule *rules = c->rules.items;
    for (int i = 0; i < c->rules.count; i++) {
        if (!adapter_matches(rules[i].layers, l->site->module->name)) continue;
        if (rules[i].rank) l->rank = rules[i].rank;
        if (rules[i].alpha > 0) l->alpha = rules[i].alpha;
    }
}

/* A: uniform, as a linear layer of PyTorch (Kaiming with a = sqrt(5)): half width 1 / sqrt(in). */
static bool make(const Adapter *adapter, AdapterSite *site, Error *err) {
    (void)err;
    const LoraConfig *c = adapter->config;
    Module *module = site->module;
    Shape w = site->weight->value.shape;
    LoraLayer *l = site->state = arena_new_array(adapter->arena, LoraLayer, 1);
    *l =
        (LoraLayer){.site = site, .rank = c->rank, .alpha = c->alpha, .dropout = (float)c->dropout};
    apply_rules(c, l);
    double rank = (double)l->rank;
    l->factor = (float)(l->alpha / (c->rslora ? sqrt(rank) : rank));
    Init uniform = {INIT_UNIFORM, (float)(1 / sqrt((double)w.dim[1]))}, zero = {INIT_ZERO, 0};
    Shape a = SHAPE(l->rank, w.dim[1]), b = SHAPE(w.dim[0], l->rank);
    l->a = module_param(module, "lora_A.weight", a, PARAM_WEIGHT, uniform);
    l->b = module_param(module, "lora_B.weight", b, PARAM_WEIGHT, zero);
    if (!c->dora) return true;
    Init one = {INIT_ONE, 0};
    l->magnitude =
        module_param(module, "lora_magnitude_vector", SHAPE(w.dim[0]), PARAM_WEIGHT, one);
    return true;
}

/* ---- Running ---- */

/* W' x - W x, or W' x + bias where `base` is what the layer gave and nothing was dropped:
 *     base - bias = W x, plus the update, times the gain, plus the bias. */
static Var *corrected(const LoraLayer *l, Tape *t, Var *base, Var *update) {
    Var *w = param_leaf(l->site->weight, t), *magnitude = param_leaf(l->magnitude, t);
    Var *a = param_leaf(l->a, t), *b = param_leaf(l->b, t);
    Var *gain = op_weight_gain(t, w, magnitude, a, b, l->factor);
    Var *bias = l->site->bias ? param_leaf(l->site->bias, t) : NULL;
    Var *minus = bias ? op_scale(t, bias, -1) : NULL;
    Var *product = bias ? op_add(t, base, minus) : base;
    Var *sum = op_add(t, product, update);
    Var *y = op_mul(t, sum, gain);
    return bias ? op_add(t, y, bias) : y;
}

/* The same where x was dropped: what the layer gave has the whole input in it, and its correction
 * the dropped one: y + gain (W x' + update) - W x'. */
static Var *corrected_dropped(const LoraLayer *l, Tape *t, Var *y, Var *dropped, Var *update) {
    Var *weight = param_read(l->site->weight, t);
    Var *w = param_leaf(l->site->weight, t), *magnitude = param_leaf(l->magnitude, t);
    Var *a = param_leaf(l->a, t), *b = param_leaf(l->b, t);
    Var *gain = op_weight_gain(t, w, magnitude, a, b, l->factor);
    Var *product = op_linear(t, dropped, weight, NULL);
    Var *sum = op_add(t, product, update);
    Var *scaled = op_mul(t, sum, gain);
    Var *minus = op_scale(t, product, -1);
    Var *change = op_add(t, scaled, minus);
    return op_add(t, y, change);
}

static Var *apply(void *self, Tape *t, Var *y) {
    const LoraLayer *l = ((const AdapterSite *)self)->state;
    const Module *module = l->site->module;
    Var *x = module->last_seen[0];
    Var *dropped = op_dropout(t, x, l->dropout, (uint32_t)module->order);
    Var *a = param_read(l->a, t);
    Var *b = param_read(l->b, t);
    Var *low = op_linear(t, dropped, a, NULL);
    Var *scaled = op_scale(t, low, l->factor);
    Var *update = op_linear(t, scaled, b, NULL);
    if (!l->magnitude) return op_add(t, y, update);
    return dropped == x ? corrected(l, t, y, update) : corrected_dropped(l, t, y, dropped, update);
}

/* ---- Values ---- */

/* w += s B A */
static void add_update(const LoraLayer *l, float *w) {
    const float *a = tensor_f32(&l->a->value), *b = tensor_f32(&l->b->value);
    int64_t in = l->a->value.shape.dim[1], out = l->b->value.shape.dim[0];
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < out; i++)
        for (int64_t k = 0; k < l->rank; k++) {
            float weight = l->factor * b[i * l->rank + k];
            for (int64_t j = 0; j < in; j++) w[i * in + j] += weight * a[k * in + j];
        }
}

static float length_of(const float *row, int64_t count) {
    double squares = 0;
    for (int64_t j = 0; j < count; j++) squares += (double)row[j] * (double)row[j];
    return (float)sqrt(squares);
}

static void merge(const AdapterSite *site, float *w) {
    const LoraLayer *l = site->state;
    add_update(l, w);
    if (!l->magnitude) return;
    int64_t in = l->a->value.shape.dim[1], out = l->b->value.shape.dim[0];
    const float *magnitude = tensor_f32(&l->magnitude->value);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < out; i++) {
        float length = length_of(w + i * in, in);
        float gain = length > 0 ? magnitude[i] / length : 0;
        for (int64_t j = 0; j < in; j++) w[i * in + j] *= gain;
    }
}

static bool check_loftq(const Param *weight, const AdapterSource *source, Error *err) {
    const char *dtype = dtype_name(weight->value.dtype);
    if (dtype_codec(weight->value.dtype)->stores == CODE_NUMBER)
        return FAIL(err, ERROR_INPUT,
                    "adapter.init: loftq takes what storing the base in few bits lost, and this "
                    "base is kept whole (%s); choose adapter.init: default",
                    dtype) ||
               error_blame(err, "adapter.init");
    return (source && source->read) ||
           FAIL(err, ERROR_INPUT,
                "adapter.init: loftq needs the weights as they were before they were stored in %s, "
                "and these are not at hand; choose adapter.init: default",
                dtype) ||
           error_blame(err, "adapter.init");
}

static bool start_loftq(LoraLayer *l, const AdapterSource *source, float *stored, Arena *arena,
                        Error *err) {
    const Param *weight = l->site->weight;
    TRY(check_loftq(weight, source, err));
    int64_t count = tensor_count(&weight->value);
    float *residual = arena_new_array(arena, float, count);
    TRY(source->read(source->context, weight, residual, err));
    for (int64_t i = 0; i < count; i++) residual[i] -= stored[i];
    Shape w = weight->value.shape;
    return loftq_factor(residual, w.dim[0], w.dim[1], l->rank, l->factor, tensor_f32(&l->a->value),
                        tensor_f32(&l->b->value), arena, err);
}

/* A new magnitude is the length that the row has anyway. */
static void start_magnitude(const LoraLayer *l, float *w) {
    if (!l->magnitude) return;
    add_update(l, w);
    Shape shape = l->site->weight->value.shape;
    float *magnitude = tensor_f32(&l->magnitude->value);
    for (int64_t i = 0; i < shape.dim[0]; i++)
        magnitude[i] = length_of(w + i * shape.dim[1], shape.dim[1]);
}

static bool start(const Adapter *adapter, AdapterSite *site, const AdapterSource *source,
                  Error *err) {
    const LoraConfig *c = adapter->config;
    LoraLayer *l = site->state;
    if (c->init == LORA_DEFAULT && !l->magnitude) return true;
    Arena *arena = arena_new("adapter");
    float *w = arena_new_array(arena, float, tensor_count(&site->weight->value));
    tensor_decode(&site->weight->value, w);
    bool ok = c->init != LORA_LOFTQ || start_loftq(l, source, w, arena, err);
    if (ok) start_magnitude(l, w);
    arena_free(arena);
    return ok;
}

const AdapterRow adapter_lora = {
    .kind = {.name = "lora",
             .help = "adds s B A of a small rank to weights; only A and B are trained",
             .config_bytes = sizeof(LoraConfig),
             .fields = fields},
    .make = make,
    .apply = apply,
    .start = start,
    .merge = merge,
};
