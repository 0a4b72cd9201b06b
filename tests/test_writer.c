/* A writer that reads again what it has read in part writes what a fresh one would. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

#include "experiments/generate/writer.h"
#include "tests/llm_golden.h"

static Arena *arena;

static int set_up(void **state) {
    (void)state;
    arena = arena_new("test");
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    arena_free(arena);
    return 0;
}

static Writer opened(void) {
    Writer w;
    Error err = {0};
    if (!writer_open(LLM_GOLDEN "llama", arena, &w, &err)) fail_msg("%s", err.message);
    w.is_silent = true;
    return w;
}

static TokenIds ids_of(const int32_t *items, int64_t count) {
    TokenIds ids = {.arena = arena};
    for (int64_t i = 0; i < count; i++) token_ids_add(&ids, items[i]);
    return ids;
}

/* 12 tokens behind these. */
static const int32_t *continued(Writer *w, TokenIds ids) {
    Error err = {0};
    if (!writer_read(w, &ids, &err) || !writer_write(w, 12, &(Sampling){0}, &err))
        fail_msg("%s", err.message);
    int32_t *copy = arena_new_array(arena, int32_t, w->fresh.count);
    memcpy(copy, w->fresh.items, sizeof *copy * (size_t)w->fresh.count);
    assert_int_equal(w->fresh.count, 12);
    return copy;
}

static void what_was_read_is_not_read_again(void **state) {
    (void)state;
    static const int32_t first[] = {0, 42, 85, 281, 80, 76}, other[] = {0, 42, 85, 7, 9},
                         shorter[] = {0, 42, 85};
    const TokenIds texts[] = {ids_of(first, 6), ids_of(other, 5), ids_of(shorter, 3),
                              ids_of(first, 6), ids_of(first, 6)};
    Writer w = opened();
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        Writer fresh = opened();
        const int32_t *expected = continued(&fresh, texts[i]);
        assert_memory_equal(continued(&w, texts[i]), expected, sizeof *expected * 12);
        writer_close(&fresh);
    }
    writer_close(&w);
}

/* What it wrote itself counts as read, but for the last token, which nobody needed. */
static void a_conversation_goes_on(void **state) {
    (void)state;
    static const int32_t first[] = {0, 42, 85};
    Writer w = opened(), fresh = opened();
    TokenIds ids = ids_of(first, 3);
    const int32_t *answer = continued(&w, ids);
    assert_int_equal(w.read.count, 3 + 11);
    for (int i = 0; i < 12; i++) token_ids_add(&ids, answer[i]);
    token_ids_add(&ids, 5);
    const int32_t *expected = continued(&fresh, ids);
    assert_memory_equal(continued(&w, ids), expected, sizeof *expected * 12);
    writer_close(&fresh);
    writer_close(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_was_read_is_not_read_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_conversation_goes_on, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
