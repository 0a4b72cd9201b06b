/* y = x w^T + bias, over the last dimension of x: x [..., in], w [out, in], bias [out] or NULL.
 * Operands that hold levels are multiplied as integers (core/gemm.h); gradients read their values.
 */
#include <string.h>

#include "autograd/channel.h"
#include "autograd/flops.h"
#include "autograd/map.h"
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

/* take NULL: to memory. */
static void forward_to(Tape *t, Var *v, GemmTake *take, void *context) {
    Matrix x = matrix_of(v->in[0]->value), w = matrix_of(v->in[1]->value);
    const float *bias = v->in[2] ? var_f32(v->in[2]) : NULL;
    Epilogue epilogue = {.bias = bias, .take = take, .context = context};
    gemm_tensor(x, matrix_transposed(w), 0, take ? NULL : &v->value, &epilogue, t->arena);
}

/* What is probed: block by block on its way to memory. */
typedef struct Probed {
    const Tensor *y;
    ProbeRun probe;
} Probed;

static void take_probed(void *context, const GemmBlock *block) {
    const Probed *probed = context;
    int64_t columns = shape_last(probed->y->shape);
    for (int64_t i = 0; i < block->rows; i++) {
        const float *row = block->values + i * GEMM_BLOCK;
        float *to = tensor_f32(probed->y) + (block->row + i) * columns + block->column;
        memcpy(to, row, sizeof *to * (size_t)block->columns);
        probe_add(&probed->probe, row, block->columns);
    }
}

static void forward(Tape *t, Var *v) {
    if (!v->probe) {
        forward_to(t, v, NULL, NULL);
        return;
    }
    ArenaMark mark = arena_mark(t->arena);
    Probed probed = {&v->value, probe_begin(v->probe, t->arena)};
    forward_to(t, v, take_probed, &probed);
    v->is_seen = probe_end(&probed.probe);
    arena_rewind(t->arena, mark);
}

/* The gradient of x goes to `take`; NULL: to memory. */
static void backward_to(Tape *t, Var *v, GemmTake *take, void *context) {
    Matrix x = matrix_of(v->in[0]->value), w = matrix_of(v->in[1]->value);
    Epilogue epilogue = {.take = take, .context = context};
    float beta[3] = {0};
    Tensor dx = {0}, dw = tape_grad_tensor(t, v->in[1], &beta[1]);
    if (!take) dx = tape_grad_tensor(t, v->in[0], &beta[0]);
    float *db = tape_grad(t, v->in[2], &beta[2]);
    ArenaMark mark = arena_mark(t->arena);
    Tensor grad = v->grad; /* decoded once for all three */
    float *values = (void *)(uintptr_t)operand_values(&grad, t->arena);
    Matrix dy = matrix_of((Tensor){.dtype = DTYPE_F32, .shape = grad.shape, .data = values});
    if (take || dx.data)
        gemm_tensor(dy, w, beta[0], take ? NULL : &dx, take ? &epilogue : NULL, t->arena);
    if (dw.data) gemm_tensor(matrix_transposed(dy), x, beta[1], &dw, NULL, t->arena);
    if (db) channel_sum(values, dy.rows, dy.cols, beta[2], db, t->arena);
    arena_rewind(t->arena, mark);
}

static void backward(Tape *t, Var *v) {
    backward_to(t, v, NULL, NULL);
}

static int64_t forward_scratch(const Var *v) {
    Matrix x = matrix_of(v->in[0]->value), w = matrix_of(v->in[1]->value);
    return probe_scratch(v->probe) + gemm_scratch(x, matrix_transposed(w), 0);
}

static int64_t backward_scratch(const Var *v) {
    Matrix x = matrix_of(v->in[0]->value), w = matrix_of(v->in[1]->value);
    const Tensor grad = v->grad;
    Matrix dy = matrix_of((Tensor){.dtype = DTYPE_F32, .shape = grad.shape});
    int64_t most = 0, parts[3] = {0};
    if (v->in[0]->needs_grad) parts[0] = gemm_scratch(dy, w, 0);
    if (v->in[1]->needs_grad) parts[1] = gemm_scratch(matrix_transposed(dy), x, 0);
    if (v->in[2] && v->in[2]->needs_grad) parts[2] = channel_sum_scratch(dy.rows, dy.cols);
    for (int i = 0; i < 3; i++) most = parts[i] > most ? parts[i] : most;
    return operand_values_scratch(&grad) + most;
}

static ConvGeometry geometry_of(const Var *v) {
    Shape x = v->in[0]->value.shape;
    return conv_of_rows(shape_rows(x), shape_last(x), shape_last(v->value.shape));
}

static const MapFeed feed = {.forward = forward_to, .backward = backward_to};

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
    .name = "linear",
    .flags = OP_READS_LEVELS | OP_READS_PANELS | OP_READS_HALF | OP_SPARES_OUTPUT,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .sample = sample,
    .feed = &feed,
    .forward_scratch = forward_scratch,
    .backward_scratch = backward_scratch,
    .half_grads = 2,
    .flops = flops_of_product,
    .geometry = geometry_of,
};
