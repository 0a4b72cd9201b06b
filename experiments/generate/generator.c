#include "experiments/generate/generator.h"

#include <assert.h>
#include <math.h>

#include "autograd/kv_cache.h"
#include "core/counts.h"

enum { PART = 128 /* tokens of a prompt that are fed at a time: all their values are in memory */ };

Generator generator_open(Model *model, int64_t context, Arena *arena) {
    model_lay_weights(model);
    return (Generator){.model = model,
                       .tape = tape_new(arena),
                       .cache = kv_cache_new(context, arena),
                       .vocabulary = shape_last(model->output)};
}

void generator_close(Generator *g) {
    if (g->tape) tape_free(g->tape);
    g->tape = NULL;
}

int64_t generator_room(const Generator *g) {
    return g->cache->capacity - g->cache->length;
}

static bool feed_part(Generator *g, const int32_t *ids, int64_t count, Error *err) {
    Tape *t = g->tape;
    float numbers[PART];
    for (int64_t i = 0; i < count; i++) numbers[i] = (float)ids[i];
    tape_begin(t, TAPE_EVALUATION);
    Tensor tokens = {.dtype = DTYPE_F32, .shape = SHAPE(1, count), .data = numbers};
    TokenContext *context = model_tokens(g->model, t);
    context->cache = g->cache;
    context->only_last = true;
    Var *x = tape_constant(t, tokens);
    const Var *y = model_forward(g->model, t, x);
    if (t->error.code != ERROR_NONE) {
        *err = t->error;
        return false;
    }
    kv_cache_advance(g->cache, count);
    g->logits = var_f32(y);
    return true;
}

static bool check_ids(const Generator *g, const int32_t *ids, int64_t count, Error *err) {
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= g->vocabulary)
            return FAIL(err, ERROR_INPUT,
                        "token %ld is %ld, and the model has %ld; take the tokenizer that belongs "
                        "to it",
                        (long)i + 1, (long)ids[i], (long)g->vocabulary);
    return true;
}

bool generator_feed(Generator *g, const int32_t *ids, int64_t count, Error *err) {
    assert(count <= generator_room(g));
    TRY(check_ids(g, ids, count, err));
    for (int64_t first = 0; first < count; first += PART)
        TRY(feed_part(g, ids + first, count_least(PART, count - first), err));
    g->fed += count;
    return true;
}

void generator_rewind(Generator *g, int64_t count) {
    assert(count <= g->cache->length);
    g->cache->length = g->fed = count;
    g->logits = NULL;
}

bool generator_choose(Generator *g, const Sampling *sampling, int32_t *id, Error *err) {
    assert(g->logits);
    for (int64_t i = 0; i < g->vocabulary; i++)
        if (!isfinite(g->logits[i]))
            return FAIL(err, ERROR_NUMERIC, "the logit of token %ld behind %ld is not finite",
                        (long)i, (long)g->fed);
    uint64_t number = (uint64_t)g->chosen++;
    *id = (int32_t)sampling_choose(sampling, g->logits, g->vocabulary, number);
    return true;
}
