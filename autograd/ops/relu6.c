/* y = min(max(x, 0), 6)        dx = dy where 0 < y < 6, else 0 */
#include "autograd/ops.h"
#include "autograd/ops/elementwise.h"

static void relu6_kernel(const float *x, float *y, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        float low = x[i] < 0 ? 0 : x[i];
        y[i] = low > 6 ? 6 : low;
    }
}

static void relu6_gradient(const float *x, const float *y, const float *dy, float *dx,
                           int64_t count) {
    (void)x;
    for (int64_t i = 0; i < count; i++) {
        float g = dy[i]; /* loaded in any case: else the loop does not vectorise */
        float low = y[i] <= 0 ? 0 : g;
        dx[i] = y[i] >= 6 ? 0 : low;
    }
}

static void relu6_forward(Tape *t, Var *v) {
    (void)t;
    elementwise_forward(v, relu6_kernel);
}

static void relu6_backward(Tape *t, Var *v) {
    elementwise_backward(t, v, relu6_gradient);
}

static Var *relu6_sample(Tape *t, int which) {
    switch (which) {
    case 0: { /* below 0, and from 0.5 on */
        Var *x = elementwise_sample(t, SHAPE(3, 5), 0.5f);
        return op_relu6(t, x);
    }
    case 1: { /* above 6 */
        Var *x = tape_sample_leaf(t, SHAPE(7), 6.2f, 8);
        var_f32(x)[3] = 5.5f;
        return op_relu6(t, x);
    }
    default:
        return NULL;
    }
}

Var *op_relu6(Tape *t, Var *x) {
    return tape_record(t, &op_row_relu6, 1, &x, NULL, 0);
}

const Op op_row_relu6 = {
    .name = "relu6",
    .flags = OP_IS_NONNEGATIVE | OP_SPARES_INPUTS,
    .infer = elementwise_infer,
    .forward = relu6_forward,
    .backward = relu6_backward,
    .sample = relu6_sample,
};
