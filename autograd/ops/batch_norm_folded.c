/* Batch norm after a convolution whose weight is already folded (batch_norm_fold): the approximate,
 * one-convolution form of PyTorch's _ConvBnNd. With the moments m and v of c, f = gamma / sigma of
 * the running statistics before this step, and D = v + epsilon f^2,
 *     batch:    y = |gamma| (c - m) / sqrt(D) + beta        (= 0 + beta where D is 0)
 *     running:  y = c + (beta + (bias - running_mean) f)
 * f depends on gamma, so D does: d gamma = sign(gamma) (v / D) sum dy (c - m) / sqrt(D). */
#include <math.h>
#include <string.h>

#include "autograd/channel.h"
#include "autograd/ops.h"

typedef struct Saved {
    float *running_mean, *running_variance; /* [C], before this step's update */
    float *factor;                          /* [C], f */
    float *mean, *variance, *rstd;          /* [C], of c: m, v, 1 / sqrt(D) */
} Saved;

static bool infer(Var *v, Error *err) {
    static const char *const names[] = {"input", "gamma", "beta", "bias"};
    const BatchNormAttr *attr = v->attr;
    Shape x = v->in[0]->value.shape;
    char a[SHAPE_TEXT_BYTES], b[SHAPE_TEXT_BYTES];
    for (int i = 1; i < 4; i++)
        if (v->in[i] && (x.rank < 1 || var_count(v->in[i]) != shape_last(x)))
            return FAIL(err, ERROR_INPUT, "%s %s does not fit input %s: one value per channel",
                        names[i], shape_text(v->in[i]->value.shape, a), shape_text(x, b));
    if (attr->uses_batch && shape_rows(x) < 2)
        return FAIL(err, ERROR_INPUT,
                    "input %s has one value per channel, which has no variance: use a larger batch",
                    shape_text(x, a));
    return true;
}

static Saved *saved_new(Tape *t, const BatchNormAttr *attr, int64_t channels) {
    size_t bytes = sizeof(float) * (size_t)channels;
    Saved *saved = tape_alloc(t, sizeof *saved);
    saved->running_mean = memcpy(tape_alloc(t, bytes), attr->running_mean, bytes);
    saved->running_variance = memcpy(tape_alloc(t, bytes), attr->running_variance, bytes);
    saved->factor = tape_alloc(t, bytes);
    saved->mean = tape_alloc(t, bytes);
    saved->variance = tape_alloc(t, bytes);
    saved->rstd = tape_alloc(t, bytes);
    return saved;
}

static float bias_of(const Var *v, int64_t c) {
    return v->in[3] ? var_f32(v->in[3])[c] : 0;
}

/* Running statistics describe the unfolded convolution c / f + bias. */
static void update_running(const Var *v, const Saved *saved) {
    const BatchNormAttr *attr = v->attr;
    int64_t rows = shape_rows(v->value.shape), channels = shape_last(v->value.shape);
    float keep = 1 - attr->momentum;
    double unbias = (double)rows / (double)(rows - 1);
    for (int64_t c = 0; c < channels; c++) {
        double f = (double)saved->factor[c];
        double mean = (double)saved->mean[c] / f + (double)bias_of(v, c);
        double variance = (double)saved->variance[c] / (f * f) * unbias;
        attr->running_mean[c] = keep * attr->running_mean[c] + attr->momentum * (float)mean;
        attr->running_variance[c] =
            keep * attr->running_variance[c] + attr->momentum * (float)variance;
    }
}

/* |gamma| as the factor has it: never 0. */
static double size_of(const Saved *saved, const BatchNormAttr *attr, int64_t c) {
    double variance = (double)saved->running_variance[c];
    return fabs((double)saved->factor[c]) * sqrt(variance + (double)attr->epsilon);
}

