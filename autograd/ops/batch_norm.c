/* Batch normalisation (Ioffe and Szegedy 2015) over the last dimension's channels, all leading
 * dimensions being the batch: y = gamma (x - mean) / sqrt(variance + epsilon) + beta, with the
 * batch's moments (variance divided by n) or the running ones. */
#include <math.h>

#include "autograd/channel.h"
#include "autograd/map.h"
#include "autograd/ops.h"

typedef struct Saved {                      /* [C] each */
    float *mean, *rstd;                     /* what x was normalised with */
    float *scale;                           /* gamma rstd */
    float *dy_factor, *x_factor, *constant; /* dx = dy_factor dy + x_factor (x - mean) + constant */
} Saved;

static bool infer(Var *v, Error *err) {
    const BatchNormAttr *attr = v->attr;
    char a[SHAPE_TEXT_BYTES], b[SHAPE_TEXT_BYTES];
    Shape x = v->in[0]->value.shape;
    for (int i = 1; i < 3; i++)
        if (x.rank < 1 || var_count(v->in[i]) != shape_last(x))
            return FAIL(err, ERROR_INPUT, "%s %s does not fit input %s: one value per channel",
                        i == 1 ? "gamma" : "beta", shape_text(v->in[i]->value.shape, a),
                        shape_text(x, b));
    if (attr->uses_batch && shape_rows(x) < 2)
        return FAIL(err, ERROR_INPUT,
                    "input %s has one value per channel, which has no variance: use a larger batch",
                    shape_text(x, a));
    return true;
}

/* PyTorch's rule: running statistics keep the unbiased variance. */
static void update_running(const BatchNormAttr *attr, const float *mean, const float *variance,
                           int64_t rows, int64_t channels) {
    float keep = 1 - attr->momentum, unbias = (float)((double)rows / (double)(rows - 1));
    for (int64_t c = 0; c < channels; c++) {
        attr->running_mean[c] = keep * attr->running_mean[c] + attr->momentum * mean[c];
        attr->running_variance[c] =
            keep * attr->running_variance[c] + attr->momentum * (variance[c] * unbias);
    }
}

static void find_statistics(Tape *t, Var *v, Saved *saved) {
    const BatchNormAttr *attr = v->attr;
    int64_t rows = shape_rows(v->value.shape), channels = shape_last(v->value.shape);
    if (attr->uses_batch) {
        channel_moments_of(t, v->in[0], saved->mean, saved->rstd);
        if (t->mode.is_training && !t->is_replay && !t->mode.is_rerun)
            update_running(attr, saved->mean, saved->rstd, rows, channels);
    }
    for (int64_t c = 0; c < channels; c++) {
        if (!attr->uses_batch) saved->mean[c] = attr->running_mean[c];
        float variance = attr->uses_batch ? saved->rstd[c] : attr->running_variance[c];
        saved->rstd[c] = (float)(1 / sqrt((double)variance + (double)attr->epsilon));
    }
}

enum { SAVED_ARRAYS = 6 };

static Saved *saved_new(Tape *t, int64_t channels) {
    size_t bytes = sizeof(float) * (size_t)channels;
    Saved *saved = tape_alloc(t, sizeof *saved);
    float **parts[SAVED_ARRAYS] = {&saved->mean,      &saved->rstd,     &saved->scale,
                                   &saved->dy_factor, &saved->x_factor, &saved->constant};
    for (int i = 0; i < SAVED_ARRAYS; i++) *parts[i] = tape_alloc(t, bytes);
    return saved;
}

static int64_t saved_bytes(const Tape *t, const Var *v) {
    (void)t;
    int64_t bytes = (int64_t)sizeof(float) * shape_last(v->value.shape);
    return arena_padded(sizeof(Saved)) + SAVED_ARRAYS * arena_padded(bytes);
}

static void prepare(Tape *t, Var *v) {
    int64_t channels = shape_last(v->value.shape);
    if (!v->saved) v->saved = saved_new(t, channels);
    Saved *saved = v->saved;
    find_statistics(t, v, saved);
    const float *gamma = var_f32(v->in[1]);
    for (int64_t c = 0; c < channels; c++) saved->scale[c] = gamma[c] * saved->rstd[c];
}

