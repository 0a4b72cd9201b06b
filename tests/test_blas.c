/* OpenBLAS through its door: small matrices with known results, and those that have none. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core/blas.h"
#include "core/parallel.h"

/* The calls belong into a region. */
static bool factor(double *a, int64_t n) {
    bool ok = false;
#pragma omp parallel
#pragma omp single
    ok = blas_cholesky(a, n);
    return ok;
}

static bool invert(double *a, int64_t n) {
    bool ok = false;
#pragma omp parallel
#pragma omp single
    ok = blas_invert_triangle(a, n);
    return ok;
}

/* [4 2; 2 5] = [2 0; 1 2] [2 1; 0 2], and the inverse of that triangle is [1/2 0; -1/4 1/2]. The
 * upper triangle is not looked at. */
static void test_factor(void **state) {
    (void)state;
    double a[] = {4, 77, 2, 5};
    assert_true(factor(a, 2));
    assert_true(a[0] == 2 && a[1] == 77 && a[2] == 1 && a[3] == 2);
    assert_true(invert(a, 2));
    assert_true(a[0] == 0.5 && a[1] == 77 && a[2] == -0.25 && a[3] == 0.5);
}

static void test_no_factor(void **state) {
    (void)state;
    double indefinite[] = {1, 2, 2, 1}, singular[] = {1, 1, 1, 1}, nothing[] = {0};
    double nan[] = {1, 0, NAN, 1}, infinite[] = {INFINITY, 0, 0, 1};
    assert_false(factor(indefinite, 2));
    assert_false(factor(singular, 2));
    assert_false(factor(nothing, 1));
    assert_false(factor(nan, 2));
    assert_false(factor(infinite, 2));
    double no_inverse[] = {1, 0, 5, 0};
    assert_false(invert(no_inverse, 2));
}

/* c = 2 a b^T - c, within wider rows; then a^T b. */
static void test_product(void **state) {
    (void)state;
    double a[] = {1, 2, -1, 3, 4, -1}, b[] = {5, 6, 7, 8}, c[] = {1, 1, 1, 1};
#pragma omp parallel
#pragma omp single
    blas_dgemm(false, true, 2, 2, 2, 2, a, 3, b, 2, -1, c, 2);
    assert_true(c[0] == 33 && c[1] == 45 && c[2] == 77 && c[3] == 105);
#pragma omp parallel
#pragma omp single
    blas_dgemm(true, false, 2, 2, 2, 1, a, 3, b, 2, 0, c, 2);
    assert_true(c[0] == 26 && c[1] == 30 && c[2] == 38 && c[3] == 44);
}

/* [2 1 0; 1 2 0; 0 0 5] has 5 with [0 0 1], 3 with [1 1 0] / sqrt 2, and 1. The upper triangle is
 * not looked at. */
static void test_eigen(void **state) {
    (void)state;
    double a[] = {2, 77, 77, 1, 2, 77, 0, 0, 5}, values[2], vectors[6];
    Arena *arena = arena_new("test");
    bool ok = false;
#pragma omp parallel
#pragma omp single
    ok = blas_eigen(a, 3, 2, values, vectors, arena);
    assert_true(ok);
    assert_float_equal(values[0], 5, 1e-12);
    assert_float_equal(values[1], 3, 1e-12);
    assert_float_equal(fabs(vectors[2]), 1, 1e-12);
    assert_float_equal(fabs(vectors[3] + vectors[4]), sqrt(2), 1e-12);
    double bad[] = {1, 0, NAN, 1};
    assert_false(blas_eigen(bad, 2, 1, values, vectors, arena));
    arena_free(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_factor),
        cmocka_unit_test(test_no_factor),
        cmocka_unit_test(test_eigen),
        cmocka_unit_test(test_product),
    };
    Error err = {0};
    if (!parallel_init(0, &err)) return 1;
    blas_may_be_shared();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
