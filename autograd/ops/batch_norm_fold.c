/* The weight of a convolution with its batch norm folded in, as it will be deployed (Jacob et al.
 * 2018, section 3.2): row o of w times the factor f[o] = gamma[o] / sqrt(running_variance[o] +
 * epsilon), or |f[o]|. Running statistics are constants. */
#include <math.h>
#include <string.h>

#include "autograd/channel.h"
#include "autograd/ops.h"

/* A gamma near 0 keeps its sign but not its size: the factor is divided by later. */
static const float GAMMA_MIN = 1e-5f;

float batch_norm_factor(float gamma, float running_variance, float epsilon) {
    float size = fabsf(gamma) < GAMMA_MIN ? GAMMA_MIN : fabsf(gamma);
    return copysignf(size, gamma) / sqrtf(running_variance + epsilon);
}

float batch_norm_bias(float gamma, float beta, float bias, float running_mean,
                      float running_variance, float epsilon) {
    return beta + (bias - running_mean) * batch_norm_factor(gamma, running_variance, epsilon);
}

typedef struct Saved {
    float *variance; /* [out], before the step's update of the running statistics */
    float *factor;   /* [out] */
} Saved;

static int64_t row_length(const Var *v) {
    return var_count(v) / v->value.shape.dim[0];
}

static bool infer(Var *v, Error *err) {
    Shape w = v->in[0]->value.shape;
    char a[SHAPE_TEXT_BYTES], b[SHAPE_TEXT_BYTES];
    if (w.rank < 2 || var_count(v->in[1]) != w.dim[0])
        return FAIL(err, ERROR_INPUT, "gamma %s does not fit weight %s: one value per output",
                    shape_text(v->in[1]->value.shape, a), shape_text(w, b));
    return true;
}

static void multiply_row(const float *restrict x, float factor, int64_t count, float beta,
                         float *restrict y) {
    if (beta == 0) {
        for (int64_t i = 0; i < count; i++) y[i] = x[i] * factor;
    } else {
        for (int64_t i = 0; i < count; i++) y[i] += x[i] * factor;
    }
}

static int64_t saved_bytes(const Tape *t, const Var *v) {
    (void)t;
    int64_t bytes = (int64_t)sizeof(float) * v->value.shape.dim[0];
    return arena_padded(sizeof(Saved)) + 2 * arena_padded(bytes);
}

static void forward(Tape *t, Var *v) {
    const BatchNormAttr *attr = v->attr;
    int64_t rows = v->value.shape.dim[0], length = row_length(v);
    size_t bytes = sizeof(float) * (size_t)rows;
    if (!v->saved) {
        Saved *fresh = v->saved = tape_alloc(t, sizeof *fresh);
        fresh->variance = memcpy(tape_alloc(t, bytes), attr->running_variance, bytes);
        fresh->factor = tape_alloc(t, bytes);
    }
    Saved *saved = v->saved;
    const float *gamma = var_f32(v->in[1]), *w = var_f32(v->in[0]);
    for (int64_t r = 0; r < rows; r++) {
        float factor = batch_norm_factor(gamma[r], saved->variance[r], attr->epsilon);
        saved->factor[r] = attr->is_magnitude ? fabsf(factor) : factor;
        multiply_row(w + r * length, saved->factor[r], length, 0, var_f32(v) + r * length);
    }
}

static double dot(const float *a, const float *b, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

static void backward(Tape *t, Var *v) {
    const BatchNormAttr *attr = v->attr;
    const Saved *saved = v->saved;
    int64_t rows = v->value.shape.dim[0], length = row_length(v);
    float beta_w, beta_gamma;
    float *dw = tape_grad(t, v->in[0], &beta_w);
    float *dgamma = tape_grad(t, v->in[1], &beta_gamma);
    for (int64_t r = 0; r < rows; r++) {
        const float *dy = var_grad_f32(v) + r * length;
        if (dw) multiply_row(dy, saved->factor[r], length, beta_w, dw + r * length);
        if (!dgamma) continue;
        double sum = dot(dy, var_f32(v->in[0]) + r * length, length) /
                     sqrt((double)saved->variance[r] + (double)attr->epsilon);
        if (attr->is_magnitude && var_f32(v->in[1])[r] < 0) sum = -sum;
        channel_add(dgamma + r, beta_gamma, NULL, &sum, 1);
    }
}

static Var *sample(Tape *t, int which) {
    if (which >= 4) return NULL;
    BatchNormAttr attr = {.epsilon = 1e-3f, .momentum = 0.1f, .is_magnitude = which >= 2};
    which %= 2;
    attr.running_mean = arena_new_array(t->arena, float, 3);
    attr.running_variance = arena_new_array(t->arena, float, 3);
    for (int c = 0; c < 3; c++) attr.running_variance[c] = 0.5f + 0.25f * (float)c;
    Var *w = tape_sample_leaf(t, which ? SHAPE(3, 7) : SHAPE(3, 2, 2, 4), -1, 1);
    Var *gamma = tape_sample_leaf(t, SHAPE(3), which ? -1.5f : 0.5f, which ? -0.5f : 1.5f);
    return op_batch_norm_fold(t, w, gamma, attr);
}

Var *op_batch_norm_fold(Tape *t, Var *w, Var *gamma, BatchNormAttr attr) {
    Var *in[] = {w, gamma};
    return tape_record(t, &op_row_batch_norm_fold, 2, in, &attr, sizeof attr);
}

const Op op_row_batch_norm_fold = {
    .name = "batch_norm_fold",
    .flags = OP_SPARES_OUTPUT | OP_NO_FLOPS,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .sample = sample,
    .saved_bytes = saved_bytes,
};
