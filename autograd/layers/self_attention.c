/* Causal self-attention with rotary positions, o(attention(q(x), k(x), v(x))), over x [batch,
 * length, width]. Heads of queries may share those of keys and values (Ainslie et al. 2023); with
 * qk_norm each head's queries and keys are normalised before they are turned (Qwen3). Which
 * positions are seen says TokenContext.starts. */
#include <math.h>

#include "autograd/kv_cache.h"
#include "autograd/layers.h"
#include "autograd/ops.h"

const char *const attention_biases[] = {"none", "qkv", "all", NULL};

const Field rope_scaling_fields[] = {
    FIELD_FLOAT(RopeScaling, factor, REQUIRED, 1, 1e6, "what long wavelengths are multiplied by"),
    FIELD_FLOAT(RopeScaling, low_freq_factor, "1", 1e-3, 1e6,
                "long: above original_length over this"),
    FIELD_FLOAT(RopeScaling, high_freq_factor, "4", 1e-3, 1e6,
                "short: below original_length over this"),
    FIELD_INT(RopeScaling, original_length, "8192", 1, 1 << 30,
              "positions that the network was first trained for"),
    FIELD_END,
};

static const Field fields[] = {
    LAYER_FIELDS(AttentionConfig),
    ATTENTION_FIELDS,
    FIELD_END,
};

enum { Q, K, V, O, Q_NORM, K_NORM };

typedef struct State {
    int64_t heads, kv_heads, dim;
    float *frequencies; /* [dim / 2] */
} State;

static double scaled(const RopeScaling *scaling, double frequency) {
    double length = 2 * M_PI / frequency, original = (double)scaling->original_length;
    if (length < original / scaling->high_freq_factor) return frequency;
    if (length > original / scaling->low_freq_factor) return frequency / scaling->factor;
    double share = (original / length - scaling->low_freq_factor) /
                   (scaling->high_freq_factor - scaling->low_freq_factor);
    return (1 - share) * frequency / scaling->factor + share * frequency;
}

/* Powers in f32, as transformers has them. */
static float *make_frequencies(const AttentionConfig *c, int64_t dim, Arena *arena) {
    float *frequencies = arena_new_array(arena, float, dim / 2);
    for (int64_t j = 0; j < dim / 2; j++) {
        float f = 1 / powf((float)c->rope_theta, (float)(2 * j) / (float)dim);
        frequencies[j] = c->rope_scaling ? (float)scaled(c->rope_scaling, (double)f) : f;
    }
    return frequencies;
}

static bool check(const AttentionConfig *c, const State *s, Shape x, Error *err) {
    char text[SHAPE_TEXT_BYTES];
    if (x.rank != 3)
        return FAIL(err, ERROR_INPUT, "self_attention needs [n, length, width], not %s",
                    shape_text(x, text));
    if (s->heads % s->kv_heads)
        return FAIL(err, ERROR_INPUT, "kv_heads %ld does not divide heads %ld", (long)s->kv_heads,
                    (long)s->heads);
    if (!c->head_dim && x.dim[2] % s->heads)
        return FAIL(err, ERROR_INPUT, "heads %ld does not divide the width %ld; give head_dim",
                    (long)s->heads, (long)x.dim[2]);
    if (s->dim % 2)
        return FAIL(err, ERROR_INPUT,
                    "a head has %ld numbers; rotary positions need an even number", (long)s->dim);
    if (c->rope_scaling && c->rope_scaling->high_freq_factor <= c->rope_scaling->low_freq_factor)
        return FAIL(err, ERROR_INPUT,
                    "rope_scaling: high_freq_factor must be above "
                    "low_freq_factor");
    return true;
}

static void add_projections(Module *self, const State *s, int64_t width) {
    static const char *const names[] = {"q_proj", "k_proj", "v_proj", "o_proj"};
    const AttentionConfig *c = self->config;
    for (int i = Q; i <= O; i++) {
        LinearConfig *linear = arena_new_array(self->model->arena, LinearConfig, 1);
        linear->units = i == O ? width : (i == Q ? s->heads : s->kv_heads) * s->dim;
        linear->bias = c->attention_bias == ATTENTION_BIAS_ALL ||
                       (c->attention_bias == ATTENTION_BIAS_QKV && i != O);
        module_child(self, &layer_linear, linear, names[i]);
    }
}

static void add_norms(Module *self) {
    const AttentionConfig *c = self->config;
    NormConfig *norm = arena_new_array(self->model->arena, NormConfig, 1);
    norm->epsilon = c->epsilon;
    module_child(self, &layer_rms_norm, norm, "q_norm");
    module_child(self, &layer_rms_norm, norm, "k_norm");
}

static bool build(Module *self, Var *const *in, Error *err) {
    const AttentionConfig *c = self->config;
    Shape x = in[0]->value.shape;
    State *s = self->state = arena_new_array(self->model->arena, State, 1);
    s->heads = c->heads;
    s->kv_heads = c->kv_heads ? c->kv_heads : c->heads;
    s->dim = c->head_dim ? c->head_dim : shape_last(x) / c->heads;
    TRY(check(c, s, x, err));
    s->frequencies = make_frequencies(c, s->dim, self->model->arena);
    add_projections(self, s, x.dim[2]);
    if (c->qk_norm) add_norms(self);
    return true;
}

static Var *normalise(Module *norm, Tape *t, Var *x, int64_t heads, int64_t dim) {
    Shape shape = x->value.shape;
    Var *apart = op_reshape(t, x, SHAPE(shape.dim[0], shape.dim[1], heads, dim));
    Var *y = module_apply_one(norm, t, apart);
    return op_reshape(t, y, shape);
}

/* Queries, or keys. */
static Var *turned(Module *self, Tape *t, Var *x, int which) {
    const TokenContext *tokens = model_tokens(self->model, t);
    const AttentionConfig *c = self->config;
    const State *s = self->state;
    int64_t heads = which == Q ? s->heads : s->kv_heads;
    Var *y = module_apply_one(self->children[which], t, x);
    if (c->qk_norm)
        y = normalise(self->children[which == Q ? Q_NORM : K_NORM], t, y, heads, s->dim);
    RotaryAttr attr = {.heads = heads, .frequencies = s->frequencies};
    if (tokens->cache) attr.position = tokens->cache->length;
    return op_rotary(t, y, tokens->starts, attr);
}

static Var *forward(Module *self, Tape *t, Var *const *in) {
    const State *s = self->state;
    const TokenContext *tokens = model_tokens(self->model, t);
    Var *q = turned(self, t, in[0], Q);
    Var *k = turned(self, t, in[0], K);
    Var *v = module_apply_one(self->children[V], t, in[0]);
    AttentionAttr attr = {
        .heads = s->heads, .kv_heads = s->kv_heads, .scale = 1 / sqrtf((float)s->dim)};
    if (tokens->cache) attr.kept = kv_cache_extend(tokens->cache, self, t, k, v, s->kv_heads);
    Var *seen = op_attention(t, q, k, v, tokens->starts, attr);
    return module_apply_one(self->children[O], t, seen);
}

const Layer layer_self_attention = {
    .kind = {"self_attention", "causal attention with rotary positions", sizeof(AttentionConfig),
             fields},
    .input_count = 1,
    .build = build,
    .forward = forward,
};
