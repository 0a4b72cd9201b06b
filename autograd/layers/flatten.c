/* [n, ...] to [n, features]. */
#include "autograd/layers.h"
#include "autograd/ops.h"

static const Field fields[] = {LAYER_FIELDS(PlainConfig), FIELD_END};

static Var *forward(Module *self, Tape *t, Var *const *in) {
    (void)self;
    int64_t batch = in[0]->value.shape.dim[0];
    return op_reshape(t, in[0], SHAPE(batch, -1));
}

const Layer layer_flatten = {
    .kind = {"flatten", "one row of features per sample", sizeof(PlainConfig), fields},
    .input_count = 1,
    .forward = forward,
};
