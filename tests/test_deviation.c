/* Deviations: their formulas, in plain double sums; numpy's values
 * (tests/golden/make_deviation.py); the same bits for any number of threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/parallel.h"
#include "core/random.h"
#include "experiments/train/shadow.h"

static Arena *arena;

static int set_up(void **state) {
    (void)state;
    arena = arena_new("test");
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    arena_free(arena);
    Error err = {0};
    return parallel_init(0, &err) ? 0 : -1;
}

static float *uniform(uint64_t step, int64_t count) {
    float *x = arena_new_array(arena, float, count);
    random_fill_uniform((RandomKey){.seed = 3, .stream = RANDOM_TEST, .step = step}, -2, 2, count,
                        x);
    return x;
}

static Deviation of(const float *a, const float *b, int64_t count) {
    DeviationSums sums = {0};
    deviation_add(&sums, a, b, count, arena);
    return deviation_of(&sums);
}

static void by_hand(void **state) {
    (void)state;
    const float a[] = {3, -4, 0, 0}, b[] = {3, -3, 0.5f, -0.25f};
    Deviation d = of(a, b, 4);
    double noise = 1 + 0.25 + 0.0625;
    assert_true(fabs(d.sqnr_db - 10 * log10(25 / noise)) < 1e-12);
    assert_true(fabs(d.cosine - (9 + 12) / sqrt(25 * (9 + 9 + 0.25 + 0.0625))) < 1e-12);
    assert_true(d.error_max == 1 && d.error_mean == (1 + 0.5 + 0.25) / 4);
}

static void without_noise(void **state) {
    (void)state;
    const float a[] = {1, -2}, zeros[2] = {0};
    Deviation same = of(a, a, 2), none = of(zeros, zeros, 2), lost = of(a, zeros, 2);
    assert_true(isinf(same.sqnr_db) && same.sqnr_db > 0 && same.error_max == 0);
    assert_true(fabs(same.cosine - 1) < 1e-15);
    assert_true(none.cosine == 1 && isinf(none.sqnr_db) && none.error_mean == 0);
    assert_true(lost.cosine == 0 && lost.sqnr_db == 0 && lost.error_max == 2);
    assert_true(deviation_of(&(DeviationSums){0}).cosine == 1);
}

/* ---- numpy's values ---- */

enum { NUMBERS_MAX = 128 };

static void near(double value, double expected, const char *line) {
    if (!(fabs(value - expected) <= 1e-6 * fabs(expected)))
        fail_msg("%.17g, not %.17g, of: %s", value, expected, line);
}

static void check_deviation(const double *x, const float *values, int count, const char *line) {
    int n = (int)x[0];
    const double *expected = x + 1 + 2 * n;
    assert_int_equal(count, 1 + 2 * n + 4);
    Deviation d = of(values + 1, values + 1 + n, n);
    near(d.sqnr_db, expected[0], line);
    near(d.cosine, expected[1], line);
    near(d.error_max, expected[2], line);
    near(d.error_mean, expected[3], line);
}

static void check_divergence(const double *x, const float *values, int count, const char *line) {
    int rows = (int)x[0], classes = (int)x[1], n = rows * classes;
    assert_int_equal(count, 2 + 2 * n + 2);
    OutputChange change = {0};
    output_change_add(&change, values + 2, values + 2 + n, rows, classes);
    output_change_end(&change);
    near(change.kl, x[2 + 2 * n], line);
    assert_int_equal(change.changed, (int64_t)x[3 + 2 * n]);
}

static void as_numpy_has_them(void **state) {
    (void)state;
    static char line[8192];
    int lines = 0;
    FILE *file = fopen("tests/golden/deviation.txt", "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file)) {
        double x[NUMBERS_MAX];
        float values[NUMBERS_MAX];
        int count = 0;
        char *end;
        for (const char *at = line + strcspn(line, " "); count < NUMBERS_MAX; at = end, count++) {
            x[count] = strtod(at, &end);
            if (end == at) break;
            values[count] = (float)x[count];
        }
        if (*line == '#') continue;
        bool is_divergence = !strncmp(line, "divergence ", 11);
        (is_divergence ? check_divergence : check_deviation)(x, values, count, line);
        lines++;
    }
    fclose(file);
    assert_int_equal(lines, 12);
}

/* Larger than chunks, and added in two parts. */
static void as_plain_sums(void **state) {
    (void)state;
    enum { COUNT = 10007, FIRST = 4097 };
    const float *a = uniform(1, COUNT), *b = uniform(2, COUNT);
    double aa = 0, bb = 0, ab = 0, noise = 0, error = 0, most = 0;
    for (int i = 0; i < COUNT; i++) {
        double x = (double)a[i], y = (double)b[i];
        aa += x * x, bb += y * y, ab += x * y, noise += (x - y) * (x - y), error += fabs(x - y);
        most = fmax(most, fabs(x - y));
    }
    DeviationSums sums = {0};
    deviation_add(&sums, a, b, FIRST, arena);
    deviation_add(&sums, a + FIRST, b + FIRST, COUNT - FIRST, arena);
    Deviation d = deviation_of(&sums);
    assert_true(fabs(d.sqnr_db - 10 * log10(aa / noise)) < 1e-10);
    assert_true(fabs(d.cosine - ab / sqrt(aa * bb)) < 1e-12);
    assert_true(d.error_max == most && fabs(d.error_mean - error / COUNT) < 1e-12);
}

static void the_same_for_any_number_of_threads(void **state) {
    (void)state;
    enum { COUNT = 40000 };
    const float *a = uniform(1, COUNT), *b = uniform(2, COUNT);
    DeviationSums first = {0};
    for (int threads = 1; threads <= 4; threads++) {
        Error err = {0};
        DeviationSums sums = {0};
        assert_true(parallel_init(threads, &err));
        deviation_add(&sums, a, b, COUNT, arena);
        if (threads == 1) first = sums;
        assert_memory_equal(&sums, &first, sizeof sums);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(by_hand),
        TEST(without_noise),
        TEST(as_numpy_has_them),
        TEST(as_plain_sums),
        TEST(the_same_for_any_number_of_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
