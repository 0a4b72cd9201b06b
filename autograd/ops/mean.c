/* y = (1 / n) sum of x over an axis, or over everything        dx = dy / n, repeated */
#include "autograd/ops.h"
#include "autograd/ops/reduce.h"

static void mean_forward(Tape *t, Var *v) {
    reduce_forward(t, v, true);
}

static void mean_backward(Tape *t, Var *v) {
    reduce_backward(t, v, true);
}

static Var *mean_sample(Tape *t, int which) { /* every axis, then everything */
    if (which > 3) return NULL;
    Var *x = tape_sample_leaf(t, SHAPE(3, 2, 4), -1, 1);
    return op_mean(t, x, which - 1);
}

Var *op_mean(Tape *t, Var *x, int axis) {
    return tape_record(t, &op_row_mean, 1, &x, &axis, sizeof axis);
}

const Op op_row_mean = {
    .name = "mean",
    .flags = OP_KEEPS_SIGN | OP_SPARES_INPUTS | OP_SPARES_OUTPUT | OP_NO_FLOPS,
    .infer = reduce_infer,
    .forward = mean_forward,
    .backward = mean_backward,
    .sample = mean_sample,
    .forward_scratch = reduce_forward_scratch,
};
