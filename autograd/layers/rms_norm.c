/* Root mean square normalisation over the last dimension (Zhang and Sennrich 2019). */
#include "autograd/layers.h"
#include "autograd/ops.h"

static const Field fields[] = {
    LAYER_FIELDS(NormConfig),
    FIELD_FLOAT(NormConfig, epsilon, "1e-5", 1e-12, 1, "added to the mean square"),
    FIELD_END,
};

static bool build(Module *self, Var *const *in, Error *err) {
    (void)err;
    Shape features = SHAPE(shape_last(in[0]->value.shape));
    module_param(self, "weight", features, PARAM_NORM, (Init){INIT_ONE, 0});
    return true;
}

static Var *forward(Module *self, Tape *t, Var *const *in) {
    const NormConfig *c = self->config;
    Var *gamma = param_read(self->params[0], t);
    return op_rms_norm(t, in[0], gamma, (float)c->epsilon);
}

const Layer layer_rms_norm = {
    .kind = {"rms_norm", "divides each row by its root mean square", sizeof(NormConfig), fields},
    .input_count = 1,
    .build = build,
    .forward = forward,
};
