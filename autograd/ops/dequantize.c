/* Levels to values, scale times level; values pass, however they are stored. The gradient passes:
 * it belongs to the values.
 */
#include <string.h>

#include "autograd/map.h"
#include "autograd/ops.h"

static bool infer(Var *v, Error *err) {
    (void)v, (void)err;
    return true;
}

static void forward(const Var *v, const MapBlock *b) {
    const Scales *scales = v->in[0]->value.scales;
    int64_t run = piece_run(&b->piece), first = b->piece.first;
    if (!tensor_holds_levels(&v->in[0]->value)) { /* already decoded */
        memcpy(b->out, b->in[0], sizeof *b->out * (size_t)b->count);
        return;
    }
    if (scales->count == 1) run = b->count, first = 0; /* from anywhere */
    for (int64_t i = 0; i < b->count; i += run, first += b->piece.stride)
        levels_decode(b->in[0] + i, scales, first, run, b->out + i);
}

static const Map map = {.input_count = 1, .forward = forward};

static Var *sample(Tape *t, int which) {
    if (which >= 1) return NULL;
    Var *x = tape_sample_leaf(t, SHAPE(3, 4), -1, 1);
    return op_dequantize(t, x);
}

Var *op_dequantize(Tape *t, Var *x) {
    return tape_record(t, &op_row_dequantize, 1, &x, NULL, 0);
}

const Op op_row_dequantize = {
    .name = "dequantize",
    .flags = OP_READS_LEVELS | OP_READS_PANELS | OP_KEEPS_SIGN | OP_SPARES_INPUTS |
             OP_SPARES_OUTPUT | OP_NO_FLOPS,
    .infer = infer,
    .sample = sample,
    .map = &map,
};
