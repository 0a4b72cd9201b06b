#include "autograd/gradcheck.h"

#include <assert.h>
#include <math.h>

#include "autograd/ops.h"

static const double step_relative = 0x1p-8;
static const double tolerance_relative = 2e-3, tolerance_of_leaf = 5e-4;

typedef struct Check {
    Tape *t;
    const Var *out;
    const float *weight; /* [count of out] */
    float *values;       /* of out, decoded */
    double noise;        /* f32 rounding in the loss */
} Check;

/* Of both signs and clear of 0, so that errors neither cancel nor hide. */
static float *weights_new(Tape *t, int64_t count) {
    float *weight = tape_alloc(t, sizeof(float) * (size_t)count);
    RandomKey key = {.seed = 2, .stream = RANDOM_TEST};
    random_fill_uniform(key, -1, 1, count, weight);
    for (int64_t i = 0; i < count; i++) weight[i] += weight[i] < 0 ? -0.5f : 0.5f;
    return weight;
}

/* Replays the record. What forwards allocate goes again: a record replayed last must stay. */
static double loss_of_replay(Check *check) {
    ArenaMark mark = arena_mark(check->t->arena);
    tape_replay(check->t);
    tensor_decode(&check->out->value, check->values);
    double loss = 0;
    for (int64_t i = 0; i < var_count(check->out); i++)
        loss += (double)check->weight[i] * (double)check->values[i];
    arena_rewind(check->t->arena, mark);
    return loss;
}

static double root_mean_square(const float *x, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += (double)x[i] * (double)x[i];
    return sqrt(sum / (double)count);
}

static double largest_magnitude(const float *x, int64_t count) {
    double largest = 0;
    for (int64_t i = 0; i < count; i++) largest = fmax(largest, fabs((double)x[i]));
    return largest;
}

/* Central difference at element i; *h becomes the distance that f32 could represent. */
static double finite_difference(Check *check, Var *leaf, int64_t i, double *h) {
    float *x = var_f32(leaf) + i;
    float kept = *x, above = (float)((double)kept + *h), below = (float)((double)kept - *h);
    *x = above;
    double loss_above = loss_of_replay(check);
    *x = below;
    double loss_below = loss_of_replay(check);
    *x = kept;
    *h = ((double)above - (double)below) / 2;
    return (loss_above - loss_below) / (2 * *h);
}

static bool check_leaf(Check *check, Var *leaf, int leaf_number, Error *err) {
    int64_t count = var_count(leaf);
    int64_t stride = (count + GRADCHECK_ELEMENTS_MAX - 1) / GRADCHECK_ELEMENTS_MAX;
    double size = root_mean_square(var_f32(leaf), count);
    double largest = *leaf->has_grad ? largest_magnitude(var_grad_f32(leaf), count) : 0;
    for (int64_t i = 0; i < count; i += stride) {
        double h = step_relative * (size > 0 ? size : 1);
        double expected = finite_difference(check, leaf, i, &h);
        double got = *leaf->has_grad ? (double)var_grad_f32(leaf)[i] : 0;
        double tolerance = tolerance_relative * fmax(fabs(got), fabs(expected)) +
                           tolerance_of_leaf * largest + check->noise / h;
        if (fabs(got - expected) <= tolerance) continue;
        char text[SHAPE_TEXT_BYTES];
        return FAIL(err, ERROR_NUMERIC,
                    "%s: gradient of leaf %d %s at element %lld: backward gives %.7g, finite "
                    "differences %.7g (tolerance %.2g)",
                    check->out->op ? check->out->op->name : "leaf", leaf_number,
                    shape_text(leaf->value.shape, text), (long long)i, got, expected, tolerance);
    }
    return true;
}

/* Gradients of sum w y, by backward. */
static void run_backward(Tape *t, Var *out, float *weight) {
    for (int i = 0; i < t->count; i++) *t->vars[i]->has_grad = false;
    Tensor tensor = {.dtype = DTYPE_F32, .shape = out->value.shape, .data = weight};
    Var *constant = tape_constant(t, tensor);
    Var *weighted = op_mul(t, out, constant);
    Var *loss = op_sum(t, weighted, -1);
    tape_backward(t, loss, 1);
}

bool gradcheck(Tape *t, Var *out, Error *err) {
    assert(t->mode.keeps_residuals && t->mode.needs_grad);
    if (t->error.code != ERROR_NONE) {
        *err = t->error;
        return false;
    }
    int64_t count = var_count(out);
    Check check = {.t = t, .out = out};
    float *weight = weights_new(t, count);
    check.weight = weight;
    check.values = tape_alloc(t, sizeof(float) * (size_t)count);
    int recorded = t->count;
    run_backward(t, out, weight);
    tensor_decode(&out->value, check.values);
    double squares = 0;
    for (int64_t i = 0; i < count; i++)
        squares += pow((double)weight[i] * (double)check.values[i], 2);
    check.noise = 4 * 0x1p-24 * sqrt(squares);
    bool passed = true;
    int leaf_number = 0;
    for (int i = 0; i < recorded && passed; i++) {
        Var *leaf = t->vars[i];
        if (!leaf->op && leaf->needs_grad) passed = check_leaf(&check, leaf, leaf_number++, err);
    }
    tape_replay(t); /* leaves have their old values again: so has the record */
    return passed;
}