static void forward_batch(Tape *t, Var *v, Saved *saved) {
    const BatchNormAttr *attr = v->attr;
    int64_t rows = shape_rows(v->value.shape), channels = shape_last(v->value.shape);
    channel_moments(var_f32(v->in[0]), rows, channels, saved->mean, saved->variance, t->arena);
    ArenaMark mark = arena_mark(t->arena);
    float *scale = arena_new_array(t->arena, float, channels);
    for (int64_t c = 0; c < channels; c++) {
        double f = (double)saved->factor[c];
        double d = (double)saved->variance[c] + (double)attr->epsilon * f * f;
        saved->rstd[c] = d > 0 ? (float)(1 / sqrt(d)) : 0;
        scale[c] = (float)(size_of(saved, attr, c) * (double)saved->rstd[c]);
    }
    channel_affine(var_f32(v->in[0]), saved->mean, scale, var_f32(v->in[2]), rows, channels,
                   var_f32(v));
    arena_rewind(t->arena, mark);
    if (t->is_training && !t->is_replay) update_running(v, saved);
}

static void forward_running(Tape *t, Var *v, const Saved *saved) {
    const BatchNormAttr *attr = v->attr;
    int64_t channels = shape_last(v->value.shape);
    const float *gamma = var_f32(v->in[1]), *beta = var_f32(v->in[2]);
    ArenaMark mark = arena_mark(t->arena);
    float *shift = arena_new_array(t->arena, float, channels);
    for (int64_t c = 0; c < channels; c++)
        shift[c] = batch_norm_bias(gamma[c], beta[c], bias_of(v, c), saved->running_mean[c],
                                   saved->running_variance[c], attr->epsilon);
    channel_shift(var_f32(v->in[0]), shift, shape_rows(v->value.shape), channels, var_f32(v));
    arena_rewind(t->arena, mark);
}

static void forward(Tape *t, Var *v) {
    const BatchNormAttr *attr = v->attr;
    int64_t channels = shape_last(v->value.shape);
    if (!v->saved) v->saved = saved_new(t, attr, channels);
    Saved *saved = v->saved;
    for (int64_t c = 0; c < channels; c++)
        saved->factor[c] =
            batch_norm_factor(var_f32(v->in[1])[c], saved->running_variance[c], attr->epsilon);
    if (attr->uses_batch)
        forward_batch(t, v, saved);
    else
        forward_running(t, v, saved);
}

/* dc = |gamma| r (dy - s1 / n - (c - m) r^2 s2 / n), r = 1 / sqrt(D), s1 = sum dy,
 * s2 = sum dy (c - m). */
static void backward_input(Tape *t, Var *v, const double *sums, float beta, float *dx) {
    const Saved *saved = v->saved;
    int64_t rows = shape_rows(v->value.shape), channels = shape_last(v->value.shape);
    ArenaMark mark = arena_mark(t->arena);
    float *a = arena_new_array(t->arena, float, channels);
    float *b = arena_new_array(t->arena, float, channels);
    float *k = arena_new_array(t->arena, float, channels);
    for (int64_t c = 0; c < channels; c++) {
        double rstd = (double)saved->rstd[c], scale = size_of(saved, v->attr, c) * rstd;
        a[c] = (float)scale;
        b[c] = (float)(-scale * rstd * rstd * sums[channels + c] / (double)rows);
        k[c] = (float)(-scale * sums[c] / (double)rows);
    }
    channel_affine_backward(v->grad, var_f32(v->in[0]), saved->mean, a, b, k, rows, channels, beta,
                            dx);
    arena_rewind(t->arena, mark);
}

static void backward_batch(Tape *t, Var *v, float *const grad[4], const float beta[4]) {
    const BatchNormAttr *attr = v->attr;
    const Saved *saved = v->saved;
    int64_t channels = shape_last(v->value.shape);
    ArenaMark mark = arena_mark(t->arena);
    double *sums = arena_new_array(t->arena, double, 2 * channels);
    channel_products(v->grad, var_f32(v->in[0]), saved->mean, shape_rows(v->value.shape), channels,
                     sums, t->arena);
    if (grad[0]) backward_input(t, v, sums, beta[0], grad[0]);
    channel_add(grad[2], beta[2], NULL, sums, channels);
    for (int64_t c = 0; c < channels; c++) {
        double f = (double)saved->factor[c], rstd = (double)saved->rstd[c];
        double share = 1 - (double)attr->epsilon * f * f * rstd * rstd; /* v / D */
        sums[c] = 0; /* of the bias: m takes it away */
        sums[channels + c] *= copysign(rstd * share, f);
    }
    channel_add(grad[1], beta[1], NULL, sums + channels, channels);
    channel_add(grad[3], beta[3], NULL, sums, channels);
    arena_rewind(t->arena, mark);
}

