/* y = x        dx = dy
 *
 * The place where a weight becomes what products read under half precision: the plan keeps the
 * output, and the gradient that products give it, in half (Tape.half; Micikevicius et al. 2018).
 * Masters stay f32. */
#include <string.h>

#include "autograd/ops.h"
#include "autograd/ops/elementwise.h"

static void forward(const Var *v, const MapBlock *b) {
    (void)v;
    memcpy(b->out, b->in[0], sizeof *b->out * (size_t)b->count);
}

static const Map map = {.input_count = 1, .forward = forward};

static Var *sample(Tape *t, int which) {
    if (which > 0) return NULL;
    Var *x = tape_sample_leaf(t, SHAPE(4, 5), -1, 1);
    return op_cast(t, x);
}

Var *op_cast(Tape *t, Var *x) {
    return tape_record(t, &op_row_cast, 1, &x, NULL, 0);
}

const Op op_row_cast = {
    .name = "cast",
    .flags = OP_KEEPS_SIGN | OP_SPARES_INPUTS | OP_SPARES_OUTPUT,
    .infer = elementwise_infer,
    .sample = sample,
    .map = &map,
};
