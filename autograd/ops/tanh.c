/* y = tanh(x)        dx = dy (1 - y^2) */
#include <math.h>

#include "autograd/ops.h"
#include "autograd/ops/elementwise.h"

static void tanh_kernel(const float *x, float *y, int64_t count) {
    for (int64_t i = 0; i < count; i++) y[i] = tanhf(x[i]);
}

static void tanh_gradient(const float *x, const float *y, const float *dy, float *dx,
                          int64_t count) {
    (void)x;
    for (int64_t i = 0; i < count; i++) dx[i] = dy[i] * (1 - y[i] * y[i]);
}

static void tanh_forward(Tape *t, Var *v) {
    (void)t;
    elementwise_forward(v, tanh_kernel);
}

static void tanh_backward(Tape *t, Var *v) {
    elementwise_backward(t, v, tanh_gradient);
}

static Var *tanh_sample(Tape *t, int which) {
    if (which > 0) return NULL;
    Var *x = tape_sample_leaf(t, SHAPE(4, 5), -2, 2);
    return op_tanh(t, x);
}

Var *op_tanh(Tape *t, Var *x) {
    return tape_record(t, &op_row_tanh, 1, &x, NULL, 0);
}

const Op op_row_tanh = {
    .name = "tanh",
    .flags = OP_SPARES_INPUTS,
    .infer = elementwise_infer,
    .forward = tanh_forward,
    .backward = tanh_backward,
    .sample = tanh_sample,
};