static void forward(const Var *v, const MapBlock *b) {
    const Saved *saved = v->saved;
    int64_t c = b->piece.channel;
    channel_affine(b->in[0], saved->mean + c, saved->scale + c, var_f32(v->in[2]) + c,
                   b->piece.rows, b->piece.columns, b->out);
}

static int64_t sum_count(const Var *v) {
    return 2 * shape_last(v->value.shape);
}

static void reduce(const Var *v, const MapBlock *b) {
    const Saved *saved = v->saved;
    int64_t c = b->piece.channel, channels = b->piece.stride;
    channel_products(b->dy, b->in[0], saved->mean + c, b->piece.rows, b->piece.columns, b->sums + c,
                     b->sums + channels + c);
}

/* With s1 = sum dy, s2 = sum dy (x - mean), n rows:
 * dx = gamma rstd (dy - s1 / n - (x - mean) rstd^2 s2 / n); running statistics are constants. */
static void settle(Var *v, const double *sums, const MapGrads *grads) {
    const BatchNormAttr *attr = v->attr;
    const Saved *saved = v->saved;
    int64_t rows = shape_rows(v->value.shape), channels = shape_last(v->value.shape);
    for (int64_t c = 0; c < channels; c++) {
        double rstd = (double)saved->rstd[c], scale = (double)var_f32(v->in[1])[c] * rstd;
        double share = attr->uses_batch ? scale / (double)rows : 0;
        saved->dy_factor[c] = (float)scale;
        saved->x_factor[c] = (float)(-share * rstd * rstd * sums[channels + c]);
        saved->constant[c] = (float)(-share * sums[c]);
    }
    channel_add(grads->grad[1], grads->beta[1], saved->rstd, sums + channels, channels);
    channel_add(grads->grad[2], grads->beta[2], NULL, sums, channels);
}

static void backward(const Var *v, const MapBlock *b) {
    const Saved *saved = v->saved;
    int64_t c = b->piece.channel;
    channel_affine_backward(b->dy, b->in[0], saved->mean + c, saved->dy_factor + c,
                            saved->x_factor + c, saved->constant + c, b->piece.rows,
                            b->piece.columns, b->dx[0]);
}

static bool takes_moments(const Var *v) {
    return ((const BatchNormAttr *)v->attr)->uses_batch;
}

static int64_t forward_scratch(const Var *v) {
    return takes_moments(v) ? channel_moments_scratch(v->in[0]) : 0;
}

static const Map map = {
    .input_count = 1,
    .is_whole = true,
    .takes_moments = takes_moments,
    .prepare = prepare,
    .forward = forward,
    .backward = backward,
    .sum_count = sum_count,
    .reduce = reduce,
    .settle = settle,
};

static Var *sample(Tape *t, int which) {
    if (which >= 3) return NULL;
    BatchNormAttr attr = {.epsilon = 1e-3f, .momentum = 0.1f, .uses_batch = which < 2};
    attr.running_mean = arena_new_array(t->arena, float, 5);
    attr.running_variance = arena_new_array(t->arena, float, 5);
    for (int c = 0; c < 5; c++) {
        attr.running_mean[c] = 0.1f * (float)c;
        attr.running_variance[c] = 0.5f + 0.25f * (float)c;
    }
    Var *x = tape_sample_leaf(t, which == 0 ? SHAPE(2, 2, 3, 5) : SHAPE(8, 5), -1, 1);
    Var *gamma = tape_sample_leaf(t, SHAPE(5), 0.5f, 1.5f);
    Var *beta = tape_sample_leaf(t, SHAPE(5), -1, 1);
    return op_batch_norm(t, x, gamma, beta, attr);
}

Var *op_batch_norm(Tape *t, Var *x, Var *gamma, Var *beta, BatchNormAttr attr) {
    Var *in[] = {x, gamma, beta};
    return tape_record(t, &op_row_batch_norm, 3, in, &attr, sizeof attr);
}

const Op op_row_batch_norm = {
    .name = "batch_norm",
    .flags = OP_SPARES_OUTPUT | OP_NO_FLOPS,
    .infer = infer,
    .sample = sample,
    .map = &map,
    .saved_bytes = saved_bytes,
    .forward_scratch = forward_scratch,
};
