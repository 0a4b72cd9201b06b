/* y = the same elements in the same order under another shape        dx = dy
 *
 * The output is the input's memory, levels and scales included (Scales count elements, not
 * dimensions). Gradients do not alias: the input may have other readers. */
#include "autograd/ops.h"
#include "autograd/ops/elementwise.h"

static bool reshape_infer(Var *v, Error *err) {
    Shape from = v->in[0]->value.shape, to = *(const Shape *)v->attr;
    int64_t count = shape_count(from), known = 1;
    int open = -1, open_count = 0;
    bool fits = true;
    for (int i = 0; i < to.rank; i++) {
        if (to.dim[i] == -1) {
            open = i;
            open_count++;
        } else {
            fits = fits && to.dim[i] > 0 && !__builtin_mul_overflow(known, to.dim[i], &known);
        }
    }
    fits = fits && open_count < 2 && (open < 0 ? known == count : count % known == 0);
    char text[2][SHAPE_TEXT_BYTES];
    if (!fits)
        return FAIL(
            err, ERROR_INPUT,
            "%s cannot become %s: both must have %lld elements, and one dimension may be -1",
            shape_text(from, text[0]), shape_text(to, text[1]), (long long)count);
    if (open >= 0) to.dim[open] = count / known;
    v->value.shape = to;
    return true;
}

static void reshape_forward(Tape *t, Var *v) {
    (void)t, (void)v;
} /* the tape aliased the data */

static void reshape_backward(Tape *t, Var *v) {
    float beta;
    float *dx = tape_grad(t, v->in[0], &beta);
    if (dx) elementwise_add(var_grad_f32(v), beta, dx, var_count(v));
}

static Var *reshape_sample(Tape *t, int which) {
    if (which > 2) return NULL;
    Shape shapes[] = {SHAPE(6, 4), SHAPE(2, -1, 3, 2), SHAPE(-1)};
    Var *x = tape_sample_leaf(t, SHAPE(2, 3, 4), -1, 1);
    return op_reshape(t, x, shapes[which]);
}

Var *op_reshape(Tape *t, Var *x, Shape shape) {
    return tape_record(t, &op_row_reshape, 1, &x, &shape, sizeof shape);
}

const Op op_row_reshape = {
    .name = "reshape",
    .flags = OP_IS_HOMOGENEOUS | OP_ALIASES | OP_READS_LEVELS | OP_KEEPS_SIGN | OP_SPARES_INPUTS |
             OP_SPARES_OUTPUT | OP_NO_FLOPS,
    .infer = reshape_infer,
    .forward = reshape_forward,
    .backward = reshape_backward,
    .sample = reshape_sample,
};
