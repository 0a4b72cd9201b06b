/* y = x[first .. first + count) along an axis        dx = dy there, 0 elsewhere */
#include <string.h>

#include "autograd/ops.h"
#include "autograd/ops/axis.h"
#include "autograd/ops/elementwise.h"

typedef struct SliceAttr {
    int axis;
    int64_t first, count;
} SliceAttr;

static bool slice_infer(Var *v, Error *err) {
    const SliceAttr *attr = v->attr;
    Shape shape = v->in[0]->value.shape;
    TRY(axis_check(shape, attr->axis, err));
    int64_t length = shape.dim[attr->axis];
    char text[SHAPE_TEXT_BYTES];
    if (attr->first < 0 || attr->count < 1 || attr->first >= length ||
        attr->count > length - attr->first)
        return FAIL(err, ERROR_INPUT,
                    "%lld elements from %lld on along axis %d of shape %s: they must lie within "
                    "0 to %lld",
                    (long long)attr->count, (long long)attr->first, attr->axis,
                    shape_text(shape, text), (long long)length - 1);
    shape.dim[attr->axis] = attr->count;
    v->value.shape = shape;
    return true;
}

static void slice_forward(Tape *t, Var *v) {
    (void)t;
    const SliceAttr *attr = v->attr;
    AxisView view = axis_view(v->in[0]->value.shape, attr->axis);
    int64_t row = view.length * view.inner, piece = attr->count * view.inner;
    const float *x = var_f32(v->in[0]) + attr->first * view.inner;
    float *y = var_f32(v);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < view.outer; i++)
        memcpy(y + i * piece, x + i * row, sizeof *x * (size_t)piece);
}

static void slice_backward(Tape *t, Var *v) {
    const SliceAttr *attr = v->attr;
    float beta;
    float *dx = tape_grad(t, v->in[0], &beta);
    if (!dx) return;
    AxisView view = axis_view(v->in[0]->value.shape, attr->axis);
    int64_t row = view.length * view.inner, piece = attr->count * view.inner;
    int64_t before = attr->first * view.inner;
    const float *dy = var_grad_f32(v);
#pragma omp parallel for schedule(static) firstprivate(beta)
    for (int64_t i = 0; i < view.outer; i++) {
        float *to = dx + i * row;
        if (beta == 0) {
            memset(to, 0, sizeof *to * (size_t)before);
            memset(to + before + piece, 0, sizeof *to * (size_t)(row - before - piece));
        }
        for (int64_t j = 0; j < piece; j++)
            to[before + j] = gradient_join(beta, to[before + j], dy[i * piece + j]);
    }
}

static Var *slice_sample(Tape *t, int which) {
    static const SliceAttr cases[] = {{0, 1, 2}, {1, 0, 1}, {2, 1, 3}, {1, 0, 2}};
    if (which >= (int)(sizeof cases / sizeof *cases)) return NULL;
    Var *x = tape_sample_leaf(t, SHAPE(3, 2, 4), -1, 1);
    return op_slice(t, x, cases[which].axis, cases[which].first, cases[which].count);
}

Var *op_slice(Tape *t, Var *x, int axis, int64_t first, int64_t count) {
    SliceAttr attr = {.axis = axis, .first = first, .count = count};
    return tape_record(t, &op_row_slice, 1, &x, &attr, sizeof attr);
}

const Op op_row_slice = {
    .name = "slice",
    .flags = OP_KEEPS_SIGN | OP_SPARES_INPUTS | OP_SPARES_OUTPUT | OP_NO_FLOPS,
    .infer = slice_infer,
    .forward = slice_forward,
    .backward = slice_backward,
    .sample = slice_sample,
};
