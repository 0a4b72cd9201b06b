/* y = x / max|x| (0 where all of x is 0): DoReFa's weights after tanh (Zhou et al. 2016). The
 * gradient through the maximum goes to its first element. */
#include <math.h>

#include "autograd/ops.h"

typedef struct Saved {
    int64_t index; /* of the first largest |x| */
    float inverse; /* 1 / max|x|, or 0 */
} Saved;

static bool infer(Var *v, Error *err) {
    (void)v, (void)err;
    return true;
}

/* A NaN counts as the largest, so that it shows. */
static int64_t find_largest(const float *x, int64_t count) {
    int64_t index = 0;
    for (int64_t i = 1; i < count; i++)
        if (fabsf(x[i]) > fabsf(x[index]) || (x[i] != x[i] && x[index] == x[index])) index = i;
    return index;
}

static int64_t saved_bytes(const Tape *t, const Var *v) {
    (void)t, (void)v;
    return arena_padded(sizeof(Saved));
}

static void forward(Tape *t, Var *v) {
    if (!v->saved) v->saved = tape_alloc(t, sizeof(Saved));
    Saved *saved = v->saved;
    const float *x = var_f32(v->in[0]);
    float *y = var_f32(v);
    int64_t count = var_count(v);
    saved->index = find_largest(x, count);
    float largest = fabsf(x[saved->index]);
    saved->inverse = largest == 0 ? 0 : 1 / largest;
    for (int64_t i = 0; i < count; i++) y[i] = largest == 0 ? 0 : x[i] / largest;
}

static void backward(Tape *t, Var *v) {
    const Saved *saved = v->saved;
    const float *y = var_f32(v), *dy = var_grad_f32(v);
    int64_t count = var_count(v);
    float beta, *dx = tape_grad(t, v->in[0], &beta);
    if (!dx) return;
    double sum = 0;
    for (int64_t i = 0; i < count; i++) {
        sum += (double)dy[i] * (double)y[i];
        dx[i] = dy[i] * saved->inverse + (beta == 0 ? 0.0f : dx[i]);
    }
    dx[saved->index] -= copysignf(1, y[saved->index]) * (float)(sum * (double)saved->inverse);
}

static Var *sample(Tape *t, int which) {
    if (which >= 1) return NULL;
    Var *x = tape_sample_leaf(t, SHAPE(3, 4), -1, 1);
    var_f32(x)[5] = -1.5f; /* alone at the top */
    return op_max_normalize(t, x);
}

Var *op_max_normalize(Tape *t, Var *x) {
    return tape_record(t, &op_row_max_normalize, 1, &x, NULL, 0);
}

const Op op_row_max_normalize = {
    .name = "max_normalize",
    .flags = OP_KEEPS_SIGN | OP_NO_FLOPS,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .sample = sample,
    .saved_bytes = saved_bytes,
};
