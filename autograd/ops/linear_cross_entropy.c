/* The mean, over the rows r whose label is not -1, of the cross-entropy of the logits z = x w^T:
 *     lse_r = log sum_c exp(z_rc)        loss_r = lse_r - z_r,label
 *     dz    = dy (softmax(z) - onehot(label)) / scored rows        dx = dz w        dw = dz^T x
 * 0 where no row is scored. x [..., in], w [classes, in] of any dtype. Logits are there for some
 * rows at a time, never for all (as Liger's fused loss has it, Hsu et al. 2024): where w learns,
 * backward makes them again; else forward leaves dx. Labels are the caller's, one a row, and must
 * live as long as the record. */
#include <assert.h>
#include <math.h>

#include "autograd/ops.h"
#include "autograd/ops/row_sum.h"
#include "core/counts.h"
#include "core/gemm.h"
#include "core/kernels/isa.h"
#include "core/kernels/operand.h"

enum { LOGITS_MAX = 1 << 23 /* at a time, unless 32 rows have more */ };

typedef struct Attr {
    const int32_t *labels;
} Attr;

/* Of a record that needs gradients: `lse` where w learns, else the gradient of x at dy = 1. */
typedef struct Saved {
    float *lse, *dx;
} Saved;

typedef struct Sizes {
    int64_t rows, in, classes;
    int64_t chunk; /* rows at a time: a multiple of 32, or all */
} Sizes;

static Sizes sizes_of(const Var *v) {
    Shape x = v->in[0]->value.shape;
    Sizes s = {.rows = shape_rows(x), .in = shape_last(x), .classes = v->in[1]->value.shape.dim[0]};
    s.chunk = count_most(LOGITS_MAX / s.classes / GEMM_BLOCK * GEMM_BLOCK, GEMM_BLOCK);
    s.chunk = count_least(s.chunk, s.rows);
    return s;
}

static bool infer(Var *v, Error *err) {
    char a[SHAPE_TEXT_BYTES], b[SHAPE_TEXT_BYTES];
    Shape x = v->in[0]->value.shape, w = v->in[1]->value.shape;
    if (w.rank != 2 || x.rank < 1 || shape_last(x) != w.dim[1])
        return FAIL(err, ERROR_INPUT,
                    "input %s does not fit weight %s: the input's last dimension must equal the "
                    "weight's",
                    shape_text(x, a), shape_text(w, b));
    v->value.shape = SHAPE_SCALAR;
    return true;
}

/* ---- Some rows ---- */

/* Rows first .. first + rows - 1 of an activation, as they are stored. */
static Tensor rows_of(const Tensor *x, int64_t first, int64_t rows, Scales *scales) {
    int64_t columns = shape_last(x->shape);
    Tensor part = *x;
    part.shape = SHAPE(rows, columns);
    if (x->data) part.data = (char *)x->data + dtype_bytes(x->dtype, first * columns);
    if (!x->scales) return part;
    *scales = *x->scales;
    part.scales = scales;
    if (scales->count == 1) return part;
    assert(scales->run_length == columns && scales->row_length == columns);
    scales->count = rows;
    if (scales->scale) scales->scale += first;
    if (scales->zero) scales->zero += first;
    return part;
}

static Matrix logits_like(const Sizes *s, int64_t rows, float *z) {
    return matrix_of((Tensor){.dtype = DTYPE_F32, .shape = SHAPE(rows, s->classes), .data = z});
}

static void make_logits(Tape *t, const Var *v, int64_t first, int64_t rows, float *z) {
    Sizes s = sizes_of(v);
    Scales scales;
    Tensor x = rows_of(&v->in[0]->value, first, rows, &scales);
    Matrix w = matrix_of(v->in[1]->value);
    gemm(matrix_of(x), matrix_transposed(w), 0, z, s.classes, NULL, t->arena);
}

static int32_t label_of(const Var *v, int64_t row) {
    const Attr *attr = v->attr;
    int32_t label = attr->labels[row];
    assert(label >= -1 && label < v->in[1]->value.shape.dim[0]);
    return label;
}

static int64_t count_scored(const Var *v, int64_t first, int64_t rows) {
    int64_t count = 0;
    for (int64_t r = first; r < first + rows; r++) count += label_of(v, r) >= 0;
    return count;
}

static void clear_row(float *z, int64_t count) {
    for (int64_t c = 0; c < count; c++) z[c] = 0;
}

/* A row of logits to exponentials over the largest: their factor, so that they are shares of 1. */
static float soften(float *z, int64_t classes, double *lse) {
    float most;
    isa_active()->largest(z, classes, &most);
    isa_active()->exponentials(z, classes, 1, most, z);
    double sum = row_sum(z, classes);
    *lse = (double)most + log(sum);
    return (float)(1 / sum);
}

