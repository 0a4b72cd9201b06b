/* Batch normalisation over the last dimension (Ioffe and Szegedy 2015), and its folding into the
 * product that it alone reads (autograd/ops.h has the formulas). */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "autograd/layers.h"
#include "autograd/layers/batch_norm.h"
#include "autograd/ops.h"

static const Field fields[] = {
    LAYER_FIELDS(NormConfig),
    FIELD_FLOAT(NormConfig, epsilon, "1e-5", 1e-12, 1, "added to the variance"),
    FIELD_FLOAT(NormConfig, momentum, "0.1", 0, 1, "share of the batch in the running statistics"),
    FIELD_END,
};

typedef struct State {
    Param *gamma, *beta, *mean, *variance;
    bool is_frozen;
    Param *weight; /* of the joined convolution or linear layer, or NULL */
    Param *bias;   /* of the same, or NULL */
    const bool *is_folding;
    View inner;
    Tensor deployed; /* bias [channels] of a packed product; data NULL: not deployed */
} State;

static bool build(Module *self, Var *const *in, Error *err) {
    (void)err;
    Shape channels = SHAPE(shape_last(in[0]->value.shape));
    State *s = self->state = arena_new_array(self->model->arena, State, 1);
    Init zero = {INIT_ZERO, 0}, one = {INIT_ONE, 0};
    s->gamma = module_param(self, "gamma", channels, PARAM_NORM, one);
    s->beta = module_param(self, "beta", channels, PARAM_NORM, zero);
    s->mean = module_param(self, "running_mean", channels, PARAM_BUFFER, zero);
    s->variance = module_param(self, "running_variance", channels, PARAM_BUFFER, one);
    s->variance->is_positive = true;
    return true;
}

static BatchNormAttr attributes(const Module *self, const Tape *t) {
    const NormConfig *c = self->config;
    const State *s = self->state;
    return (BatchNormAttr){
        .epsilon = (float)c->epsilon,
        .momentum = (float)c->momentum,
        .uses_batch = t->mode.is_training && !s->is_frozen,
        .running_mean = param_numbers(s->mean, t),
        .running_variance = param_numbers(s->variance, t),
    };
}

/* As a layer runs whose weight is not quantized. */
static bool is_unfolded(const State *s, const Tape *t) {
    const TapeMode *mode = &t->mode;
    bool is_left_out = mode->only[0] && strcmp(mode->only[0], s->weight->owner->name) != 0;
    return mode->is_float || mode->floats_weights || is_left_out || !*s->is_folding;
}

static Var *forward(Module *self, Tape *t, Var *const *in) {
    State *s = self->state;
    if (s->deployed.data) return op_add(t, in[0], tape_constant(t, s->deployed));
    BatchNormAttr attr = attributes(self, t);
    Var *gamma = param_read(s->gamma, t);
    Var *beta = param_read(s->beta, t);
    if (!s->weight || is_unfolded(s, t)) return op_batch_norm(t, in[0], gamma, beta, attr);
    Var *bias = s->bias ? param_leaf(s->bias, t) : NULL;
    return op_batch_norm_folded(t, in[0], gamma, beta, bias, attr);
}

/* View of the joined product's weight. */
static Var *fold_weight(void *context, Tape *t, Var *w) {
    Module *norm = context;
    State *s = norm->state;
    if (is_unfolded(s, t)) return w;
    Var *gamma = param_read(s->gamma, t);
    Var *folded = op_batch_norm_fold(t, w, gamma, attributes(norm, t));
    return s->inner.apply ? s->inner.apply(s->inner.self, t, folded) : folded;
}

/* View of the joined product's bias: the norm adds it. */
static Var *move_bias(void *context, Tape *t, Var *bias) {
    const Module *norm = context;
    return is_unfolded(norm->state, t) ? bias : NULL;
}

void batch_norm_join(Module *norm, Param *weight, View inner, const bool *is_folding) {
    State *s = norm->state;
    assert(norm->layer == &layer_batch_norm);
    s->weight = weight;
    s->inner = inner;
    s->is_folding = is_folding;
    s->bias = module_find_param(weight->owner, "bias");
    weight->view = (View){fold_weight, norm};
    if (s->bias) s->bias->view = (View){move_bias, norm};
}

Var *batch_norm_gain(Module *norm, Tape *t, Var *scale) {
    const State *s = norm->state;
    BatchNormAttr attr = attributes(norm, t);
    attr.is_magnitude = true;
    Var *gamma = param_read(s->gamma, t);
    return op_batch_norm_fold(t, scale, gamma, attr);
}

/* A Param may be stored in any dtype. */
static float number_of(const Param *p, int64_t i) {
    float number;
    tensor_decode_part(&p->value, i, 1, &number);
    return number;
}

void batch_norm_factors(const Module *norm, float *factors) {
    const State *s = norm->state;
    const float *variance = tensor_f32(&s->variance->value);
    float epsilon = (float)((const NormConfig *)norm->config)->epsilon;
    int64_t channels = tensor_count(&s->gamma->value);
    for (int64_t c = 0; c < channels; c++)
        factors[c] = batch_norm_factor(number_of(s->gamma, c), variance[c], epsilon);
}

void batch_norm_gains(const Module *norm, float *gains) {
    batch_norm_factors(norm, gains);
    int64_t channels = tensor_count(&((const State *)norm->state)->gamma->value);
    for (int64_t c = 0; c < channels; c++) gains[c] = fabsf(gains[c]);
}

bool batch_norm_is_joined(const Module *norm) {
    return ((const State *)norm->state)->weight != NULL;
}

void batch_norm_deployed_bias(const Module *norm, float *bias) {
    const State *s = norm->state;
    const float *mean = tensor_f32(&s->mean->value), *variance = tensor_f32(&s->variance->value);
    float epsilon = (float)((const NormConfig *)norm->config)->epsilon;
    int64_t channels = tensor_count(&s->gamma->value);
    for (int64_t c = 0; c < channels; c++)
        bias[c] =
            batch_norm_bias(number_of(s->gamma, c), number_of(s->beta, c),
                            s->bias ? number_of(s->bias, c) : 0, mean[c], variance[c], epsilon);
}

void batch_norm_folded_weight(const Module *norm, float *weight) {
    const State *s = norm->state;
    const Tensor *w = &s->weight->value;
    const float *variance = tensor_f32(&s->variance->value);
    float epsilon = (float)((const NormConfig *)norm->config)->epsilon;
    int64_t row = tensor_count(w) / w->shape.dim[0];
    tensor_decode(w, weight);
    for (int64_t r = 0; r < w->shape.dim[0]; r++) {
        float factor = batch_norm_factor(number_of(s->gamma, r), variance[r], epsilon);
        for (int64_t i = 0; i < row; i++) weight[r * row + i] *= factor;
    }
}

void batch_norm_deploy(Module *norm, Tensor bias) {
    ((State *)norm->state)->deployed = bias;
}

void batch_norm_freeze(Module *norm, bool is_frozen) {
    ((State *)norm->state)->is_frozen = is_frozen;
}

const Layer layer_batch_norm = {
    .kind = {"batch_norm", "normalises each channel over the batch", sizeof(NormConfig), fields},
    .flags = LAYER_FOLDS,
    .input_count = 1,
    .build = build,
    .forward = forward,
};
