/* y = x with two axes exchanged        dx = dy with the same axes exchanged */
#include "autograd/ops.h"
#include "autograd/ops/axis.h"
#include "autograd/ops/elementwise.h"

typedef struct TransposeAttr {
    int axis[2];
} TransposeAttr;

static Shape exchanged(Shape shape, const TransposeAttr *attr) {
    int64_t kept = shape.dim[attr->axis[0]];
    shape.dim[attr->axis[0]] = shape.dim[attr->axis[1]];
    shape.dim[attr->axis[1]] = kept;
    return shape;
}

static bool transpose_infer(Var *v, Error *err) {
    const TransposeAttr *attr = v->attr;
    Shape shape = v->in[0]->value.shape;
    TRY(axis_check(shape, attr->axis[0], err));
    TRY(axis_check(shape, attr->axis[1], err));
    v->value.shape = exchanged(shape, attr);
    return true;
}

/* to = from with the axes exchanged, + beta to. `shape` is the shape of `to`. */
static void exchange(const float *from, Shape shape, const TransposeAttr *attr, float beta,
                     float *to) {
    Shape source = exchanged(shape, attr), stride = {.rank = shape.rank};
    int64_t step = 1;
    for (int i = shape.rank - 1; i >= 0; i--) {
        stride.dim[i] = step;
        step *= source.dim[i];
    }
    stride = exchanged(stride, attr); /* of `from`, by the axes of `to` */
    int64_t rows = shape_rows(shape), width = shape_last(shape);
    int64_t hop = stride.dim[shape.rank - 1];
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        int64_t start = 0, rest = r;
        for (int i = shape.rank - 2; i >= 0; i--) {
            start += rest % shape.dim[i] * stride.dim[i];
            rest /= shape.dim[i];
        }
        float *row = to + r * width;
        for (int64_t j = 0; j < width; j++)
            row[j] = gradient_join(beta, row[j], from[start + j * hop]);
    }
}

static void transpose_forward(Tape *t, Var *v) {
    (void)t;
    exchange(var_f32(v->in[0]), v->value.shape, v->attr, 0, var_f32(v));
}

static void transpose_backward(Tape *t, Var *v) {
    float beta;
    float *dx = tape_grad(t, v->in[0], &beta);
    if (dx) exchange(var_grad_f32(v), v->in[0]->value.shape, v->attr, beta, dx);
}

static Var *transpose_sample(Tape *t, int which) {
    static const TransposeAttr cases[] = {{{0, 1}}, {{1, 3}}, {{2, 1}}, {{2, 2}}};
    if (which >= (int)(sizeof cases / sizeof *cases)) return NULL;
    Var *x = tape_sample_leaf(t, SHAPE(2, 3, 4, 2), -1, 1);
    return op_transpose(t, x, cases[which].axis[0], cases[which].axis[1]);
}

Var *op_transpose(Tape *t, Var *x, int axis_a, int axis_b) {
    TransposeAttr attr = {.axis = {axis_a, axis_b}};
    return tape_record(t, &op_row_transpose, 1, &x, &attr, sizeof attr);
}

const Op op_row_transpose = {
    .name = "transpose",
    .flags = OP_KEEPS_SIGN | OP_SPARES_INPUTS | OP_SPARES_OUTPUT | OP_NO_FLOPS,
    .infer = transpose_infer,
    .forward = transpose_forward,
    .backward = transpose_backward,
    .sample = transpose_sample,
};
