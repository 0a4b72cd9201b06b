/* Root mean square normalisation over the last dimension (Zhang and Sennrich 2019):
 * y = gamma x / sqrt(mean(x x) + epsilon), the mean being each row's own. */
#include <math.h>

#include "autograd/channel.h"
#include "autograd/ops.h"
#include "autograd/ops/row_sum.h"
#include "core/parallel.h"

typedef struct Attr {
    float epsilon;
} Attr;

static bool infer(Var *v, Error *err) {
    char a[SHAPE_TEXT_BYTES], b[SHAPE_TEXT_BYTES];
    Shape x = v->in[0]->value.shape;
    if (x.rank >= 1 && var_count(v->in[1]) == shape_last(x)) return true;
    return FAIL(err, ERROR_INPUT, "gamma %s does not fit input %s: one value per column",
                shape_text(v->in[1]->value.shape, a), shape_text(x, b));
}

static int64_t saved_bytes(const Tape *t, const Var *v) {
    (void)t;
    return arena_padded((int64_t)sizeof(float) * shape_rows(v->value.shape));
}

/* Saves 1 / sqrt(mean(x x) + epsilon) of each row. */
static void forward_row(const Var *v, int64_t row, int64_t columns, float *saved) {
    const Attr *attr = v->attr;
    const float *restrict x = var_f32(v->in[0]) + row * columns, *gamma = var_f32(v->in[1]);
    float *restrict y = var_f32(v) + row * columns;
    double square = row_squares(x, 0, columns) / (double)columns;
    float factor = (float)(1 / sqrt(square + (double)attr->epsilon));
    for (int64_t c = 0; c < columns; c++) y[c] = x[c] * factor * gamma[c];
    saved[row] = factor;
}

static void forward(Tape *t, Var *v) {
    int64_t rows = shape_rows(v->value.shape), columns = shape_last(v->value.shape);
    if (!v->saved) v->saved = tape_alloc(t, sizeof(float) * (size_t)rows);
    float *saved = v->saved;
    PARALLEL_FOR(row, rows, 4 * rows * columns, forward_row(v, row, columns, saved));
}

/* With g = dy gamma and h = x factor: dx = factor (g - h mean(g h)). */
static void backward_row(const float *dy, const float *x, const float *gamma, float factor,
                         int64_t columns, float beta, float *dx) {
    double product = 0;
    for (int64_t c = 0; c < columns; c++)
        product += (double)dy[c] * (double)gamma[c] * (double)(x[c] * factor);
    float mean = (float)(product / (double)columns);
    for (int64_t c = 0; c < columns; c++) {
        float d = factor * (dy[c] * gamma[c] - x[c] * factor * mean);
        dx[c] = beta == 0 ? d : dx[c] + d;
    }
}

/* Gamma's gradient: sums of dy h. */
static void sum_block(const void *self, int64_t first, int64_t count, double *sums) {
    const Var *v = self;
    const float *saved = v->saved;
    int64_t columns = shape_last(v->value.shape);
    for (int64_t r = first; r < first + count; r++) {
        const float *dy = var_grad_f32(v) + r * columns, *x = var_f32(v->in[0]) + r * columns;
        for (int64_t c = 0; c < columns; c++) sums[c] += (double)(dy[c] * (x[c] * saved[r]));
    }
}

static void backward(Tape *t, Var *v) {
    const float *saved = v->saved;
    int64_t rows = shape_rows(v->value.shape), columns = shape_last(v->value.shape);
    const float *x = var_f32(v->in[0]), *gamma = var_f32(v->in[1]);
    float beta[2], *grad[2];
    for (int i = 0; i < 2; i++) grad[i] = tape_grad(t, v->in[i], &beta[i]);
    if (grad[0]) {
#pragma omp parallel for schedule(static)
        for (int64_t r = 0; r < rows; r++)
            backward_row(var_grad_f32(v) + r * columns, x + r * columns, gamma, saved[r], columns,
                         beta[0], grad[0] + r * columns);
    }
    if (!grad[1]) return;
    ArenaMark mark = arena_mark(t->arena);
    double *sums = arena_new_array(t->arena, double, columns);
    channel_reduce(rows, columns, sum_block, v, sums, t->arena);
    channel_add(grad[1], beta[1], NULL, sums, columns);
    arena_rewind(t->arena, mark);
}

static int64_t backward_scratch(const Var *v) {
    int64_t rows = shape_rows(v->value.shape), columns = shape_last(v->value.shape);
    if (!v->in[1]->needs_grad) return 0;
    return arena_padded((int64_t)sizeof(double) * columns) + channel_reduce_scratch(rows, columns);
}

static Var *sample(Tape *t, int which) {
    if (which >= 2) return NULL;
    Var *x = tape_sample_leaf(t, which ? SHAPE(2, 3, 11) : SHAPE(4, 6), -1, 1);
    Var *gamma = tape_sample_leaf(t, SHAPE(shape_last(x->value.shape)), 0.5f, 1.5f);
    return op_rms_norm(t, x, gamma, 1e-3f);
}

Var *op_rms_norm(Tape *t, Var *x, Var *gamma, float epsilon) {
    Var *in[] = {x, gamma};
    Attr attr = {epsilon};
    return tape_record(t, &op_row_rms_norm, 2, in, &attr, sizeof attr);
}

const Op op_row_rms_norm = {
    .name = "rms_norm",
    .flags = OP_SPARES_OUTPUT | OP_NO_FLOPS | OP_IS_CHEAP,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .sample = sample,
    .saved_bytes = saved_bytes,
    .backward_scratch = backward_scratch,
};
