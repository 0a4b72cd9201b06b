/* y = factor x        dx = factor dy        (factor is a constant) */
#include "autograd/ops.h"
#include "autograd/ops/elementwise.h"
#include "core/kernels/isa.h"

static void scale_forward(const Var *v, const MapBlock *b) {
    isa_active()->multiply(b->in[0], *(const float *)v->attr, b->count, b->out);
}

static void scale_backward(const Var *v, const MapBlock *b) {
    isa_active()->multiply(b->dy, *(const float *)v->attr, b->count, b->dx[0]);
}

static const Map scale_map = {
    .input_count = 1, .forward = scale_forward, .backward = scale_backward};

static Var *scale_sample(Tape *t, int which) {
    if (which > 0) return NULL;
    Var *x = tape_sample_leaf(t, SHAPE(4, 5), -1, 1);
    return op_scale(t, x, -0.7f);
}

Var *op_scale(Tape *t, Var *x, float factor) {
    return tape_record(t, &op_row_scale, 1, &x, &factor, sizeof factor);
}

const Op op_row_scale = {
    .name = "scale",
    .flags = OP_SPARES_INPUTS | OP_SPARES_OUTPUT | OP_NO_FLOPS,
    .infer = elementwise_infer,
    .sample = scale_sample,
    .map = &scale_map,
};
