/* y = x W^T + b over the last dimension. Weight [units, features], deviation 1 / sqrt(features). */
#include <math.h>

#include "autograd/layers.h"
#include "autograd/ops.h"

static const Field fields[] = {
    LAYER_FIELDS(LinearConfig),
    FIELD_INT(LinearConfig, units, REQUIRED, 1, 1 << 24, "output features"),
    FIELD_BOOL(LinearConfig, bias, "true", "add a bias per unit"),
    FIELD_END,
};

typedef struct State {
    Param *weight, *bias;
} State;

static bool build(Module *self, Var *const *in, Error *err) {
    const LinearConfig *c = self->config;
    if (in[0]->value.shape.rank < 2)
        return FAIL(err, ERROR_INPUT, "linear needs [n, features]; put a flatten before it");
    int64_t features = shape_last(in[0]->value.shape);
    State *s = self->state = arena_new_array(self->model->arena, State, 1);
    Init init = {INIT_NORMAL, 1.0f / sqrtf((float)features)};
    s->weight = module_param(self, "weight", SHAPE(c->units, features), PARAM_WEIGHT, init);
    if (c->bias)
        s->bias = module_param(self, "bias", SHAPE(c->units), PARAM_BIAS, (Init){INIT_ZERO, 0});
    return true;
}

static Var *forward(Module *self, Tape *t, Var *const *in) {
    State *s = self->state;
    Var *w = param_read(s->weight, t);
    Var *bias = param_read(s->bias, t);
    return op_linear(t, in[0], w, bias);
}

const Layer layer_linear = {
    .kind = {"linear", "fully connected, over the last dimension", sizeof(LinearConfig), fields},
    .input_count = 1,
    .build = build,
    .forward = forward,
};