/* Exponentials to the gradient of the logits. */
static void finish_row(float *z, int64_t classes, int32_t label, float factor, float dy) {
    for (int64_t c = 0; c < classes; c++) z[c] *= factor * dy;
    z[label] -= dy;
}

/* ---- Forward ---- */

static bool saves_lse(const Var *v) {
    return v->in[1]->needs_grad;
}

static Saved *saved_new(Tape *t, const Var *v) {
    Sizes s = sizes_of(v);
    Saved *saved = tape_alloc(t, sizeof *saved);
    *saved = (Saved){0};
    if (saves_lse(v))
        saved->lse = tape_alloc(t, sizeof(float) * (size_t)s.rows);
    else
        saved->dx = tape_alloc(t, sizeof(float) * (size_t)(s.rows * s.in));
    return saved;
}

static int64_t saved_bytes(const Tape *t, const Var *v) {
    Sizes s = sizes_of(v);
    (void)t;
    if (!v->needs_grad) return 0;
    int64_t floats = saves_lse(v) ? s.rows : s.rows * s.in;
    return arena_padded(sizeof(Saved)) + arena_padded((int64_t)sizeof(float) * floats);
}

/* Losses of rows, and of their logits the gradients where they are wanted. */
static void score_rows(const Var *v, int64_t first, int64_t rows, float dy, float *z,
                       double *losses) {
    const Saved *saved = v->saved;
    int64_t classes = sizes_of(v).classes;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        float *row = z + r * classes;
        int32_t label = label_of(v, first + r);
        losses[r] = 0;
        if (label >= 0) {
            double lse, at_label = (double)row[label];
            float factor = soften(row, classes, &lse);
            losses[r] = lse - at_label;
            if (saved && saved->lse) saved->lse[first + r] = (float)lse;
            if (saved && saved->dx) finish_row(row, classes, label, factor, dy);
        } else if (saved && saved->dx) {
            clear_row(row, classes);
        }
    }
}

static void forward(Tape *t, Var *v) {
    Sizes s = sizes_of(v);
    if (!v->saved && v->needs_grad) v->saved = saved_new(t, v);
    const Saved *saved = v->saved;
    int64_t scored = count_scored(v, 0, s.rows);
    float dy = scored ? (float)(1 / (double)scored) : 0;
    ArenaMark mark = arena_mark(t->arena);
    float *z = arena_alloc(t->arena, sizeof *z * (size_t)(s.chunk * s.classes));
    double *losses = arena_alloc(t->arena, sizeof *losses * (size_t)s.chunk), sum = 0;
    for (int64_t first = 0; first < s.rows; first += s.chunk) {
        int64_t rows = count_least(s.chunk, s.rows - first);
        float *dx = saved && saved->dx ? saved->dx + first * s.in : NULL;
        if (!count_scored(v, first, rows)) {
            if (dx) clear_row(dx, rows * s.in);
            continue;
        }
        make_logits(t, v, first, rows, z);
        score_rows(v, first, rows, dy, z, losses);
        for (int64_t r = 0; r < rows; r++) sum += losses[r];
        Matrix w = matrix_of(v->in[1]->value);
        if (dx) gemm(logits_like(&s, rows, z), w, 0, dx, s.in, NULL, t->arena);
    }
    arena_rewind(t->arena, mark);
    *var_f32(v) = scored ? (float)(sum / (double)scored) : 0;
}

/* Of a product of some rows of x with w, and of their logits' gradients with it. */
static int64_t logits_scratch(const Var *v) {
    Sizes s = sizes_of(v);
    Scales scales;
    Tensor x = rows_of(&v->in[0]->value, 0, s.chunk, &scales);
    return gemm_scratch(matrix_of(x), matrix_transposed(matrix_of(v->in[1]->value)), 0);
}

static int64_t dx_scratch(const Var *v, float beta) {
    Sizes s = sizes_of(v);
    return gemm_scratch(logits_like(&s, s.chunk, NULL), matrix_of(v->in[1]->value), beta);
}

static int64_t logits_bytes(const Var *v) {
    Sizes s = sizes_of(v);
    return arena_padded((int64_t)sizeof(float) * s.chunk * s.classes);
}

static int64_t forward_scratch(const Var *v) {
    int64_t most = logits_scratch(v);
    if (v->needs_grad && !saves_lse(v)) most = count_most(most, dx_scratch(v, 0));
    return logits_bytes(v) + arena_padded((int64_t)sizeof(double) * sizes_of(v).chunk) + most;
}

/* ---- Backward ---- */

