/* The mean over all elements of (x - target)^2        dx = 2 dy (x - target) / n, dtarget = -dx */
#include "autograd/ops.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/reduce.h"

static bool mse_infer(Var *v, Error *err) {
    Shape x = v->in[0]->value.shape, target = v->in[1]->value.shape;
    char text[2][SHAPE_TEXT_BYTES];
    if (!shape_equal(x, target))
        return FAIL(err, ERROR_INPUT, "prediction %s and target %s must have the same shape",
                    shape_text(x, text[0]), shape_text(target, text[1]));
    v->value.shape = SHAPE_SCALAR;
    return true;
}

static double squared_distance(const float *x, const float *target, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) {
        double d = (double)x[i] - (double)target[i];
        sum += d * d;
    }
    return sum;
}

static void mse_forward(Tape *t, Var *v) {
    int64_t count = var_count(v->in[0]);
    double sum = reduce_runs(t, squared_distance, var_f32(v->in[0]), var_f32(v->in[1]), count);
    *var_f32(v) = (float)(sum / (double)count);
}

static int64_t mse_scratch(const Var *v) {
    return reduce_runs_scratch(var_count(v->in[0]));
}

static void mse_backward(Tape *t, Var *v) {
    int64_t count = var_count(v->in[0]);
    const float *x = var_f32(v->in[0]), *target = var_f32(v->in[1]);
    for (int k = 0; k < 2; k++) {
        float beta;
        float *d = tape_grad(t, v->in[k], &beta);
        if (!d) continue;
        float factor = (float)((k ? -2.0 : 2.0) * (double)*var_grad_f32(v) / (double)count);
#pragma omp parallel for schedule(static) firstprivate(beta)
        for (int64_t i = 0; i < count; i++)
            d[i] = gradient_join(beta, d[i], factor * (x[i] - target[i]));
    }
}

static Var *mse_sample(Tape *t, int which) {
    if (which > 0) return NULL;
    Var *x = tape_sample_leaf(t, SHAPE(4, 3), -1, 1);
    Var *target = tape_sample_leaf(t, SHAPE(4, 3), -1, 1);
    return op_mse(t, x, target);
}

Var *op_mse(Tape *t, Var *x, Var *target) {
    return tape_record(t, &op_row_mse, 2, (Var *[]){x, target}, NULL, 0);
}

const Op op_row_mse = {
    .name = "mse",
    .flags = OP_SPARES_OUTPUT | OP_NO_FLOPS,
    .infer = mse_infer,
    .forward = mse_forward,
    .backward = mse_backward,
    .sample = mse_sample,
    .forward_scratch = mse_scratch,
};
