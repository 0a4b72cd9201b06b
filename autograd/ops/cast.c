/* y = x        dx = dy
 *
 * The place where a weight becomes what products read under half precision: the plan keeps the
 * output, and the gradient that products give it, in half (TapeMode.half; Micikevicius et al.
 * 2018). Masters stay f32. Not a map, because both ways are one conversion from memory to memory.
 */
#include "autograd/ops.h"
#include "autograd/ops/elementwise.h"
#include "core/kernels/isa.h"
#include "core/kernels/operand.h"

enum { RUN = 1 << 12 /* elements that a thread converts at a time */ };

static int64_t run_at(int64_t first, int64_t count) {
    return count - first < RUN ? count - first : RUN;
}

static void forward(Tape *t, Var *v) {
    (void)t;
    const float *x = var_f32(v->in[0]);
    const Tensor y = v->value;
    int64_t count = var_count(v);
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < count; first += RUN)
        operand_write(x + first, first, run_at(first, count), &y);
}

static void backward(Tape *t, Var *v) {
    const Tensor dy = v->grad;
    int64_t count = var_count(v);
    float beta, *dx = tape_grad(t, v->in[0], &beta);
    if (!dx) return;
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < count; first += RUN) {
        float more[RUN];
        operand_read(&dy, first, run_at(first, count), beta != 0 ? more : dx + first);
        if (beta != 0) isa_active()->add(dx + first, more, run_at(first, count), dx + first);
    }
}

static Var *sample(Tape *t, int which) {
    if (which > 0) return NULL;
    Var *x = tape_sample_leaf(t, SHAPE(4, 5), -1, 1);
    x->is_parameter = true; /* a master: never half itself */
    return op_cast(t, x);
}

Var *op_cast(Tape *t, Var *x) {
    return tape_record(t, &op_row_cast, 1, &x, NULL, 0);
}

const Op op_row_cast = {
    .name = "cast",
    .flags = OP_CASTS | OP_KEEPS_SIGN | OP_SPARES_INPUTS | OP_SPARES_OUTPUT | OP_READS_HALF |
             OP_NO_FLOPS,
    .infer = elementwise_infer,
    .forward = forward,
    .backward = backward,
    .sample = sample,
};
