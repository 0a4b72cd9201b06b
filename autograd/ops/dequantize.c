/* Levels to values, scale times level; values pass. The gradient passes: it belongs to the values.
 */
#include <string.h>

#include "autograd/ops.h"

static bool infer(Var *v, Error *err) {
    (void)v, (void)err;
    return true;
}

enum { PIECE = 16 * 1024 }; /* elements at a time */

static void forward(Tape *t, Var *v) {
    (void)t;
    const Tensor *x = &v->in[0]->value;
    const float *levels = tensor_f32(x);
    float *y = var_f32(v);
    int64_t count = var_count(v);
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < count; first += PIECE) {
        int64_t piece = count - first < PIECE ? count - first : PIECE;
        if (x->scales)
            levels_decode(levels + first, x->scales, first, piece, y + first);
        else
            memcpy(y + first, levels + first, sizeof *y * (size_t)piece);
    }
}

static void backward(Tape *t, Var *v) {
    const float *dy = v->grad;
    int64_t count = var_count(v);
    float beta, *dx = tape_grad(t, v->in[0], &beta);
    if (!dx) return;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; i++) dx[i] = beta == 0 ? dy[i] : dx[i] + dy[i];
}

static Var *sample(Tape *t, int which) {
    if (which >= 1) return NULL;
    Var *x = tape_sample_leaf(t, SHAPE(3, 4), -1, 1);
    return op_dequantize(t, x);
}

Var *op_dequantize(Tape *t, Var *x) {
    return tape_record(t, &op_row_dequantize, 1, &x, NULL, 0);
}

const Op op_row_dequantize = {
    "dequantize", OP_READS_LEVELS | OP_KEEPS_SIGN | OP_SPARES_INPUTS | OP_SPARES_OUTPUT,
    infer,        forward,
    backward,     sample};
