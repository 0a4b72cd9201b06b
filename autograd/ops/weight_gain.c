/* y[i] = m[i] / |w_i + factor (b a)_i|, the Euclidean norm of row i: the factor on row i of a
 * weight that gives it the length m[i] (DoRA; Liu et al. 2024). w [out, in] of any dtype, m [out],
 * a [r, in], b [out, r]. The norm is a constant to the gradient, as in the paper's section 4.3: dm
 * = dy / norm, and nothing for the others. A row of zeros has the factor 0. */
#include <math.h>

#include "autograd/ops.h"
#include "core/kernels/operand.h"
#include "core/parallel.h"

enum { W, MAGNITUDE, A, B };

static bool infer(Var *v, Error *err) {
    Shape w = v->in[W]->value.shape, a = v->in[A]->value.shape, b = v->in[B]->value.shape;
    char text[3][SHAPE_TEXT_BYTES];
    bool fits = w.rank == 2 && a.rank == 2 && b.rank == 2 && a.dim[1] == w.dim[1] &&
                b.dim[0] == w.dim[0] && b.dim[1] == a.dim[0];
    if (!fits || var_count(v->in[MAGNITUDE]) != w.dim[0])
        return FAIL(err, ERROR_INPUT, "a %s and b %s do not fit weight %s, or a magnitude per row",
                    shape_text(a, text[0]), shape_text(b, text[1]), shape_text(w, text[2]));
    v->value.shape = SHAPE(w.dim[0]);
    return true;
}

static double row_norm(const Var *v, int64_t row, float *sum) {
    float factor = *(const float *)v->attr;
    int64_t in = shape_last(v->in[W]->value.shape), rank = v->in[A]->value.shape.dim[0];
    const float *a = var_f32(v->in[A]), *b = var_f32(v->in[B]) + row * rank;
    operand_read_values(&v->in[W]->value, row * in, in, sum);
    for (int64_t k = 0; k < rank; k++) {
        float weight = factor * b[k];
        for (int64_t j = 0; j < in; j++) sum[j] += weight * a[k * in + j];
    }
    double squares = 0;
    for (int64_t j = 0; j < in; j++) squares += (double)sum[j] * (double)sum[j];
    return sqrt(squares);
}

static int64_t buffer_bytes(const Var *v) {
    return arena_padded((int64_t)sizeof(float) * shape_last(v->in[W]->value.shape));
}

static int64_t forward_scratch(const Var *v) {
    return buffer_bytes(v) * parallel_threads();
}

static int64_t saved_bytes(const Tape *t, const Var *v) {
    (void)t;
    return arena_padded((int64_t)sizeof(float) * var_count(v));
}

/* Saved: 1 / norm of each row; in a replay it is the constant that the gradient takes it for. */
static void forward(Tape *t, Var *v) {
    int64_t out = var_count(v), stride = buffer_bytes(v) / (int64_t)sizeof(float);
    bool is_new = !v->saved;
    if (is_new) v->saved = tape_alloc(t, sizeof(float) * (size_t)out);
    float *inverse = v->saved, *y = var_f32(v);
    const float *magnitude = var_f32(v->in[MAGNITUDE]);
    ArenaMark mark = arena_mark(t->arena);
    float *buffers = tape_alloc(t, (size_t)forward_scratch(v));
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < out; i++) {
        double norm = is_new ? row_norm(v, i, buffers + parallel_self() * stride) : 0;
        if (is_new) inverse[i] = norm > 0 ? (float)(1 / norm) : 0;
        y[i] = magnitude[i] * inverse[i];
    }
    arena_rewind(t->arena, mark);
}

static void backward(Tape *t, Var *v) {
    const float *inverse = v->saved, *dy = var_grad_f32(v);
    float beta, *dm = tape_grad(t, v->in[MAGNITUDE], &beta);
    if (!dm) return;
    for (int64_t i = 0; i < var_count(v); i++)
        dm[i] = dy[i] * inverse[i] + (beta == 0 ? 0.0f : dm[i]);
}

static Flops flops(const Var *v) {
    return (Flops){.forward =
                       2 * (double)var_count(v->in[W]) * (double)v->in[A]->value.shape.dim[0]};
}

static Var *constant(Tape *t, Shape shape) {
    Tensor value = tensor_new(t->arena, DTYPE_F32, shape);
    RandomKey key = {.stream = RANDOM_TEST, .step = (uint64_t)shape_last(shape)};
    random_fill_uniform(key, -1, 1, shape_count(shape), value.data);
    return tape_constant(t, value);
}

static Var *sample(Tape *t, int which) {
    if (which >= 1) return NULL;
    Var *magnitude = tape_sample_leaf(t, SHAPE(5), 0.5f, 1.5f);
    Var *w = constant(t, SHAPE(5, 7));
    Var *a = constant(t, SHAPE(3, 7));
    Var *b = constant(t, SHAPE(5, 3));
    return op_weight_gain(t, w, magnitude, a, b, 0.5f);
}

Var *op_weight_gain(Tape *t, Var *w, Var *magnitude, Var *a, Var *b, float factor) {
    Var *in[] = {w, magnitude, a, b};
    return tape_record(t, &op_row_weight_gain, 4, in, &factor, sizeof factor);
}

const Op op_row_weight_gain = {
    .name = "weight_gain",
    .flags = OP_READS_LEVELS | OP_SPARES_OUTPUT | OP_SPARES_INPUTS,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .sample = sample,
    .saved_bytes = saved_bytes,
    .forward_scratch = forward_scratch,
    .flops = flops,
};
