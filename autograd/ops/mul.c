/* y = a b        da = dy b, db = dy a summed over the leading dimensions that b lacks */
#include "autograd/ops.h"
#include "autograd/ops/binary.h"
#include "autograd/ops/elementwise.h"

/* Of different shapes: b is repeated. out = x * b + beta out. */
static void multiply(const float *x, const float *b, int64_t columns, float beta, float *out,
                     int64_t count) {
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < count; first += columns)
        for (int64_t j = 0; j < columns; j++)
            out[first + j] = gradient_join(beta, out[first + j], x[first + j] * b[j]);
}

static void mul_forward(Tape *t, Var *v) {
    (void)t;
    multiply(var_f32(v->in[0]), var_f32(v->in[1]), var_count(v->in[1]), 0, var_f32(v),
             var_count(v));
}

static void mul_backward(Tape *t, Var *v) {
    int64_t columns = var_count(v->in[1]), count = var_count(v);
    const float *a = var_f32(v->in[0]), *b = var_f32(v->in[1]);
    float beta;
    float *da = tape_grad(t, v->in[0], &beta);
    if (da) multiply(var_grad_f32(v), b, columns, beta, da, count);
    float *db = tape_grad(t, v->in[1], &beta);
    if (db) binary_backward_b(var_grad_f32(v), a, count / columns, columns, beta, db);
}

static bool mul_fits(const Var *v) {
    return var_count(v->in[0]) == var_count(v->in[1]);
}

static void products(const float *restrict a, const float *restrict b, int64_t count,
                     float *restrict out) {
    for (int64_t i = 0; i < count; i++) out[i] = a[i] * b[i];
}

static void mul_map_forward(const Var *v, const MapBlock *b) {
    (void)v;
    products(b->in[0], b->in[1], b->count, b->out);
}

static void mul_map_backward(const Var *v, const MapBlock *b) {
    (void)v;
    for (int i = 0; i < 2; i++)
        if (b->dx[i]) products(b->dy, b->in[!i], b->count, b->dx[i]);
}

static const Map mul_map = {.input_count = 2,
                            .fits = mul_fits,
                            .flow = MAP_FLOW_VALUES,
                            .forward = mul_map_forward,
                            .backward = mul_map_backward};

static Var *mul_sample(Tape *t, int which) {
    if (which > 3) return NULL;
    Var *a = tape_sample_leaf(t, SHAPE(3, 2, 4), -1, 1);
    if (which == 3) return op_mul(t, a, a);
    Shape shapes[] = {SHAPE(3, 2, 4), SHAPE(2, 4), SHAPE_SCALAR};
    Var *b = tape_sample_leaf(t, shapes[which], -1, 1);
    return op_mul(t, a, b);
}

Var *op_mul(Tape *t, Var *a, Var *b) {
    return tape_record(t, &op_row_mul, 2, (Var *[]){a, b}, NULL, 0);
}

const Op op_row_mul = {
    .name = "mul",
    .flags = OP_KEEPS_SIGN | OP_SPARES_OUTPUT | OP_NO_FLOPS | OP_IS_CHEAP,
    .infer = binary_infer,
    .forward = mul_forward,
    .backward = mul_backward,
    .sample = mul_sample,
    .map = &mul_map,
};
