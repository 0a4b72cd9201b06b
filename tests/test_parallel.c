/* Threads, and what env.json says of the libraries under them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "core/blas.h"
#include "core/kernels.h"
#include "core/parallel.h"

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
        cmocka_unit_test(test_thread_counts),
        cmocka_unit_test(test_zero_keeps_what_was_chosen),
        cmocka_unit_test(test_bad_counts),
        cmocka_unit_test(test_descriptions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
