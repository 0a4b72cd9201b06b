#include "autograd/ops/elementwise.h"

enum { ELEMENTWISE_RUN = 4096 /* elements that a thread takes at a time */ };

static inline int64_t run_length(int64_t first, int64_t count) {
    return count - first < ELEMENTWISE_RUN ? count - first : ELEMENTWISE_RUN;
}

bool elementwise_infer(Var *v, Error *err) {
    (void)err;
    v->value.shape = v->in[0]->value.shape;
    return true;
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
