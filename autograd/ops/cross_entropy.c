/* The mean over the N rows of -sum_c q_c log p_c, with p = softmax(z) of the logits z and q = 1 - s
 * at the label plus s / C everywhere (label smoothing, Szegedy et al. 2016; PyTorch's form):
 *     lse     = log sum_c exp(z_c)
 *     loss_r  = (1 - s) (lse - z_label) + s (lse - mean z)
 *     dz      = dy (p - q) / N
 * Rows of which the label is -1 are left out: N counts the others, and of none the loss is 0.
 * Exponentials are f32, below the row's maximum; sums are double, in order. Labels are the
 * caller's, one per row, and must live as long as the record. */
#include <assert.h>
#include <math.h>

#include "autograd/ops.h"
#include "autograd/ops/elementwise.h"
#include "core/counts.h"

typedef struct CrossEntropyAttr {
    const int32_t *labels;
    float smoothing;
} CrossEntropyAttr;

typedef struct CrossEntropySaved {
    double *row_loss;   /* [rows] */
    float *probability; /* [rows, C] */
} CrossEntropySaved;

static bool cross_entropy_infer(Var *v, Error *err) {
    const CrossEntropyAttr *attr = v->attr;
    if (v->in[0]->value.shape.rank == 0)
        return FAIL(err, ERROR_INPUT, "logits must be [rows, classes], not a scalar");
    if (!(attr->smoothing >= 0 && attr->smoothing <= 1))
        return FAIL(err, ERROR_INPUT, "label smoothing must be from 0 to 1, not %g",
                    (double)attr->smoothing);
    v->value.shape = SHAPE_SCALAR;
    return true;
}

/* The row's loss; leaves the softmax in `p`. */
static double row_loss(const float *z, int64_t classes, int32_t label, double smoothing, float *p) {
    assert(label >= -1 && label < classes);
    if (label < 0) return 0;
    float max = z[0];
    for (int64_t i = 1; i < classes; i++) max = z[i] > max ? z[i] : max;
    double sum = 0, shifted = 0;
    for (int64_t i = 0; i < classes; i++) {
        float d = z[i] - max;
        p[i] = expf(d);
        sum += p[i];
        shifted += d;
    }
    float inverse = (float)(1 / sum);
    for (int64_t i = 0; i < classes; i++) p[i] *= inverse;
    double loss = log(sum) - (double)(z[label] - max);
    if (smoothing == 0) return loss; /* a class at -infinity is no fault then */
    return (1 - smoothing) * loss + smoothing * (log(sum) - shifted / (double)classes);
}

static CrossEntropySaved *saved_new(Tape *t, int64_t rows, int64_t classes) {
    CrossEntropySaved *saved = tape_alloc(t, sizeof *saved);
    saved->row_loss = tape_alloc(t, sizeof(double) * (size_t)rows);
    saved->probability = tape_alloc(t, sizeof(float) * (size_t)(rows * classes));
    return saved;
}

static int64_t cross_entropy_saved_bytes(const Tape *t, const Var *v) {
    (void)t;
    int64_t rows = shape_rows(v->in[0]->value.shape), count = var_count(v->in[0]);
    return arena_padded(sizeof(CrossEntropySaved)) + arena_padded((int64_t)sizeof(double) * rows) +
           arena_padded((int64_t)sizeof(float) * count);
}

static int64_t count_scored(const int32_t *labels, int64_t rows) {
    int64_t count = 0;
    for (int64_t r = 0; r < rows; r++) count += labels[r] >= 0;
    return count;
}

static void cross_entropy_forward(Tape *t, Var *v) {
    const CrossEntropyAttr *attr = v->attr;
    Shape shape = v->in[0]->value.shape;
    int64_t rows = shape_rows(shape), classes = shape_last(shape);
    if (!v->saved) v->saved = saved_new(t, rows, classes);
    CrossEntropySaved *saved = v->saved;
    const float *z = var_f32(v->in[0]);
    double smoothing = (double)attr->smoothing;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++)
        saved->row_loss[r] = row_loss(z + r * classes, classes, attr->labels[r], smoothing,
                                      saved->probability + r * classes);
    double sum = 0;
    for (int64_t r = 0; r < rows; r++) sum += saved->row_loss[r];
    int64_t scored = count_scored(attr->labels, rows);
    *var_f32(v) = scored ? (float)(sum / (double)scored) : 0;
}

static void cross_entropy_backward(Tape *t, Var *v) {
    const CrossEntropyAttr *attr = v->attr;
    const CrossEntropySaved *saved = v->saved;
    float beta;
    float *dz = tape_grad(t, v->in[0], &beta);
    if (!dz) return;
    Shape shape = v->in[0]->value.shape;
    int64_t rows = shape_rows(shape), classes = shape_last(shape);
    int64_t scored = count_scored(attr->labels, rows);
    float dy = (float)((double)*var_grad_f32(v) / (double)count_most(scored, 1));
    float elsewhere = attr->smoothing / (float)classes;
#pragma omp parallel for schedule(static) firstprivate(beta)
    for (int64_t r = 0; r < rows; r++) {
        const float *p = saved->probability + r * classes;
        float *to = dz + r * classes;
        int32_t label = attr->labels[r];
        for (int64_t i = 0; i < classes; i++) {
            float q = i == label ? elsewhere + (1 - attr->smoothing) : elsewhere;
            to[i] = gradient_join(beta, to[i], label < 0 ? 0 : dy * (p[i] - q));
        }
    }
}

static Var *cross_entropy_sample(Tape *t, int which) {
    static const int32_t labels[] = {2, 0, 3, 3, 1, 2}, some[] = {2, -1, 3, -1, -1, 2};
    if (which > 3) return NULL;
    Var *logits = tape_sample_leaf(t, which >= 2 ? SHAPE(2, 3, 4) : SHAPE(6, 4), -2, 2);
    return op_cross_entropy(t, logits, which == 3 ? some : labels, which ? 0.1f : 0);
}

Var *op_cross_entropy(Tape *t, Var *logits, const int32_t *labels, float smoothing) {
    CrossEntropyAttr attr = {.labels = labels, .smoothing = smoothing};
    return tape_record(t, &op_row_cross_entropy, 1, &logits, &attr, sizeof attr);
}

const Op op_row_cross_entropy = {
    .name = "cross_entropy",
    .flags = OP_SPARES_INPUTS | OP_SPARES_OUTPUT | OP_NO_FLOPS,
    .infer = cross_entropy_infer,
    .forward = cross_entropy_forward,
    .backward = cross_entropy_backward,
    .sample = cross_entropy_sample,
    .saved_bytes = cross_entropy_saved_bytes,
};
