/* Levels to values, scale times level; values pass. The gradient passes: it belongs to the values.
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
    if (scales)
        levels_decode(b->in[0], scales, b->first, b->count, b->out);
    else
        memcpy(b->out, b->in[0], sizeof *b->out * (size_t)b->count);
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
    .flags = OP_READS_LEVELS | OP_KEEPS_SIGN | OP_SPARES_INPUTS | OP_SPARES_OUTPUT,
    .infer = infer,
    .sample = sample,
    .map = &map,
};
