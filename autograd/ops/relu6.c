/* y = min(max(x, 0), 6)        dx = dy where 0 < y < 6, else 0 */
#include "autograd/ops.h"
#include "autograd/ops/elementwise.h"

static void relu6_kernel(const float *restrict x, float *restrict y, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        float low = x[i] < 0 ? 0 : x[i];
        y[i] = low > 6 ? 6 : low;
    }
}

static void relu6_gradient(const float *restrict x, const float *restrict y,
                           const float *restrict dy, float *restrict dx, int64_t count) {
    (void)x;
    for (int64_t i = 0; i < count; i++) {
        float g = dy[i]; /* loaded in any case: else the loop does not vectorise */
        float low = y[i] <= 0 ? 0 : g;
        dx[i] = y[i] >= 6 ? 0 : low;
    }
}

ELEMENTWISE_MAP(relu6, MAP_FLOW_MASK)

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
    .flags = OP_IS_NONNEGATIVE | OP_SPARES_INPUTS | OP_NO_FLOPS,
    .infer = elementwise_infer,
    .sample = relu6_sample,
    .map = &relu6_map,
};
