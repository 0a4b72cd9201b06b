/* Layer normalisation over the last dimension (Ba, Kiros, Hinton 2016):
 * y = gamma (x - mean) / sqrt(variance + epsilon) + beta, the moments being each row's own. */
#include <math.h>

#include "autograd/channel.h"
#include "autograd/ops.h"
#include "autograd/ops/row_sum.h"

typedef struct Attr {
    float epsilon;
} Attr;

typedef struct Saved {
    float *mean, *rstd; /* [rows] */
} Saved;

static bool infer(Var *v, Error *err) {
    char a[SHAPE_TEXT_BYTES], b[SHAPE_TEXT_BYTES];
    Shape x = v->in[0]->value.shape;
    for (int i = 1; i < 3; i++)
        if (x.rank < 1 || var_count(v->in[i]) != shape_last(x))
            return FAIL(err, ERROR_INPUT, "%s %s does not fit input %s: one value per column",
                        i == 1 ? "gamma" : "beta", shape_text(v->in[i]->value.shape, a),
                        shape_text(x, b));
    return true;
}

static int64_t saved_bytes(const Tape *t, const Var *v) {
    (void)t;
    int64_t rows = shape_rows(v->value.shape);
    return arena_padded(sizeof(Saved)) + 2 * arena_padded((int64_t)sizeof(float) * rows);
}

static void forward(Tape *t, Var *v) {
    const Attr *attr = v->attr;
    int64_t rows = shape_rows(v->value.shape), columns = shape_last(v->value.shape);
    if (!v->saved) {
        Saved *fresh = v->saved = tape_alloc(t, sizeof *fresh);
        fresh->mean = tape_alloc(t, sizeof(float) * (size_t)rows);
        fresh->rstd = tape_alloc(t, sizeof(float) * (size_t)rows);
    }
    const Saved *saved = v->saved;
    const float *gamma = var_f32(v->in[1]), *beta = var_f32(v->in[2]);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const float *restrict x = var_f32(v->in[0]) + r * columns;
        float *restrict y = var_f32(v) + r * columns;
        float mean = (float)(row_sum(x, columns) / (double)columns);
        double variance = row_squares(x, mean, columns) / (double)columns;
        float rstd = (float)(1 / sqrt(variance + (double)attr->epsilon));
        for (int64_t c = 0; c < columns; c++) y[c] = (x[c] - mean) * rstd * gamma[c] + beta[c];
        saved->mean[r] = mean;
        saved->rstd[r] = rstd;
    }
}

/* With g = dy gamma and h = (x - mean) rstd: dx = rstd (g - mean(g) - h mean(g h)). */
static void backward_row(const float *dy, const float *x, const float *gamma, float mean,
                         float rstd, int64_t columns, float beta, float *dx) {
    double sum = 0, product = 0;
    for (int64_t c = 0; c < columns; c++) {
        double g = (double)dy[c] * (double)gamma[c];
        sum += g;
        product += g * (double)((x[c] - mean) * rstd);
    }
    float mean_g = (float)(sum / (double)columns), mean_gh = (float)(product / (double)columns);
    for (int64_t c = 0; c < columns; c++) {
        float d = rstd * (dy[c] * gamma[c] - mean_g - (x[c] - mean) * rstd * mean_gh);
        dx[c] = beta == 0 ? d : dx[c] + d;
    }
}

/* The parameters' gradients: sums of dy h, then of dy. */
static void sum_block(const void *self, int64_t first, int64_t count, double *sums) {
    const Var *v = self;
    const Saved *saved = v->saved;
    int64_t columns = shape_last(v->value.shape);
    for (int64_t r = first; r < first + count; r++) {
        const float *dy = var_grad_f32(v) + r * columns, *x = var_f32(v->in[0]) + r * columns;
        for (int64_t c = 0; c < columns; c++) {
            float h = (x[c] - saved->mean[r]) * saved->rstd[r];
            sums[c] += (double)(dy[c] * h);
            sums[columns + c] += (double)dy[c];
        }
    }
}

static void backward(Tape *t, Var *v) {
    const Saved *saved = v->saved;
    int64_t rows = shape_rows(v->value.shape), columns = shape_last(v->value.shape);
    const float *x = var_f32(v->in[0]), *gamma = var_f32(v->in[1]);
    float beta[3], *grad[3];
    for (int i = 0; i < 3; i++) grad[i] = tape_grad(t, v->in[i], &beta[i]);
    if (grad[0]) {
#pragma omp parallel for schedule(static)
        for (int64_t r = 0; r < rows; r++)
            backward_row(var_grad_f32(v) + r * columns, x + r * columns, gamma, saved->mean[r],
                         saved->rstd[r], columns, beta[0], grad[0] + r * columns);
    }
    if (!grad[1] && !grad[2]) return;
    ArenaMark mark = arena_mark(t->arena);
    double *sums = arena_new_array(t->arena, double, 2 * columns);
    channel_reduce(rows, 2 * columns, sum_block, v, sums, t->arena);
    channel_add(grad[1], beta[1], NULL, sums, columns);
    channel_add(grad[2], beta[2], NULL, sums + columns, columns);
    arena_rewind(t->arena, mark);
}

static int64_t backward_scratch(const Var *v) {
    int64_t rows = shape_rows(v->value.shape), sums = 2 * shape_last(v->value.shape);
    if (!v->in[1]->needs_grad && !v->in[2]->needs_grad) return 0;
    return arena_padded((int64_t)sizeof(double) * sums) + channel_reduce_scratch(rows, sums);
}

static Var *sample(Tape *t, int which) {
    if (which >= 2) return NULL;
    Var *x = tape_sample_leaf(t, which ? SHAPE(2, 3, 11) : SHAPE(4, 6), -1, 1);
    int64_t columns = shape_last(x->value.shape);
    Var *gamma = tape_sample_leaf(t, SHAPE(columns), 0.5f, 1.5f);
    Var *beta = tape_sample_leaf(t, SHAPE(columns), -1, 1);
    return op_layer_norm(t, x, gamma, beta, 1e-3f);
}

Var *op_layer_norm(Tape *t, Var *x, Var *gamma, Var *beta, float epsilon) {
    Var *in[] = {x, gamma, beta};
    Attr attr = {epsilon};
    return tape_record(t, &op_row_layer_norm, 3, in, &attr, sizeof attr);
}

const Op op_row_layer_norm = {
    .name = "layer_norm",
    .flags = OP_SPARES_OUTPUT | OP_NO_FLOPS | OP_IS_CHEAP,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .sample = sample,
    .saved_bytes = saved_bytes,
    .backward_scratch = backward_scratch,
};
