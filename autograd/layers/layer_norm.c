/* Layer normalisation over the last dimension (Ba et al. 2016). */
#include "autograd/layers.h"
#include "autograd/ops.h"

static const Field fields[] = {
    LAYER_FIELDS(NormConfig),
    FIELD_FLOAT(NormConfig, epsilon, "1e-5", 1e-12, 1, "added to the variance"),
    FIELD_END,
};

static bool build(Module *self, Var *const *in, Error *err) {
    (void)err;
    Shape features = SHAPE(shape_last(in[0]->value.shape));
    module_param(self, "gamma", features, PARAM_NORM, (Init){INIT_ONE, 0});
    module_param(self, "beta", features, PARAM_NORM, (Init){INIT_ZERO, 0});
    return true;
}

static Var *forward(Module *self, Tape *t, Var *const *in) {
    const NormConfig *c = self->config;
    Var *gamma = param_read(self->params[0], t);
    Var *beta = param_read(self->params[1], t);
    return op_layer_norm(t, in[0], gamma, beta, (float)c->epsilon);
}

const Layer layer_layer_norm = {
    .kind = {"layer_norm", "normalises each row over its features", sizeof(NormConfig), fields},
    .input_count = 1,
    .build = build,
    .forward = forward,
};
