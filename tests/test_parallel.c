/* Threads, and what env.json says of the libraries under them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/blas.h"
#include "core/kernels.h"
#include "core/parallel.h"

/* First, while nobody has asked for a number. With every core busy one thread is enough; other
 * tests may keep cores busy too, so what is left without the load is not known. */
static void test_busy_machine(void **state) {
    (void)state;
    enum { CORES_MAX = 64 };
    int cores = (int)sysconf(_SC_NPROCESSORS_ONLN);
    pid_t busy[CORES_MAX];
    Error err = {0};
    unsetenv("OMP_NUM_THREADS");
    if (cores > CORES_MAX) cores = CORES_MAX;
    assert_true(parallel_init(0, &err));
    for (int i = 0; i < cores; i++) {
        busy[i] = fork();
        assert_true(busy[i] >= 0);
        if (busy[i]) continue;
        alarm(60);
        for (volatile unsigned turns = 0;; turns++)
            ;
    }
    for (int i = 0; i < 40 && parallel_threads() > 1; i++) {
        parallel_adapt();
        usleep(300000);
    }
    int threads = parallel_threads();
    for (int i = 0; i < cores; i++) {
        kill(busy[i], SIGKILL);
        waitpid(busy[i], NULL, 0);
    }
    if (cores < CORES_MAX) assert_int_equal(threads, 1);
}

static void test_asked_is_kept(void **state) {
    (void)state;
    Error err = {0};
    assert_true(parallel_init(7, &err));
    assert_true(parallel_init(0, &err));
    for (int i = 0; i < 3; i++) {
        parallel_adapt();
        usleep(300000);
    }
    assert_int_equal(parallel_threads(), 7);
}

static void test_thread_counts(void **state) {
    (void)state;
    for (int threads = 1; threads <= 4; threads++) {
        Error err = {0};
        assert_true(parallel_init(threads, &err));
        assert_int_equal(parallel_threads(), threads);
        bool seen[4] = {false};
#pragma omp parallel for schedule(static, 1)
        for (int i = 0; i < threads; i++) seen[parallel_self()] = true;
        for (int i = 0; i < threads; i++) assert_true(seen[i]);
    }
}

enum { CALLS = 64 };

static void note(int64_t i, int *calls, int *who) {
    calls[i]++, who[i] = parallel_self();
}

/* Each once; by one thread alone where there is little to do. */
static void test_loops(void **state) {
    (void)state;
    Error err = {0};
    assert_true(parallel_init(2, &err));
    for (int is_long = 0; is_long < 2; is_long++) {
        int calls[2][CALLS] = {0}, who[2][CALLS], others = 0;
        int64_t operations = is_long ? 1 << 20 : 1 << 10;
        PARALLEL_FOR(i, CALLS, operations, note(i, calls[0], who[0]));
        PARALLEL_FOR_DYNAMIC(i, CALLS, operations, note(i, calls[1], who[1]));
        for (int i = 0; i < CALLS; i++) {
            assert_int_equal(calls[0][i], 1);
            assert_int_equal(calls[1][i], 1);
            others += who[0][i];
            if (!is_long) assert_int_equal(who[1][i], 0);
        }
        assert_int_equal(others, is_long ? CALLS / 2 : 0);
    }
}

/* Whatever the environment says by then. */
static void test_zero_keeps_what_was_chosen(void **state) {
    (void)state;
    Error err = {0};
    unsetenv("OMP_NUM_THREADS");
    for (int threads = 1; threads <= 4; threads++) {
        assert_true(parallel_init(threads, &err));
        assert_true(parallel_init(0, &err));
        assert_int_equal(parallel_threads(), threads);
    }
}

static void test_bad_counts(void **state) {
    (void)state;
    Error err = {0};
    assert_false(parallel_init(-1, &err));
    assert_int_equal(err.code, ERROR_INPUT);
    assert_non_null(strstr(err.message, "-1"));
    err = (Error){0};
    assert_false(parallel_init(PARALLEL_THREADS_MAX + 1, &err));
}

static void test_descriptions(void **state) {
    (void)state;
    assert_int_equal(strncmp(blas_description(), "OpenBLAS ", 9), 0);
    assert_true(strlen(kernels_description()) > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_busy_machine),  cmocka_unit_test(test_asked_is_kept),
        cmocka_unit_test(test_thread_counts), cmocka_unit_test(test_zero_keeps_what_was_chosen),
        cmocka_unit_test(test_bad_counts),    cmocka_unit_test(test_descriptions),
        cmocka_unit_test(test_loops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
