/* Sum of two inputs; a module of its own so that views can be put on its inputs and output. */
#include "autograd/layers.h"
#include "autograd/ops.h"

static const Field fields[] = {LAYER_FIELDS(PlainConfig), FIELD_END};

/* The op would also take a second input that is spread over the first. */
static bool build(Module *self, Var *const *in, Error *err) {
    (void)self;
    char a[SHAPE_TEXT_BYTES], b[SHAPE_TEXT_BYTES];
    if (shape_equal(in[0]->value.shape, in[1]->value.shape)) return true;
    return FAIL(err, ERROR_INPUT, "the two paths give different shapes, %s and %s",
                shape_text(in[0]->value.shape, a), shape_text(in[1]->value.shape, b));
}

static Var *forward(Module *self, Tape *t, Var *const *in) {
    (void)self;
    return op_add(t, in[0], in[1]);
}

const Layer layer_add = {
    .kind = {"add", "sum of two inputs (made by residual and branches)", sizeof(PlainConfig),
             fields},
    .flags = LAYER_ADDS,
    .input_count = 2,
    .build = build,
    .forward = forward,
};
