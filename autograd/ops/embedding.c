/* Rows of a table by their numbers: y[i] = table[ids[i]]. The table may be stored in any dtype. Ids
 * are whole numbers within the table, held in f32, which holds those below 2^24. */
#include <assert.h>

#include "autograd/ops.h"

static bool infer(Var *v, Error *err) {
    char a[SHAPE_TEXT_BYTES], b[SHAPE_TEXT_BYTES];
    Shape table = v->in[0]->value.shape, shape = v->in[1]->value.shape;
    if (table.rank != 2 || shape.rank >= SHAPE_RANK_MAX)
        return FAIL(
            err, ERROR_INPUT,
            "table %s and ids %s: a table has rows of numbers, and ids at most %d dimensions",
            shape_text(table, a), shape_text(shape, b), SHAPE_RANK_MAX - 1);
    shape.dim[shape.rank++] = table.dim[1];
    v->value.shape = shape;
    return true;
}

static int64_t row_at(const Var *v, int64_t i) {
    float id = var_f32(v->in[1])[i];
    assert(id >= 0 && id < (float)v->in[0]->value.shape.dim[0] && id == (float)(int64_t)id);
    return (int64_t)id;
}

static void forward(Tape *t, Var *v) {
    (void)t;
    const Tensor *table = &v->in[0]->value;
    int64_t width = table->shape.dim[1];
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < var_count(v->in[1]); i++)
        tensor_decode_part(table, row_at(v, i) * width, width, var_f32(v) + i * width);
}

/* A row may be wanted many times: a thread adds up columns of its own, in the order of ids. */
static void backward(Tape *t, Var *v) {
    enum { COLUMNS = 16 };
    float beta;
    float *grad = tape_grad(t, v->in[0], &beta);
    if (!grad) return;
    Shape table = v->in[0]->value.shape;
    int64_t width = table.dim[1], count = var_count(v->in[1]);
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < width; first += COLUMNS) {
        int64_t end = first + COLUMNS < width ? first + COLUMNS : width;
        for (int64_t r = 0; beta == 0 && r < table.dim[0]; r++)
            for (int64_t c = first; c < end; c++) grad[r * width + c] = 0;
        for (int64_t i = 0; i < count; i++) {
            float *to = grad + row_at(v, i) * width;
            const float *dy = var_grad_f32(v) + i * width;
            for (int64_t c = first; c < end; c++) to[c] += dy[c];
        }
    }
}

static Var *sample(Tape *t, int which) {
    static float ids[] = {2, 0, 3, 3, 2, 2};
    if (which >= 2) return NULL;
    Tensor numbers = {.dtype = DTYPE_F32, .shape = which ? SHAPE(2, 3) : SHAPE(6), .data = ids};
    Var *table = tape_sample_leaf(t, which ? SHAPE(4, 19) : SHAPE(5, 3), -1, 1);
    Var *at = tape_constant(t, numbers);
    return op_embedding(t, table, at);
}

Var *op_embedding(Tape *t, Var *table, Var *ids) {
    Var *in[] = {table, ids};
    return tape_record(t, &op_row_embedding, 2, in, NULL, 0);
}

const Op op_row_embedding = {
    .name = "embedding",
    .flags = OP_READS_LEVELS | OP_READS_PANELS | OP_SPARES_OUTPUT | OP_NO_FLOPS | OP_LOOKS_UP,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .sample = sample,
};
