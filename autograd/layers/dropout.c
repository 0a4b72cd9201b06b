/* Dropout (Srivastava et al. 2014), keyed by seed, step and this layer's place in the model. */
#include "autograd/layers.h"
#include "autograd/ops.h"

static const Field fields[] = {
    LAYER_FIELDS(DropoutConfig),
    FIELD_FLOAT(DropoutConfig, probability, "0.5", 0, 0.99, "share of values set to 0 in training"),
    FIELD_END,
};

static Var *forward(Module *self, Tape *t, Var *const *in) {
    const DropoutConfig *c = self->config;
    return op_dropout(t, in[0], (float)c->probability, (uint32_t)self->order);
}

const Layer layer_dropout = {
    .kind = {"dropout", "zeroes values at random in training", sizeof(DropoutConfig), fields},
    .flags = LAYER_DROPS,
    .input_count = 1,
    .forward = forward,
};
