#include "autograd/ops/elementwise.h"

static inline int64_t run_length(int64_t first, int64_t count) {
    return count - first < ELEMENTWISE_RUN ? count - first : ELEMENTWISE_RUN;
}

bool elementwise_infer(Var *v, Error *err) {
    (void)err;
    v->value.shape = v->in[0]->value.shape;
    return true;
}

void elementwise_forward(Var *v, ElementwiseKernel *kernel) {
    int64_t count = var_count(v);
    const float *x = var_f32(v->in[0]);
    float *y = var_f32(v);
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < count; first += ELEMENTWISE_RUN)
        kernel(x + first, y + first, run_length(first, count));
}

/* One run: straight into dx, or beside it and then added. */
static void backward_run(ElementwiseGradient *gradient, const float *x, const float *y,
                         const float *dy, float beta, float *dx, int64_t count) {
    if (beta == 0) {
        gradient(x, y, dy, dx, count);
        return;
    }
    float more[ELEMENTWISE_RUN];
    gradient(x, y, dy, more, count);
    for (int64_t i = 0; i < count; i++) dx[i] += more[i];
}

void elementwise_backward(Tape *t, Var *v, ElementwiseGradient *gradient) {
    float beta;
    float *dx = tape_grad(t, v->in[0], &beta);
    if (!dx) return;
    int64_t count = var_count(v);
    const float *x = var_f32(v->in[0]), *y = var_f32(v), *dy = v->grad;
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < count; first += ELEMENTWISE_RUN)
        backward_run(gradient, x + first, y + first, dy + first, beta, dx + first,
                     run_length(first, count));
}

void elementwise_add(const float *x, float beta, float *out, int64_t count) {
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < count; first += ELEMENTWISE_RUN) {
        int64_t end = first + run_length(first, count);
        for (int64_t i = first; i < end; i++) out[i] = gradient_join(beta, out[i], x[i]);
    }
}

Var *elementwise_sample(Tape *t, Shape shape, float clear) {
    Var *x = tape_sample_leaf(t, shape, clear, 1 + clear);
    float *values = var_f32(x);
    for (int64_t i = 0; i < var_count(x); i += 2) values[i] = -values[i];
    return x;
}