static void add_rows(const float *restrict x, int64_t count, float beta, float *restrict y) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; i++) y[i] = beta == 0 ? x[i] : y[i] + x[i];
}

static void backward_running(Tape *t, Var *v, float *const grad[4], const float beta[4]) {
    const BatchNormAttr *attr = v->attr;
    const Saved *saved = v->saved;
    int64_t channels = shape_last(v->value.shape);
    if (grad[0]) add_rows(v->grad, var_count(v), beta[0], grad[0]);
    if (!grad[1] && !grad[2] && !grad[3]) return;
    ArenaMark mark = arena_mark(t->arena);
    float *sum = arena_new_array(t->arena, float, channels);
    double *sums = arena_new_array(t->arena, double, channels);
    float *slope = arena_new_array(t->arena, float, channels); /* of y to gamma */
    channel_sum(v->grad, shape_rows(v->value.shape), channels, 0, sum, t->arena);
    for (int64_t c = 0; c < channels; c++) {
        sums[c] = (double)sum[c];
        slope[c] = (bias_of(v, c) - saved->running_mean[c]) /
                   sqrtf(saved->running_variance[c] + attr->epsilon);
    }
    channel_add(grad[1], beta[1], slope, sums, channels);
    channel_add(grad[2], beta[2], NULL, sums, channels);
    channel_add(grad[3], beta[3], saved->factor, sums, channels);
    arena_rewind(t->arena, mark);
}

static void backward(Tape *t, Var *v) {
    const BatchNormAttr *attr = v->attr;
    float beta[4], *grad[4];
    for (int i = 0; i < 4; i++) grad[i] = tape_grad(t, v->in[i], &beta[i]);
    if (attr->uses_batch)
        backward_batch(t, v, grad, beta);
    else
        backward_running(t, v, grad, beta);
}

/* Batch statistics, running ones, and both without a bias; the second channel's gamma below 0. */
static Var *sample(Tape *t, int which) {
    if (which >= 4) return NULL;
    BatchNormAttr attr = {.epsilon = 0.05f, .momentum = 0.1f, .uses_batch = which % 2 == 0};
    attr.running_mean = arena_new_array(t->arena, float, 3);
    attr.running_variance = arena_new_array(t->arena, float, 3);
    for (int c = 0; c < 3; c++) {
        attr.running_mean[c] = 0.1f * (float)c;
        attr.running_variance[c] = 0.5f + 0.25f * (float)c;
    }
    Var *x = tape_sample_leaf(t, which < 2 ? SHAPE(2, 2, 3, 3) : SHAPE(8, 3), -1, 1);
    Var *gamma = tape_sample_leaf(t, SHAPE(3), 0.5f, 1.5f);
    var_f32(gamma)[1] *= -1;
    Var *beta = tape_sample_leaf(t, SHAPE(3), -1, 1);
    Var *bias = which < 2 ? tape_sample_leaf(t, SHAPE(3), -1, 1) : NULL;
    return op_batch_norm_folded(t, x, gamma, beta, bias, attr);
}

Var *op_batch_norm_folded(Tape *t, Var *x, Var *gamma, Var *beta, Var *bias, BatchNormAttr attr) {
    Var *in[] = {x, gamma, beta, bias};
    return tape_record(t, &op_row_batch_norm_folded, 4, in, &attr, sizeof attr);
}

const Op op_row_batch_norm_folded = {
    "batch_norm_folded", OP_SPARES_OUTPUT, infer, forward, backward, sample};
