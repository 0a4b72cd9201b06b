#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/arena.h"

/* Under sanitizers an impossible request must come back as NULL, as it does elsewhere. */
#define SEEN_BY_SANITIZERS __attribute__((visibility("default")))
const char *__asan_default_options(void);
const char *__tsan_default_options(void);
SEEN_BY_SANITIZERS const char *__asan_default_options(void) {
    return "allocator_may_return_null=1";
}
SEEN_BY_SANITIZERS const char *__tsan_default_options(void) {
    return "allocator_may_return_null=1";
}

static void test_alignment_and_growth(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    unsigned char *blocks[200];
    for (int i = 0; i < 200; i++) {
        size_t bytes = 1 + (size_t)i * 997;
        blocks[i] = arena_alloc(arena, bytes);
        assert_int_equal((uintptr_t)blocks[i] % ARENA_ALIGNMENT, 0);
        memset(blocks[i], i, bytes);
    }
    for (int i = 0; i < 200; i++) /* nothing overlaps */
        for (size_t j = 0; j < 1 + (size_t)i * 997; j += 61) assert_int_equal(blocks[i][j], i);
    assert_true(arena_used(arena) >= (size_t)997 * 199 * 100);
    assert_int_equal(arena_peak(arena), arena_used(arena));
    assert_true(arena_system_calls(arena) < 20); /* blocks at least double */
    arena_free(arena);
    arena_free(NULL);
}

static void test_zeros_and_text(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    memset(arena_alloc(arena, 5000), 0xff, 5000);
    arena_reset(arena);
    unsigned char *zeros = arena_zalloc(arena, 5000);
    for (int i = 0; i < 5000; i++) assert_int_equal(zeros[i], 0);
    int64_t *numbers = arena_new_array(arena, int64_t, 12);
    for (int i = 0; i < 12; i++) assert_int_equal(numbers[i], 0);
    assert_string_equal(arena_strdup(arena, "weight"), "weight");
    assert_string_equal(arena_format(arena, "%s.%d", "layer", 12), "layer.12");
    arena_free(arena);
}

static void test_marks_nest(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    arena_alloc(arena, 100);
    size_t before = arena_used(arena);
    ArenaMark outer = arena_mark(arena);
    char *kept = arena_strdup(arena, "kept");
    ArenaMark inner = arena_mark(arena);
    for (int i = 0; i < 50; i++) arena_alloc(arena, 10000); /* several blocks */
    arena_rewind(arena, inner);
    assert_string_equal(kept, "kept");
    arena_rewind(arena, outer);
    assert_int_equal(arena_used(arena), before);
    assert_true(arena_peak(arena) >= 500000);
    arena_free(arena);
}

static void test_rewind_to_nothing(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    ArenaMark mark = arena_mark(arena);
    arena_alloc(arena, 1 << 20);
    arena_rewind(arena, mark);
    assert_int_equal(arena_used(arena), 0);
    arena_free(arena);
}

/* One step of a repeated pattern: some memory that stays, scratch in between. */
static void step(Arena *arena) {
    for (int i = 0; i < 30; i++) {
        arena_alloc(arena, 3000);
        ArenaMark mark = arena_mark(arena);
        arena_alloc(arena, (size_t)(i + 1) * 40000);
        arena_rewind(arena, mark);
    }
}

static void test_repeated_pattern_settles(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    step(arena);
    arena_reset(arena);
    step(arena);
    arena_reset(arena);
    size_t calls = arena_system_calls(arena);
    for (int i = 0; i < 10; i++) {
        step(arena);
        arena_reset(arena);
    }
    assert_int_equal(arena_system_calls(arena), calls);
    arena_free(arena);
}

static void test_reserved_bytes_come_in_one_piece(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    arena_alloc(arena, 5000);
    arena_reserve(arena, 300000);
    assert_int_equal(arena_used(arena), 0);
    size_t calls = arena_system_calls(arena);
    char *first = arena_alloc(arena, 100032);
    assert_ptr_equal(arena_alloc(arena, 199936), first + 100032);
    arena_reserve(arena, 200000); /* there is more already */
    assert_int_equal(arena_used(arena), 0);
    arena_alloc(arena, 299968);
    assert_int_equal(arena_system_calls(arena), calls);
    arena_free(arena);
}

static void test_sizes(void **state) {
    (void)state;
    assert_int_equal(checked_mul(1000, 1000), 1000000);
    assert_int_equal(checked_add(SIZE_MAX - 1, 1), SIZE_MAX);
}

/* What the child writes to stderr, and how it ends. */
static int run_child(void (*child)(void), char *text, size_t bytes) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(ends[1], STDERR_FILENO);
        child();
        _exit(0);
    }
    close(ends[1]);
    size_t used = 0;
    for (ssize_t got; (got = read(ends[0], text + used, bytes - 1 - used)) > 0;)
        used += (size_t)got;
    text[used] = '\0';
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void overflow(void) {
    (void)checked_mul(SIZE_MAX / 2, 3);
}

static void exhaust(void) {
    Arena *arena = arena_new("model");
    arena_alloc(arena, 1000);
    arena_alloc(arena, (size_t)1 << 62); /* more than an address space */
}

static void test_out_of_memory(void **state) {
    (void)state;
    char text[1 << 14]; /* AddressSanitizer has much to say first */
    assert_int_equal(run_child(overflow, text, sizeof text), 1);
    assert_non_null(strstr(text, "out of memory"));
    assert_int_equal(run_child(exhaust, text, sizeof text), 1);
    if (!strstr(text, "the model arena holds 1024 bytes")) fail_msg("it said: %s", text);
}

#if !defined(__SANITIZE_ADDRESS__) &&                                                              \
    !defined(__SANITIZE_THREAD__) /* which ends a program whose memory is limited */
/* Blocks grow by what is held, where there is as much; else by what is needed. */
static void need_little(void) {
    Arena *arena = arena_new("model");
    arena_reserve(arena, (size_t)200 << 20);
    arena_alloc(arena, (size_t)200 << 20);
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (!file || fscanf(file, "%ld", &pages) != 1) _exit(2);
    fclose(file);
    rlim_t bytes = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + ((rlim_t)64 << 20);
    if (setrlimit(RLIMIT_AS, &(struct rlimit){bytes, bytes})) _exit(3);
    memset(arena_alloc(arena, 64), 1, 64);
    _exit(0);
}

static void test_grows_by_what_there_is(void **state) {
    (void)state;
    char text[1 << 10];
    if (run_child(need_little, text, sizeof text) != 0) fail_msg("it said: %s", text);
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alignment_and_growth),
        cmocka_unit_test(test_zeros_and_text),
        cmocka_unit_test(test_marks_nest),
        cmocka_unit_test(test_rewind_to_nothing),
        cmocka_unit_test(test_repeated_pattern_settles),
        cmocka_unit_test(test_reserved_bytes_come_in_one_piece),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_out_of_memory),
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
        cmocka_unit_test(test_grows_by_what_there_is),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
