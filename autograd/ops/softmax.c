/* y = exp(x - max) / sum exp(x - max) over the last dimension        dx = y (dy - sum y dy) */
#include <math.h>

#include "autograd/ops.h"
#include "autograd/ops/elementwise.h"

static bool softmax_infer(Var *v, Error *err) {
    if (v->in[0]->value.shape.rank == 0)
        return FAIL(err, ERROR_INPUT, "a scalar has no dimension to normalise over");
    return elementwise_infer(v, err);
}

static void softmax_row(const float *x, int64_t count, float *y) {
    float max = x[0];
    for (int64_t i = 1; i < count; i++) max = x[i] > max ? x[i] : max;
    double sum = 0;
    for (int64_t i = 0; i < count; i++) {
        y[i] = expf(x[i] - max);
        sum += y[i];
    }
    float inverse = (float)(1 / sum);
    for (int64_t i = 0; i < count; i++) y[i] *= inverse;
}

static void softmax_forward(Tape *t, Var *v) {
    (void)t;
    int64_t rows = shape_rows(v->value.shape), width = shape_last(v->value.shape);
    const float *x = var_f32(v->in[0]);
    float *y = var_f32(v);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) softmax_row(x + r * width, width, y + r * width);
}

static void softmax_gradient(const float *y, const float *dy, int64_t count, float beta,
                             float *dx) {
    double dot = 0;
    for (int64_t i = 0; i < count; i++) dot += (double)y[i] * (double)dy[i];
    for (int64_t i = 0; i < count; i++)
        dx[i] = gradient_join(beta, dx[i], y[i] * (dy[i] - (float)dot));
}

static void softmax_backward(Tape *t, Var *v) {
    float beta;
    float *dx = tape_grad(t, v->in[0], &beta);
    if (!dx) return;
    int64_t rows = shape_rows(v->value.shape), width = shape_last(v->value.shape);
    const float *y = var_f32(v), *dy = var_grad_f32(v);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++)
        softmax_gradient(y + r * width, dy + r * width, width, beta, dx + r * width);
}

static Var *softmax_sample(Tape *t, int which) {
    if (which > 1) return NULL;
    Var *x = tape_sample_leaf(t, which ? SHAPE(2, 3, 4) : SHAPE(6), -2, 2);
    return op_softmax(t, x);
}

Var *op_softmax(Tape *t, Var *x) {
    return tape_record(t, &op_row_softmax, 1, &x, NULL, 0);
}

const Op op_row_softmax = {
    .name = "softmax",
    .flags = OP_IS_NONNEGATIVE | OP_SPARES_INPUTS | OP_NO_FLOPS,
    .infer = softmax_infer,
    .forward = softmax_forward,
    .backward = softmax_backward,
    .sample = softmax_sample,
};
