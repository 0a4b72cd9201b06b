/* y = a + b        da = dy, db = dy summed over the leading dimensions that b lacks */
#include "autograd/ops.h"
#include "autograd/ops/binary.h"
#include "autograd/ops/elementwise.h"
#include "core/kernels/isa.h"

/* Of different shapes: b is repeated. */
static void add_forward(Tape *t, Var *v) {
    (void)t;
    int64_t columns = var_count(v->in[1]), count = var_count(v);
    const float *a = var_f32(v->in[0]), *b = var_f32(v->in[1]);
    float *y = var_f32(v);
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < count; first += columns)
        for (int64_t j = 0; j < columns; j++) y[first + j] = a[first + j] + b[j];
}

static void add_backward(Tape *t, Var *v) {
    int64_t columns = var_count(v->in[1]), count = var_count(v);
    float beta;
    float *da = tape_grad(t, v->in[0], &beta);
    if (da) elementwise_add(var_grad_f32(v), beta, da, count);
    float *db = tape_grad(t, v->in[1], &beta);
    if (db) binary_backward_b(var_grad_f32(v), NULL, count / columns, columns, beta, db);
}

static bool add_fits(const Var *v) {
    return var_count(v->in[0]) == var_count(v->in[1]);
}

static void add_map_forward(const Var *v, const MapBlock *b) {
    (void)v;
    isa_active()->add(b->in[0], b->in[1], b->count, b->out);
}

static const Map add_map = {.input_count = 2, .fits = add_fits, .forward = add_map_forward};

static Var *add_sample(Tape *t, int which) {
    if (which > 3) return NULL;
    Var *a = tape_sample_leaf(t, SHAPE(3, 2, 4), -1, 1);
    if (which == 3) return op_add(t, a, a);
    Shape shapes[] = {SHAPE(3, 2, 4), SHAPE(2, 4), SHAPE_SCALAR};
    Var *b = tape_sample_leaf(t, shapes[which], -1, 1);
    return op_add(t, a, b);
}

Var *op_add(Tape *t, Var *a, Var *b) {
    return tape_record(t, &op_row_add, 2, (Var *[]){a, b}, NULL, 0);
}

const Op op_row_add = {
    .name = "add",
    .flags = OP_KEEPS_SIGN | OP_SPARES_INPUTS | OP_SPARES_OUTPUT | OP_NO_FLOPS,
    .infer = binary_infer,
    .forward = add_forward,
    .backward = add_backward,
    .sample = add_sample,
    .map = &add_map,
};
