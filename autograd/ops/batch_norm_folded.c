/* Batch norm after a convolution whose weight is already folded (batch_norm_fold): the approximate,
 * one-convolution form of PyTorch's _ConvBnNd. With the moments m and v of c, f = gamma / sigma of
 * the running statistics before this step, and D = v + epsilon f^2,
 *     batch:    y = |gamma| (c - m) / sqrt(D) + beta        (= 0 + beta where D is 0)
 *     running:  y = c + (beta + (bias - running_mean) f)
 * f depends on gamma, so D does: d gamma = sign(gamma) (v / D) sum dy (c - m) / sqrt(D). */
#include <math.h>
#include <string.h>

#include "autograd/channel.h"
#include "autograd/map.h"
#include "autograd/ops.h"

typedef struct Saved {
    float *running_mean, *running_variance; /* [C], before this step's update */
    float *factor;                          /* [C], f */
    float *mean, *variance, *rstd;          /* [C], of c: m, v, 1 / sqrt(D) */
    float *center, *scale, *shift;          /* [C]: y = (c - center) scale + shift */
    float *dy_factor, *x_factor,
        *constant; /* [C]: dc = dy_factor dy + x_factor (c - m) + constant */
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

enum { SAVED_ARRAYS = 12 };

static Saved *saved_new(Tape *t, const BatchNormAttr *attr, int64_t channels) {
    size_t bytes = sizeof(float) * (size_t)channels;
    Saved *saved = tape_alloc(t, sizeof *saved);
    saved->running_mean = memcpy(tape_alloc(t, bytes), attr->running_mean, bytes);
    saved->running_variance = memcpy(tape_alloc(t, bytes), attr->running_variance, bytes);
    float **parts[] = {&saved->factor,   &saved->mean,    &saved->variance, &saved->rstd,
                       &saved->center,   &saved->scale,   &saved->shift,    &saved->dy_factor,
                       &saved->x_factor, &saved->constant};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) *parts[i] = tape_alloc(t, bytes);
    return saved;
}

