/* With kept keys and values, the logits have the bits of a network that sees all at once: token by
 * token, and in parts of any length. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "autograd/kv_cache.h"
#include "tests/model_source.h"

enum { VOCABULARY = 31, LENGTH = 75 };

static Tape *tape;

static int set_up(void **state) {
    (void)state;
    arena = arena_new("test");
    tape = tape_new(arena);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    tape_free(tape);
    arena_free(arena);
    return 0;
}

/* Two layers of heads that share keys; numbers large enough that what is seen matters. */
static Model *build(int heads) {
    ModelSource source = model_source(arena_format(
        arena,
        "model: {kind: transformer, width: 40, layers: 2, heads: %d, kv_heads: 2, head_dim: 34, "
        "ff: 24, qk_norm: true, attention_bias: all}",
        heads));
    Model *model = model_of(&source, SHAPE(LENGTH), VOCABULARY, 3);
    for (int i = 0; i < model->param_count; i++) {
        Param *p = model->params[i];
        RandomKey key = {.seed = 9, .stream = RANDOM_TEST, .step = (uint64_t)i};
        random_fill_uniform(key, -0.5f, 0.7f, tensor_count(&p->value), tensor_f32(&p->value));
    }
    return model;
}

static float *some_ids(void) {
    float *ids = arena_new_array(arena, float, LENGTH);
    for (int i = 0; i < LENGTH; i++) ids[i] = (float)((i * i + 5 * i) % VOCABULARY);
    return ids;
}

static const float *feed(Model *model, KvCache *cache, float *ids, int64_t count, bool only_last) {
    Tensor part = {.dtype = DTYPE_F32, .shape = SHAPE(1, count), .data = ids + cache->length};
    tape_begin(tape, TAPE_EVALUATION);
    Var *x = tape_constant(tape, part);
    TokenContext *tokens = model_tokens(model, tape);
    tokens->cache = cache;
    tokens->only_last = only_last;
    Var *y = model_forward(model, tape, x);
    if (tape->error.code != ERROR_NONE) fail_msg("%s", tape->error.message);
    assert_int_equal(y->value.shape.dim[1], only_last ? 1 : count);
    kv_cache_advance(cache, count);
    return var_f32(y);
}

static void same_bits(Model *model) {
    static const int64_t parts[] = {1, 2, 7, 31, 32, 33, 64, LENGTH};
    float *ids = some_ids();
    Tensor x = {.dtype = DTYPE_F32, .shape = SHAPE(1, LENGTH), .data = ids};
    Tensor expected = logits_of(model, tape, x);
    for (size_t p = 0; p < sizeof parts / sizeof *parts; p++)
        for (int only_last = 0; only_last < 2; only_last++) {
            KvCache *cache = kv_cache_new(LENGTH, arena);
            while (cache->length < LENGTH) {
                int64_t first = cache->length, count = LENGTH - first;
                if (count > parts[p]) count = parts[p];
                const float *logits = feed(model, cache, ids, count, only_last);
                if (only_last) first += count - 1, count = 1;
                if (memcmp(logits, tensor_f32(&expected) + first * VOCABULARY,
                           sizeof *logits * (size_t)(count * VOCABULARY)) != 0)
                    fail_msg("parts of %ld: position %ld differs", (long)parts[p], (long)first);
            }
        }
}

static void same_bits_as_all_at_once(void **state) {
    (void)state;
    same_bits(build(4));
    same_bits(build(10)); /* more that share keys than one product takes */
}

/* What was fed, and not how much room there is, decides. */
static void what_was_fed_matters(void **state) {
    (void)state;
    Model *model = build(4);
    float *ids = some_ids(), kept[VOCABULARY];
    KvCache *cache = kv_cache_new(2 * LENGTH, arena);
    feed(model, cache, ids, 9, true);
    memcpy(kept, feed(model, cache, ids, 1, true), sizeof kept);
    KvCache *other = kv_cache_new(LENGTH, arena);
    feed(model, other, ids, 9, true);
    assert_memory_equal(kept, feed(model, other, ids, 1, true), sizeof kept);
    other = kv_cache_new(LENGTH, arena);
    ids[0]++;
    feed(model, other, ids, 9, true);
    assert_memory_not_equal(kept, feed(model, other, ids, 1, true), sizeof kept);
}

int main(void) {
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(same_bits_as_all_at_once),
        TEST(what_was_fed_matters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