/* dx += dy times what forward left. */
static void hand_on(const Tensor *dx, const float *left, float beta, float dy) {
    enum { RUN = 1024 };
    int64_t count = tensor_count(dx);
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < count; first += RUN) {
        float there[RUN];
        int64_t some = count_least(RUN, count - first);
        if (beta != 0) operand_read(dx, first, some, there);
        for (int64_t i = 0; i < some; i++)
            there[i] = (beta == 0 ? 0 : there[i]) + dy * left[first + i];
        operand_write(there, first, some, dx);
    }
}

/* Logits again, to their gradients. */
static void remake_rows(const Var *v, int64_t first, int64_t rows, float dy, float *z) {
    const Saved *saved = v->saved;
    int64_t classes = sizes_of(v).classes;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        float *row = z + r * classes;
        int32_t label = label_of(v, first + r);
        if (label < 0) {
            clear_row(row, classes);
            continue;
        }
        isa_active()->exponentials(row, classes, 1, saved->lse[first + r], row);
        finish_row(row, classes, label, 1, dy);
    }
}

static void backward(Tape *t, Var *v) {
    Sizes s = sizes_of(v);
    const Saved *saved = v->saved;
    float beta[2] = {0};
    Tensor dx = tape_grad_tensor(t, v->in[0], &beta[0]);
    float *dw = tape_grad(t, v->in[1], &beta[1]);
    if (!saved->lse) {
        if (dx.data) hand_on(&dx, saved->dx, beta[0], *var_grad_f32(v));
        return;
    }
    int64_t scored = count_scored(v, 0, s.rows);
    float dy = scored ? (float)((double)*var_grad_f32(v) / (double)scored) : 0;
    ArenaMark mark = arena_mark(t->arena);
    float *z = arena_alloc(t->arena, sizeof *z * (size_t)(s.chunk * s.classes));
    for (int64_t first = 0; first < s.rows; first += s.chunk) {
        int64_t rows = count_least(s.chunk, s.rows - first);
        Scales scales, none;
        make_logits(t, v, first, rows, z);
        remake_rows(v, first, rows, dy, z);
        Matrix dz = logits_like(&s, rows, z), w = matrix_of(v->in[1]->value);
        Matrix x = matrix_of(rows_of(&v->in[0]->value, first, rows, &scales));
        Tensor to = rows_of(&dx, first, rows, &none);
        if (dx.data) gemm_tensor(dz, w, beta[0], &to, NULL, t->arena);
        gemm(matrix_transposed(dz), x, first ? 1 : beta[1], dw, s.in, NULL, t->arena);
    }
    arena_rewind(t->arena, mark);
}

static int64_t backward_scratch(const Var *v) {
    Sizes s = sizes_of(v);
    Scales scales;
    if (!saves_lse(v)) return 0;
    Matrix dz = logits_like(&s, s.chunk, NULL);
    Matrix x = matrix_of(rows_of(&v->in[0]->value, 0, s.chunk, &scales));
    int64_t most = count_most(logits_scratch(v), gemm_scratch(matrix_transposed(dz), x, 0));
    if (v->in[0]->needs_grad) most = count_most(most, dx_scratch(v, 0));
    return logits_bytes(v) + most;
}

/* Where w learns, logits are made twice. */
static Flops flops(const Var *v) {
    Sizes s = sizes_of(v);
    double each = 2.0 * (double)s.rows * (double)s.in * (double)s.classes;
    return (Flops){each, each, saves_lse(v) ? 2 * each : 0};
}

/* With a weight that learns, and with one that does not. */
static Var *sample(Tape *t, int which) {
    static const int32_t labels[] = {2, -1, 3, 3, 1, 0};
    static float numbers[] = {0.3f, -0.8f, 0.5f, 0.9f, 0.1f, -0.4f, -0.6f, 0.2f, 0.7f, 0, 1, -1};
    if (which >= 2) return NULL;
    Var *x = tape_sample_leaf(t, which ? SHAPE(2, 3, 3) : SHAPE(6, 5), -1, 1);
    Tensor fixed = {.dtype = DTYPE_F32, .shape = SHAPE(4, 3), .data = numbers};
    Var *w = which ? tape_constant(t, fixed) : tape_sample_leaf(t, SHAPE(4, 5), -1, 1);
    return op_linear_cross_entropy(t, x, w, labels);
}

Var *op_linear_cross_entropy(Tape *t, Var *x, Var *w, const int32_t *labels) {
    Var *in[] = {x, w};
    Attr attr = {labels};
    return tape_record(t, &op_row_linear_cross_entropy, 2, in, &attr, sizeof attr);
}

const Op op_row_linear_cross_entropy = {
    .name = "linear_cross_entropy",
    .flags = OP_READS_LEVELS | OP_READS_PANELS | OP_READS_HALF | OP_SPARES_OUTPUT,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .sample = sample,
    .saved_bytes = saved_bytes,
    .forward_scratch = forward_scratch,
    .backward_scratch = backward_scratch,
    .half_grads = 1,
    .flops = flops,
};
