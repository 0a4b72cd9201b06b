/* y = sum of x over an axis, or over everything        dx = dy, repeated */
#include "autograd/ops.h"
#include "autograd/ops/reduce.h"

static void sum_forward(Tape *t, Var *v) {
    reduce_forward(t, v, false);
}

static void sum_backward(Tape *t, Var *v) {
    reduce_backward(t, v, false);
}

static Var *sum_sample(Tape *t, int which) { /* every axis, then everything */
    if (which > 3) return NULL;
    Var *x = tape_sample_leaf(t, SHAPE(3, 2, 4), -1, 1);
    return op_sum(t, x, which - 1);
}

Var *op_sum(Tape *t, Var *x, int axis) {
    return tape_record(t, &op_row_sum, 1, &x, &axis, sizeof axis);
}

const Op op_row_sum = {
    .name = "sum",
    .flags = OP_KEEPS_SIGN | OP_SPARES_INPUTS | OP_SPARES_OUTPUT | OP_NO_FLOPS,
    .infer = reduce_infer,
    .forward = sum_forward,
    .backward = sum_backward,
    .sample = sum_sample,
    .forward_scratch = reduce_forward_scratch,
};
