/* y = max(x, 0)        dx = dy where y > 0, else 0
 *
 * The derivative is read off the output's sign, so the input need not stay. Comparisons are written
 * so that NaN stays NaN. */
#include "autograd/ops.h"
#include "autograd/ops/elementwise.h"
#include "core/kernels/isa.h"

static void relu_kernel(const float *x, float *y, int64_t count) {
    isa_active()->relu(x, count, y);
}

static void relu_gradient(const float *x, const float *y, const float *dy, float *dx,
                          int64_t count) {
    (void)x;
    isa_active()->relu_backward(y, dy, count, dx);
}

ELEMENTWISE_MAP(relu, MAP_FLOW_MASK)

static Var *relu_sample(Tape *t, int which) {
    if (which > 0) return NULL;
    Var *x = elementwise_sample(t, SHAPE(3, 5), 0.2f);
    return op_relu(t, x);
}

Var *op_relu(Tape *t, Var *x) {
    return tape_record(t, &op_row_relu, 1, &x, NULL, 0);
}

const Op op_row_relu = {
    .name = "relu",
    .flags = OP_IS_HOMOGENEOUS | OP_IS_NONNEGATIVE | OP_SPARES_INPUTS | OP_NO_FLOPS,
    .infer = elementwise_infer,
    .sample = relu_sample,
    .map = &relu_map,
};
