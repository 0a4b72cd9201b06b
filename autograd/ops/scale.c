/* y = factor x        dx = factor dy        (factor is a constant) */
#include "autograd/ops.h"
#include "autograd/ops/elementwise.h"

static void scale_forward(Tape *t, Var *v) {
    (void)t;
    float factor = *(const float *)v->attr;
    int64_t count = var_count(v);
    const float *x = var_f32(v->in[0]);
    float *y = var_f32(v);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; i++) y[i] = factor * x[i];
}

static void scale_backward(Tape *t, Var *v) {
    float factor = *(const float *)v->attr, beta;
    float *dx = tape_grad(t, v->in[0], &beta);
    if (!dx) return;
    int64_t count = var_count(v);
    const float *dy = v->grad;
#pragma omp parallel for schedule(static) firstprivate(beta)
    for (int64_t i = 0; i < count; i++) dx[i] = gradient_join(beta, dx[i], factor * dy[i]);
}

static Var *scale_sample(Tape *t, int which) {
    if (which > 0) return NULL;
    Var *x = tape_sample_leaf(t, SHAPE(4, 5), -1, 1);
    return op_scale(t, x, -0.7f);
}

Var *op_scale(Tape *t, Var *x, float factor) {
    return tape_record(t, &op_row_scale, 1, &x, &factor, sizeof factor);
}

const Op op_row_scale = {
    .name = "scale",
    .flags = OP_SPARES_INPUTS | OP_SPARES_OUTPUT,
    .infer = elementwise_infer,
    .forward = scale_forward,
    .backward = scale_backward,
    .sample = scale_sample,
};
