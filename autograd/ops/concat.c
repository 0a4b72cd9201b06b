/* y = the parts, one after another along an axis        each part's gradient is its piece of dy */
#include <string.h>

#include "autograd/ops.h"
#include "autograd/ops/axis.h"
#include "autograd/ops/elementwise.h"

static int axis_of(const Var *v) {
    return *(const int *)v->attr;
}

static bool concat_infer(Var *v, Error *err) {
    int axis = axis_of(v);
    Shape out = v->in[0]->value.shape;
    TRY(axis_check(out, axis, err));
    char text[2][SHAPE_TEXT_BYTES];
    for (int k = 1; k < v->in_count; k++) {
        Shape part = v->in[k]->value.shape, expected = out;
        if (part.rank == out.rank) expected.dim[axis] = part.dim[axis];
        if (!shape_equal(part, expected))
            return FAIL(
                err, ERROR_INPUT,
                "part %d has shape %s, the parts before it %s: all but axis %d must be equal",
                k + 1, shape_text(part, text[0]), shape_text(out, text[1]), axis);
        out.dim[axis] += part.dim[axis];
    }
    v->value.shape = out;
    return true;
}

static void concat_forward(Tape *t, Var *v) {
    (void)t;
    AxisView whole = axis_view(v->value.shape, axis_of(v));
    int64_t row = whole.length * whole.inner, offset = 0;
    float *y = var_f32(v);
    for (int k = 0; k < v->in_count; k++) {
        const float *x = var_f32(v->in[k]);
        int64_t piece = var_count(v->in[k]) / whole.outer;
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < whole.outer; i++)
            memcpy(y + i * row + offset, x + i * piece, sizeof *x * (size_t)piece);
        offset += piece;
    }
}

static void concat_backward(Tape *t, Var *v) {
    AxisView whole = axis_view(v->value.shape, axis_of(v));
    int64_t row = whole.length * whole.inner, offset = 0;
    const float *dy = var_grad_f32(v);
    for (int k = 0; k < v->in_count; k++) {
        int64_t piece = var_count(v->in[k]) / whole.outer;
        const float *from = dy + offset;
        offset += piece;
        float beta;
        float *dx = tape_grad(t, v->in[k], &beta);
        if (!dx) continue;
#pragma omp parallel for schedule(static) firstprivate(beta)
        for (int64_t i = 0; i < whole.outer; i++)
            for (int64_t j = 0; j < piece; j++)
                dx[i * piece + j] = gradient_join(beta, dx[i * piece + j], from[i * row + j]);
    }
}

static Var *concat_sample(Tape *t, int which) {
    if (which > 3) return NULL;
    Shape second = SHAPE(2, 3, 4);
    if (which < 3) second.dim[which] += 1;
    Var *a = tape_sample_leaf(t, SHAPE(2, 3, 4), -1, 1);
    Var *b = tape_sample_leaf(t, second, -1, 1);
    return op_concat(t, (Var *[]){a, b, a}, which == 3 ? 1 : 3, which % 3);
}

Var *op_concat(Tape *t, Var *const *parts, int count, int axis) {
    if (count > OP_INPUTS_MAX) {
        error_set(&t->error, ERROR_INPUT, __FILE__, __LINE__,
                  "concat of %d parts: at most %d are possible; join some of them first", count,
                  OP_INPUTS_MAX);
        count = OP_INPUTS_MAX;
    }
    return tape_record(t, &op_row_concat, count, parts, &axis, sizeof axis);
}

const Op op_row_concat = {
    .name = "concat",
    .flags = OP_KEEPS_SIGN | OP_SPARES_INPUTS | OP_SPARES_OUTPUT | OP_NO_FLOPS,
    .infer = concat_infer,
    .forward = concat_forward,
    .backward = concat_backward,
    .sample = concat_sample,
};
