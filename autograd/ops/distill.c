/* Distillation, from a teacher's logits t to a student's z [rows, C] (Hinton, Vinyals and Dean,
 * arXiv 1503.02531), at temperature T:
 *     p       = softmax(t / T),  q = softmax(z / T), over each row
 *     loss_r  = T^2 sum_c p_c (log p_c - log q_c)          loss = mean_r loss_r
 *     dz      = dy T (q - p) / rows
 * T^2 keeps gradients as large as those of a cross-entropy, whatever T is. Exponentials are f32,
 * below the row's maximum; sums are double, in order. The teacher's logits are the caller's and
 * must live until forward is done; nothing flows back to them. */
#include <math.h>

#include "autograd/ops.h"
#include "autograd/ops/elementwise.h"

typedef struct DistillAttr {
    const float *teacher; /* [rows, C]; NULL in a dry record */
    float temperature;
} DistillAttr;

typedef struct DistillSaved {
    double *row_loss;  /* [rows] */
    float *difference; /* [rows, C]: q - p */
} DistillSaved;

static bool distill_infer(Var *v, Error *err) {
    const DistillAttr *attr = v->attr;
    if (v->in[0]->value.shape.rank == 0)
        return FAIL(err, ERROR_INPUT, "logits must be [rows, classes], not a scalar");
    if (!(attr->temperature > 0 && isfinite(attr->temperature)))
        return FAIL(err, ERROR_INPUT, "the temperature of distillation must be above 0, not %g",
                    (double)attr->temperature);
    v->value.shape = SHAPE_SCALAR;
    return true;
}

static float maximum(const float *x, int64_t count) {
    float max = x[0];
    for (int64_t i = 1; i < count; i++) max = x[i] > max ? x[i] : max;
    return max;
}

static float soften(float x, float max, float temperature) {
    return expf((x - max) / temperature);
}

/* The sum of a row's exponentials below its maximum: softmax is each over it. */
static double exponential_sum(const float *x, float max, float temperature, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += (double)soften(x[i], max, temperature);
    return sum;
}

/* sum p (log p - log q); leaves q - p in `difference`. */
static double row_divergence(const float *t, const float *z, float temperature, int64_t classes,
                             float *difference) {
    float t_max = maximum(t, classes), z_max = maximum(z, classes);
    double t_sum = exponential_sum(t, t_max, temperature, classes);
    double z_sum = exponential_sum(z, z_max, temperature, classes);
    double divergence = 0, norms = log(z_sum) - log(t_sum);
    for (int64_t i = 0; i < classes; i++) {
        double p = (double)soften(t[i], t_max, temperature) / t_sum;
        double q = (double)soften(z[i], z_max, temperature) / z_sum;
        double below = ((double)t[i] - (double)t_max) - ((double)z[i] - (double)z_max);
        divergence += p * (below / (double)temperature + norms);
        difference[i] = (float)(q - p);
    }
    return divergence;
}

static DistillSaved *saved_new(Tape *t, int64_t rows, int64_t classes) {
    DistillSaved *saved = tape_alloc(t, sizeof *saved);
    saved->row_loss = tape_alloc(t, sizeof(double) * (size_t)rows);
    saved->difference = tape_alloc(t, sizeof(float) * (size_t)(rows * classes));
    return saved;
}

static int64_t distill_saved_bytes(const Tape *t, const Var *v) {
    (void)t;
    int64_t rows = shape_rows(v->in[0]->value.shape), count = var_count(v->in[0]);
    return arena_padded(sizeof(DistillSaved)) + arena_padded((int64_t)sizeof(double) * rows) +
           arena_padded((int64_t)sizeof(float) * count);
}

static void distill_forward(Tape *t, Var *v) {
    const DistillAttr *attr = v->attr;
    Shape shape = v->in[0]->value.shape;
    int64_t rows = shape_rows(shape), classes = shape_last(shape);
    if (!v->saved) v->saved = saved_new(t, rows, classes);
    DistillSaved *saved = v->saved;
    const float *z = var_f32(v->in[0]);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        int64_t at = r * classes;
        saved->row_loss[r] = row_divergence(attr->teacher + at, z + at, attr->temperature, classes,
                                            saved->difference + at);
    }
    double sum = 0, factor = (double)attr->temperature * (double)attr->temperature;
    for (int64_t r = 0; r < rows; r++) sum += saved->row_loss[r];
    *var_f32(v) = (float)(factor * sum / (double)rows);
}

static void distill_backward(Tape *t, Var *v) {
    const DistillAttr *attr = v->attr;
    const DistillSaved *saved = v->saved;
    float beta;
    float *dz = tape_grad(t, v->in[0], &beta);
    if (!dz) return;
    int64_t count = var_count(v->in[0]), rows = shape_rows(v->in[0]->value.shape);
    float factor = (float)((double)*var_grad_f32(v) * (double)attr->temperature / (double)rows);
#pragma omp parallel for schedule(static) firstprivate(beta)
    for (int64_t i = 0; i < count; i++)
        dz[i] = gradient_join(beta, dz[i], factor * saved->difference[i]);
}

static Var *distill_sample(Tape *t, int which) {
    static const float teacher[] = {0.9f, -1.2f, 0.3f, 1.7f,  -0.6f, 0.2f,  2.1f, -0.4f,
                                    0.1f, 0.8f,  1.5f, -1.9f, -0.7f, -0.3f, 0.5f, 1.1f,
                                    1.3f, 0.4f,  0.6f, -0.8f, -1.4f, 1.9f,  0.7f, -0.2f};
    static const float temperatures[] = {1, 4, 0.5f};
    if (which > 2) return NULL;
    Var *logits = tape_sample_leaf(t, which == 2 ? SHAPE(2, 3, 4) : SHAPE(6, 4), -2, 2);
    return op_distill(t, logits, teacher, temperatures[which]);
}

Var *op_distill(Tape *t, Var *logits, const float *teacher, float temperature) {
    DistillAttr attr = {.teacher = teacher, .temperature = temperature};
    return tape_record(t, &op_row_distill, 1, &logits, &attr, sizeof attr);
}

const Op op_row_distill = {
    .name = "distill",
    .flags = OP_SPARES_INPUTS | OP_SPARES_OUTPUT | OP_NO_FLOPS,
    .infer = distill_infer,
    .forward = distill_forward,
    .backward = distill_backward,
    .sample = distill_sample,
    .saved_bytes = distill_saved_bytes,
};
