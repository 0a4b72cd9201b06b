/* y = tanh(x)        dx = dy (1 - y^2) */
#include <math.h>

#include "autograd/ops.h"
#include "autograd/ops/elementwise.h"

static void tanh_kernel(const float *restrict x, float *restrict y, int64_t count) {
    for (int64_t i = 0; i < count; i++) y[i] = tanhf(x[i]);
}

static void tanh_gradient(const float *restrict x, const float *restrict y,
                          const float *restrict dy, float *restrict dx, int64_t count) {
    (void)x;
    for (int64_t i = 0; i < count; i++) dx[i] = dy[i] * (1 - y[i] * y[i]);
}

ELEMENTWISE_MAP(tanh, MAP_FLOW_VALUES)

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
    .flags = OP_SPARES_INPUTS | OP_NO_FLOPS,
    .infer = elementwise_infer,
    .sample = tanh_sample,
    .map = &tanh_map,
};
