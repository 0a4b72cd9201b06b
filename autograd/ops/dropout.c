/* y = x m        dx = dy m        m = 0 with probability p, else 1 / (1 - p); in training only
 *
 * The mask is a pure function of (seed, step, layer, element): Philox under the key (t->seed,
 * RANDOM_DROPOUT, t->step), counter layer * 2^40 + i / 4, word i % 4 for element i. Neither threads
 * nor a resume change it, and a replay finds the same one. In evaluation, and for p = 0, the op is
 * its input: nothing is recorded. (Srivastava et al. 2014, in the form that scales in training.) */
#include <assert.h>

#include "autograd/ops.h"
#include "autograd/ops/elementwise.h"

typedef struct DropoutAttr {
    float probability;
    uint32_t layer;
} DropoutAttr;

enum { LAYER_SHIFT = 40, LAYER_BITS = 24 };

static bool dropout_infer(Var *v, Error *err) {
    const DropoutAttr *attr = v->attr;
    if (!(attr->probability >= 0 && attr->probability < 1))
        return FAIL(err, ERROR_INPUT, "probability must be from 0 to below 1, not %g",
                    (double)attr->probability);
    return elementwise_infer(v, err);
}

/* One of four elements is below the threshold with probability p, to 2^-32. */
static void mask_four(RandomKey key, uint64_t counter, uint32_t threshold, int64_t count,
                      uint8_t *mask) {
    Random4 random = random_words(key, counter);
    for (int64_t j = 0; j < count; j++) mask[j] = random.word[j] >= threshold;
}

/* out = x * mask / (1 - p) + beta out. A product, not a choice: a dropped NaN stays NaN. */
static void apply_mask(const float *x, const uint8_t *mask, float probability, float beta,
                       float *out, int64_t count) {
    float kept = 1 / (1 - probability);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; i++)
        out[i] = gradient_join(beta, out[i], x[i] * ((float)mask[i] * kept));
}

static void dropout_forward(Tape *t, Var *v) {
    const DropoutAttr *attr = v->attr;
    int64_t count = var_count(v);
    if (!v->saved) v->saved = tape_alloc(t, (size_t)count);
    uint8_t *mask = v->saved;
    RandomKey key = {.seed = t->seed, .stream = RANDOM_DROPOUT, .step = t->step};
    uint64_t base = (uint64_t)attr->layer << LAYER_SHIFT;
    uint32_t threshold = (uint32_t)((double)attr->probability * 0x1p32);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; i += 4)
        mask_four(key, base + (uint64_t)i / 4, threshold, count - i < 4 ? count - i : 4, mask + i);
    apply_mask(var_f32(v->in[0]), mask, attr->probability, 0, var_f32(v), count);
}

static void dropout_backward(Tape *t, Var *v) {
    const DropoutAttr *attr = v->attr;
    float beta;
    float *dx = tape_grad(t, v->in[0], &beta);
    if (dx) apply_mask(v->grad, v->saved, attr->probability, beta, dx, var_count(v));
}

static Var *dropout_sample(Tape *t, int which) {
    if (which > 1) return NULL;
    Var *x = tape_sample_leaf(t, SHAPE(5, 5), -1, 1);
    bool was_training = t->is_training;
    t->is_training = true;
    Var *y = op_dropout(t, x, which ? 0.3f : 0.5f, 7);
    t->is_training = was_training;
    return y;
}

Var *op_dropout(Tape *t, Var *x, float probability, uint32_t layer) {
    assert(layer < 1u << LAYER_BITS);
    if (!t->is_training || probability == 0) return x;
    DropoutAttr attr = {.probability = probability, .layer = layer};
    return tape_record(t, &op_row_dropout, 1, &x, &attr, sizeof attr);
}

const Op op_row_dropout = {
    .name = "dropout",
    .flags = OP_KEEPS_SIGN | OP_SPARES_INPUTS | OP_SPARES_OUTPUT,
    .infer = dropout_infer,
    .forward = dropout_forward,
    .backward = dropout_backward,
    .sample = dropout_sample,
};
