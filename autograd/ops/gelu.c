/* y = x Phi(x)        dx = dy (Phi(x) + x phi(x))
 *
 * Phi, phi: distribution and density of the standard normal (Hendrycks and Gimpel 2016); the exact
 * form, PyTorch's default. */
#include <math.h>

#include "autograd/ops.h"
#include "autograd/ops/elementwise.h"

static inline float phi_integral(float x) {
    return 0.5f * (1 + erff(x * (float)M_SQRT1_2));
}

static inline float phi_density(float x) {
    return (float)(0.5 * M_2_SQRTPI * M_SQRT1_2) * expf(-0.5f * x * x);
}

static void gelu_kernel(const float *restrict x, float *restrict y, int64_t count) {
    for (int64_t i = 0; i < count; i++) y[i] = x[i] * phi_integral(x[i]);
}

static void gelu_gradient(const float *restrict x, const float *restrict y,
                          const float *restrict dy, float *restrict dx, int64_t count) {
    (void)y;
    for (int64_t i = 0; i < count; i++)
        dx[i] = dy[i] * (phi_integral(x[i]) + x[i] * phi_density(x[i]));
}

ELEMENTWISE_MAP(gelu, MAP_FLOW_VALUES)

static Var *gelu_sample(Tape *t, int which) {
    if (which > 0) return NULL;
    Var *x = tape_sample_leaf(t, SHAPE(4, 5), -3, 3);
    return op_gelu(t, x);
}

Var *op_gelu(Tape *t, Var *x) {
    return tape_record(t, &op_row_gelu, 1, &x, NULL, 0);
}

const Op op_row_gelu = {
    .name = "gelu",
    .flags = OP_SPARES_OUTPUT | OP_NO_FLOPS | OP_IS_CHEAP,
    .infer = elementwise_infer,
    .sample = gelu_sample,
    .map = &gelu_map,
};
