/* Every task is given once, one's own first, whoever takes them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdatomic.h>

#include "core/parallel.h"
#include "core/shares.h"

enum { TASKS = 1000, THREADS_MAX = 4 };

static Arena *arena;

static void test_each_task_once(void **state) {
    (void)state;
    Error err = {0};
    for (int threads = 1; threads <= THREADS_MAX; threads++)
        for (int64_t tasks = 0; tasks <= TASKS; tasks = 3 * tasks + 1) {
            static _Atomic int given[TASKS];
            for (int i = 0; i < TASKS; i++) given[i] = 0;
            assert_true(parallel_init(threads, &err));
            Shares shares = shares_new(tasks, arena);
            _Atomic int wrong = 0;
#pragma omp parallel
            for (int64_t task; (task = shares_take(&shares)) >= 0;) {
                if (task >= tasks)
                    wrong++;
                else
                    given[task]++;
            }
            assert_int_equal(wrong, 0);
            for (int64_t i = 0; i < tasks; i++) assert_int_equal(given[i], 1);
            assert_int_equal(shares_take(&shares), -1);
        }
}

/* The first that each thread takes, while nobody has done its share, is its own share's first. */
static void test_own_share_first(void **state) {
    (void)state;
    Error err = {0};
    assert_true(parallel_init(THREADS_MAX, &err));
    Shares shares = shares_new(10 * THREADS_MAX, arena);
    int64_t first[THREADS_MAX];
#pragma omp parallel
    first[parallel_self()] = shares_take(&shares);
    for (int i = 0; i < THREADS_MAX; i++) assert_int_equal(first[i], 10 * i);
}

/* A thread alone: its own from the front, then the others' from the back. */
static void test_order(void **state) {
    (void)state;
    Error err = {0};
    assert_true(parallel_init(3, &err));
    Shares shares = shares_new(7, arena); /* 0 1, 2 3, 4 5 6 */
    static const int64_t expected[] = {0, 1, 3, 2, 6, 5, 4, -1};
    for (int i = 0; i < 8; i++) assert_int_equal(shares_take(&shares), expected[i]);
}

int main(void) {
    arena = arena_new("test");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_task_once),
        cmocka_unit_test(test_own_share_first),
        cmocka_unit_test(test_order),
    };
    int failed = cmocka_run_group_tests_name("shares", tests, NULL, NULL);
    arena_free(arena);
    return failed;
}