static int64_t saved_bytes(const Tape *t, const Var *v) {
    (void)t;
    int64_t bytes = (int64_t)sizeof(float) * shape_last(v->value.shape);
    return arena_padded(sizeof(Saved)) + SAVED_ARRAYS * arena_padded(bytes);
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

static void prepare_batch(Tape *t, Var *v, Saved *saved) {
    const BatchNormAttr *attr = v->attr;
    channel_moments_of(t, v->in[0], saved->mean, saved->variance);
    int64_t channels = shape_last(v->value.shape);
    for (int64_t c = 0; c < channels; c++) {
        double f = (double)saved->factor[c];
        double d = (double)saved->variance[c] + (double)attr->epsilon * f * f;
        saved->rstd[c] = d > 0 ? (float)(1 / sqrt(d)) : 0;
        saved->center[c] = saved->mean[c];
        saved->scale[c] = (float)(size_of(saved, attr, c) * (double)saved->rstd[c]);
        saved->shift[c] = var_f32(v->in[2])[c];
    }
    if (t->mode.is_training && !t->is_replay && !t->mode.is_rerun) update_running(v, saved);
}

static void prepare_running(Var *v, Saved *saved) {
    const BatchNormAttr *attr = v->attr;
    const float *gamma = var_f32(v->in[1]), *beta = var_f32(v->in[2]);
    for (int64_t c = 0; c < shape_last(v->value.shape); c++) {
        saved->center[c] = saved->mean[c] = 0;
        saved->scale[c] = 1;
        saved->shift[c] = batch_norm_bias(gamma[c], beta[c], bias_of(v, c), saved->running_mean[c],
                                          saved->running_variance[c], attr->epsilon);
    }
}

static void prepare(Tape *t, Var *v) {
    const BatchNormAttr *attr = v->attr;
    int64_t channels = shape_last(v->value.shape);
    if (!v->saved) v->saved = saved_new(t, attr, channels);
    Saved *saved = v->saved;
    for (int64_t c = 0; c < channels; c++)
        saved->factor[c] =
            batch_norm_factor(var_f32(v->in[1])[c], saved->running_variance[c], attr->epsilon);
    if (attr->uses_batch)
        prepare_batch(t, v, saved);
    else
        prepare_running(v, saved);
}

static void forward(const Var *v, const MapBlock *b) {
    const Saved *saved = v->saved;
    int64_t c = b->piece.channel;
    channel_affine(b->in[0], saved->center + c, saved->scale + c, saved->shift + c, b->piece.rows,
                   b->piece.columns, b->out);
}

static bool uses_batch(const Var *v) {
    return ((const BatchNormAttr *)v->attr)->uses_batch;
}

/* With running statistics c is only shifted. */
static MapFlow flow_of(const Var *v) {
    return uses_batch(v) ? MAP_FLOW_VALUES : MAP_FLOW_PLAIN;
}

static int64_t sum_count(const Var *v) {
    return (uses_batch(v) ? 2 : 1) * shape_last(v->value.shape);
}

static void reduce(const Var *v, const MapBlock *b) {
    const Saved *saved = v->saved;
    int64_t c = b->piece.channel, channels = b->piece.stride;
    if (!uses_batch(v)) {
        channel_sums(b->dy, b->piece.rows, b->piece.columns, b->sums + c);
        return;
    }
    channel_products(b->dy, b->in[0], saved->mean + c, b->piece.rows, b->piece.columns, b->sums + c,
                     b->sums + channels + c);
}

/* dc = |gamma| r (dy - s1 / n - (c - m) r^2 s2 / n), r = 1 / sqrt(D), s1 = sum dy,
 * s2 = sum dy (c - m); d gamma as above. */
static void settle_batch(Var *v, const double *sums, const MapGrads *grads) {
    const BatchNormAttr *attr = v->attr;
    const Saved *saved = v->saved;
    int64_t rows = shape_rows(v->value.shape), channels = shape_last(v->value.shape);
    for (int64_t c = 0; c < channels; c++) {
        double f = (double)saved->factor[c], rstd = (double)saved->rstd[c];
        double scale = size_of(saved, attr, c) * rstd;
        double share = 1 - (double)attr->epsilon * f * f * rstd * rstd; /* v / D */
        double to_gamma = sums[channels + c] * copysign(rstd * share, f);
        double to_bias = 0; /* m takes it away */
        saved->dy_factor[c] = (float)scale;
        saved->x_factor[c] = (float)(-scale * rstd * rstd * sums[channels + c] / (double)rows);
        saved->constant[c] = (float)(-scale * sums[c] / (double)rows);
        if (grads->grad[1]) channel_add(grads->grad[1] + c, grads->beta[1], NULL, &to_gamma, 1);
        if (grads->grad[3]) channel_add(grads->grad[3] + c, grads->beta[3], NULL, &to_bias, 1);
    }
    channel_add(grads->grad[2], grads->beta[2], NULL, sums, channels);
}

static void settle_running(Var *v, const double *sums, const MapGrads *grads) {
    const BatchNormAttr *attr = v->attr;
    const Saved *saved = v->saved;
    int64_t channels = shape_last(v->value.shape);
    for (int64_t c = 0; c < channels; c++) {
        float slope = (bias_of(v, c) - saved->running_mean[c]) /
                      sqrtf(saved->running_variance[c] + attr->epsilon); /* of y to gamma */
        if (grads->grad[1]) channel_add(grads->grad[1] + c, grads->beta[1], &slope, sums + c, 1);
    }
    channel_add(grads->grad[2], grads->beta[2], NULL, sums, channels);
    channel_add(grads->grad[3], grads->beta[3], saved->factor, sums, channels);
}

static void settle(Var *v, const double *sums, const MapGrads *grads) {
    if (uses_batch(v))
        settle_batch(v, sums, grads);
    else
        settle_running(v, sums, grads);
}

static void backward(const Var *v, const MapBlock *b) {
    const Saved *saved = v->saved;
    int64_t c = b->piece.channel;
    channel_affine_backward(b->dy, b->in[0], saved->mean + c, saved->dy_factor + c,
                            saved->x_factor + c, saved->constant + c, b->piece.rows,
                            b->piece.columns, b->dx[0]);
}

static int64_t forward_scratch(const Var *v) {
    return uses_batch(v) ? channel_moments_scratch(v->in[0]) : 0;
}

static const Map map = {
    .input_count = 1,
    .is_whole = true,
    .takes_moments = uses_batch,
    .prepare = prepare,
    .forward = forward,
    .flow_of = flow_of,
    .backward = backward,
    .sum_count = sum_count,
    .reduce = reduce,
    .settle = settle,
};

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
    .name = "batch_norm_folded",
    .flags = OP_SPARES_OUTPUT | OP_NO_FLOPS,
    .infer = infer,
    .sample = sample,
    .map = &map,
    .saved_bytes = saved_bytes,
    .forward_scratch = forward_scratch,
};
