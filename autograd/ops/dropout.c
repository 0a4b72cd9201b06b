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

typedef struct Saved {
    RandomKey key;
    uint64_t base;
} Saved;

/* Whether an element stays is found in forward, a byte each. */
static size_t note_bytes(const Var *v) {
    return (size_t)var_count(v);
}

static void prepare(Tape *t, Var *v) {
    const DropoutAttr *attr = v->attr;
    Saved *saved = v->saved;
    if (!saved) saved = v->saved = tape_alloc(t, sizeof *saved);
    saved->key = (RandomKey){.seed = t->seed, .stream = RANDOM_DROPOUT, .step = t->step};
    saved->base = (uint64_t)attr->layer << LAYER_SHIFT;
}

static int64_t saved_bytes(const Tape *t, const Var *v) {
    (void)t;
    (void)v;
    return arena_padded(sizeof(Saved));
}

static float probability_of(const Var *v) {
    return ((const DropoutAttr *)v->attr)->probability;
}

/* Elements first .. first + count - 1. One of four is below the threshold with probability p, to
 * 2^-32. */
static void mask_make(const Var *v, int64_t first, int64_t count, uint8_t *mask) {
    const Saved *saved = v->saved;
    uint32_t threshold = (uint32_t)((double)probability_of(v) * 0x1p32);
    for (int64_t i = first, end = first + count; i < end;) {
        Random4 random = random_words(saved->key, saved->base + (uint64_t)i / 4);
        for (int64_t next = i - i % 4 + 4; i < next && i < end; i++)
            mask[i - first] = random.word[i % 4] >= threshold;
    }
}

/* out = x * mask / (1 - p). A product, not a choice: a dropped NaN stays NaN. */
static void mask_apply(const Var *v, const uint8_t *mask, const float *x, int64_t count,
                       float *restrict out) {
    float kept = 1 / (1 - probability_of(v));
    for (int64_t i = 0; i < count; i++) out[i] = x[i] * ((float)mask[i] * kept);
}

/* Elements that lie one behind the other in the value; `is_known`: the notes say which of them
 * stay. Where there are none, it is found out again. */
static void run_apply(const Var *v, int64_t first, int64_t count, bool is_known, const float *x,
                      float *out) {
    enum { SOME = 1024 };
    uint8_t made[SOME];
    for (int64_t done = 0; done < count; done += SOME) {
        int64_t some = count - done < SOME ? count - done : SOME;
        uint8_t *mask = v->notes ? v->notes + first + done : made;
        if (!is_known || !v->notes) mask_make(v, first + done, some, mask);
        mask_apply(v, mask, x + done, some, out + done);
    }
}

static void block_apply(const Var *v, const MapBlock *b, bool is_known, const float *x,
                        float *out) {
    int64_t run = piece_run(&b->piece), first = b->piece.first;
    for (int64_t i = 0; i < b->count; i += run, first += b->piece.stride)
        run_apply(v, first, run, is_known, x + i, out + i);
}

static void forward(const Var *v, const MapBlock *b) {
    block_apply(v, b, false, b->in[0], b->out);
}

static void backward(const Var *v, const MapBlock *b) {
    block_apply(v, b, true, b->dy, b->dx[0]);
}

static const Map map = {
    .input_count = 1,
    .prepare = prepare,
    .forward = forward,
    .backward = backward,
    .note_bytes = note_bytes,
};

static Var *dropout_sample(Tape *t, int which) {
    if (which > 1) return NULL;
    Var *x = tape_sample_leaf(t, SHAPE(5, 5), -1, 1);
    return op_dropout(t, x, which ? 0.3f : 0.5f, 7);
}

Var *op_dropout(Tape *t, Var *x, float probability, uint32_t layer) {
    assert(layer < 1u << LAYER_BITS);
    if (!t->mode.is_training || probability == 0) return x;
    DropoutAttr attr = {.probability = probability, .layer = layer};
    return tape_record(t, &op_row_dropout, 1, &x, &attr, sizeof attr);
}

const Op op_row_dropout = {
    .name = "dropout",
    .flags =
        OP_DROPS | OP_KEEPS_SIGN | OP_SPARES_INPUTS | OP_SPARES_OUTPUT | OP_NO_FLOPS | OP_IS_CHEAP,
    .infer = dropout_infer,
    .sample = dropout_sample,
    .map = &map,
    .saved_bytes = saved_bytes,
};
