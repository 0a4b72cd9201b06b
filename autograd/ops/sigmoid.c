/* y = 1 / (1 + exp(-x))        dx = dy y (1 - y) */
#include "autograd/ops.h"
#include "autograd/ops/elementwise.h"
#include "core/kernels/isa.h"

static void sigmoid_kernel(const float *restrict x, float *restrict y, int64_t count) {
    isa_active()->logistic(x, count, y);
}

static void sigmoid_gradient(const float *restrict x, const float *restrict y,
                             const float *restrict dy, float *restrict dx, int64_t count) {
    (void)x;
    for (int64_t i = 0; i < count; i++) dx[i] = dy[i] * (y[i] * (1 - y[i]));
}

ELEMENTWISE_MAP(sigmoid, MAP_FLOW_VALUES)

static Var *sigmoid_sample(Tape *t, int which) {
    if (which > 0) return NULL;
    Var *x = tape_sample_leaf(t, SHAPE(4, 5), -4, 4);
    return op_sigmoid(t, x);
}

Var *op_sigmoid(Tape *t, Var *x) {
    return tape_record(t, &op_row_sigmoid, 1, &x, NULL, 0);
}

const Op op_row_sigmoid = {
    .name = "sigmoid",
    .flags = OP_IS_NONNEGATIVE | OP_SPARES_INPUTS | OP_NO_FLOPS,
    .infer = elementwise_infer,
    .sample = sigmoid_sample,
    .map = &sigmoid_map,
};
