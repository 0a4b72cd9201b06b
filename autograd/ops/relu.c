/* y = max(x, 0)        dx = dy where y > 0, else 0
 *
 * The derivative is read off the output's sign, so the input need not stay. Comparisons are written
 * so that NaN stays NaN. */
#include "autograd/ops.h"
#include "autograd/ops/elementwise.h"

static void relu_kernel(const float *restrict x, float *restrict y, int64_t count) {
    for (int64_t i = 0; i < count; i++) y[i] = x[i] < 0 ? 0 : x[i];
}

static void relu_gradient(const float *restrict x, const float *restrict y,
                          const float *restrict dy, float *restrict dx, int64_t count) {
    (void)x;
    for (int64_t i = 0; i < count; i++) {
        float g = dy[i]; /* loaded in any case: else the loop does not vectorise */
        dx[i] = y[i] <= 0 ? 0 : g;
    }
}

ELEMENTWISE_MAP(relu)

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
    .flags = OP_IS_NONNEGATIVE | OP_SPARES_INPUTS,
    .infer = elementwise_infer,
    .sample = relu_sample,
    .map = &relu_map,
};
