/* Sum of two inputs; a module of its own so that views can be put on its inputs and output. */
#include "autograd/layers.h"
#include "autograd/ops.h"

static const Field fields[] = {LAYER_FIELDS(PlainConfig), FIELD_END};

static Var *forward(Module *self, Tape *t, Var *const *in) {
    (void)self;
    return op_add(t, in[0], in[1]);
}

const Layer layer_add = {
    .kind = {"add", "sum of two inputs (made by residual and branches)", sizeof(PlainConfig), fields},
    .input_count = 2,
    .forward = forward,
};
