/* y = x s        dx = dy s (1 + x (1 - s))        with s = 1 / (1 + exp(-x)) */
#include "autograd/ops.h"
#include "autograd/ops/elementwise.h"
#include "core/kernels/isa.h"

static void silu_kernel(const float *restrict x, float *restrict y, int64_t count) {
    isa_active()->logistic(x, count, y);
    for (int64_t i = 0; i < count; i++) y[i] *= x[i];
}

static void silu_gradient(const float *restrict x, const float *restrict y,
                          const float *restrict dy, float *restrict dx, int64_t count) {
    (void)y;
    isa_active()->logistic(x, count, dx);
    for (int64_t i = 0; i < count; i++) {
        float s = dx[i];
        dx[i] = dy[i] * (s * (1 + x[i] * (1 - s)));
    }
}

ELEMENTWISE_MAP(silu, MAP_FLOW_VALUES)

static Var *silu_sample(Tape *t, int which) {
    if (which > 0) return NULL;
    Var *x = tape_sample_leaf(t, SHAPE(4, 5), -4, 4);
    return op_silu(t, x);
}

Var *op_silu(Tape *t, Var *x) {
    return tape_record(t, &op_row_silu, 1, &x, NULL, 0);
}

const Op op_row_silu = {
    .name = "silu",
    .flags = OP_SPARES_OUTPUT | OP_NO_FLOPS | OP_IS_CHEAP,
    .infer = elementwise_infer,
    .sample = silu_sample,
    .map = &silu_map,
};
