/* y = x w^T + bias, over the last dimension of x: x [..., in], w [out, in], bias [out] or NULL.
 * Operands that hold levels are multiplied as integers (core/gemm.h); gradients read their values.
 */
#include "autograd/channel.h"
#include "autograd/ops.h"
#include "core/gemm.h"
#include "core/kernels/operand.h"

static bool infer(Var *v, Error *err) {
    Shape x = v->in[0]->value.shape, w = v->in[1]->value.shape;
    char a[SHAPE_TEXT_BYTES], b[SHAPE_TEXT_BYTES];
    if (w.rank != 2 || x.rank < 1 || shape_last(x) != w.dim[1])
        return FAIL(err, ERROR_INPUT,
                    "input %s does not fit weight %s: the input's last dimension must equal the "
                    "weight's",
                    shape_text(x, a), shape_text(w, b));
    if (v->in[2] && var_count(v->in[2]) != w.dim[0])
        return FAIL(err, ERROR_INPUT, "bias %s does not fit weight %s: one value per output",
                    shape_text(v->in[2]->value.shape, a), shape_text(w, b));
    v->value.shape = x;
    v->value.shape.dim[x.rank - 1] = w.dim[0];
    return true;
}

static void forward(Tape *t, Var *v) {
    Matrix x = matrix_of(v->in[0]->value), w = matrix_of(v->in[1]->value);
    Epilogue epilogue = {.bias = v->in[2] ? var_f32(v->in[2]) : NULL};
    ArenaMark mark = arena_mark(t->arena);
    bool is_f32 = v->value.dtype == DTYPE_F32;
    int64_t count = var_count(v);
    float *y = is_f32 ? var_f32(v) : tape_alloc(t, checked_mul(sizeof(float), (size_t)count));
    gemm(x, matrix_transposed(w), 0, y, w.rows, &epilogue, t->arena);
    if (!is_f32) operand_write(y, 0, count, &v->value);
    arena_rewind(t->arena, mark);
}

/* Whether w holds levels under one scale or one per output. */
static bool has_output_scales(const Matrix *w) {
    const Scales *s = w->tensor.scales;
    return s && (s->count == 1 || (s->row_length == w->cols && s->run_length == w->cols));
}

/* dx = dy w. Scales of outputs go to dy, which is smaller than w: w's levels are used as they lie.
 */
static void input_backward(Tape *t, Matrix dy, Matrix w, float beta, float *dx) {
    if (!has_output_scales(&w)) {
        gemm(dy, w, beta, dx, w.cols, NULL, t->arena);
        return;
    }
    ArenaMark mark = arena_mark(t->arena);
    const Scales *s = w.tensor.scales;
    const float *from = operand_values(&dy.tensor, t->arena);
    float *scaled = tape_alloc(t, checked_mul(sizeof(float), (size_t)(dy.rows * dy.cols)));
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < dy.rows; i++)
        for (int64_t o = 0; o < dy.cols; o++)
            scaled[i * dy.cols + o] = from[i * dy.cols + o] * s->scale[s->count > 1 ? o : 0];
    dy.tensor = (Tensor){.dtype = DTYPE_F32, .shape = dy.tensor.shape, .data = scaled};
    w.tensor = (Tensor){.dtype = DTYPE_F32,
                        .shape = w.tensor.shape,
                        .data = (void *)(uintptr_t)operand_levels(&w.tensor, t->arena)};
    gemm(dy, w, beta, dx, w.cols, NULL, t->arena);
    arena_rewind(t->arena, mark);
}

static void backward(Tape *t, Var *v) {
    Matrix x = matrix_of(v->in[0]->value), w = matrix_of(v->in[1]->value);
    Matrix dy = matrix_of(var_grad(v));
    float beta, *grad;
    if ((grad = tape_grad(t, v->in[0], &beta))) input_backward(t, dy, w, beta, grad);
    if ((grad = tape_grad(t, v->in[1], &beta)))
        gemm(matrix_transposed(dy), x, beta, grad, w.cols, NULL, t->arena);
    if (!(grad = tape_grad(t, v->in[2], &beta))) return;
    ArenaMark mark = arena_mark(t->arena);
    const float *values = operand_values(&dy.tensor, t->arena);
    channel_sum(values, dy.rows, dy.cols, beta, grad, t->arena);
    arena_rewind(t->arena, mark);
}

static Var *sample(Tape *t, int which) {
    static const bool has_bias[] = {true, false};
    if (which >= 2) return NULL;
    Var *x = tape_sample_leaf(t, which ? SHAPE(2, 3, 5) : SHAPE(4, 6), -1, 1);
    Var *w = tape_sample_leaf(t, SHAPE(3, shape_last(x->value.shape)), -1, 1);
    Var *bias = has_bias[which] ? tape_sample_leaf(t, SHAPE(3), -1, 1) : NULL;
    return op_linear(t, x, w, bias);
}

Var *op_linear(Tape *t, Var *x, Var *w, Var *bias) {
    Var *in[] = {x, w, bias};
    return tape_record(t, &op_row_linear, 3, in, NULL, 0);
}

const Op op_row_linear = {
    "linear", OP_READS_LEVELS | OP_READS_HALF | OP_SPARES_OUTPUT, infer, forward, backward, sample};
