/* Intervals and McNemar's test against scipy's values (tests/golden/make_statistics.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "experiments/compare/statistics.h"

enum { NUMBERS_MAX = 32 };

static void near(double value, double expected, const char *line) {
    double most = 1e-9 * fabs(expected) + 1e-15;
    if (!(fabs(value - expected) <= most)) fail_msg("%.17g is not that of: %s", value, line);
}

/* The numbers behind the first word of a line. */
static int numbers(const char *line, double *out) {
    int count = 0;
    char *end;
    for (const char *at = line + strcspn(line, " "); count < NUMBERS_MAX; at = end, count++) {
        out[count] = strtod(at, &end);
        if (end == at) break;
    }
    return count;
}

static void check_interval(Interval interval, const double *expected, const char *line) {
    near(interval.mean, expected[0], line);
    near(interval.low, expected[1], line);
    near(interval.high, expected[2], line);
}

/* Whether the line is one of a golden value; all of its numbers agree. */
static int check_line(const char *line) {
    double x[NUMBERS_MAX];
    int count = numbers(line, x);
    if (!strncmp(line, "critical ", 9)) {
        assert_int_equal(count, 2);
        near(student_critical((int)x[0]), x[1], line);
    } else if (!strncmp(line, "interval ", 9)) {
        int values = (int)x[0];
        assert_int_equal(count, values + 4);
        check_interval(interval_of(x + 1, values), x + 1 + values, line);
    } else if (!strncmp(line, "mcnemar ", 8)) {
        assert_int_equal(count, 3);
        near(mcnemar((int64_t)x[0], (int64_t)x[1]), x[2], line);
    } else if (!strncmp(line, "difference ", 11)) {
        assert_int_equal(count, 6);
        Disagreement d = {(int64_t)x[0], (int64_t)x[1], (int64_t)x[2]};
        check_interval(disagreement_difference(d), x + 3, line);
    } else {
        assert_int_equal(*line, '#');
        return 0;
    }
    return 1;
}

static void test_golden(void **state) {
    (void)state;
    char line[4096];
    int lines = 0;
    FILE *file = fopen("tests/golden/statistics.txt", "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file)) lines += check_line(line);
    fclose(file);
    assert_int_equal(lines, 28);
}

static void test_of_too_few_there_is_no_interval(void **state) {
    (void)state;
    Interval one = interval_of((double[]){0.5}, 1), none = interval_of(NULL, 0);
    assert_true(one.mean == 0.5 && isnan(one.low) && isnan(one.high));
    assert_true(isnan(none.mean) && isnan(none.low));
    assert_true(isnan(disagreement_difference((Disagreement){1, 1, 0}).mean));
    assert_true(mcnemar(0, 0) == 1);
}

/* Of equal weights it is the mean of values; a value of twice the weight is worth more. */
static void test_weights(void **state) {
    (void)state;
    const double values[] = {0.5, -1, 2, 0.25}, equal[] = {3, 3, 3, 3}, other[] = {1, 2, 1, 1};
    Interval plain = interval_of(values, 4), weighted = weighted_interval(values, equal, 4);
    const double expected[] = {plain.mean, plain.low, plain.high};
    check_interval(weighted, expected, "equal weights");
    /* Mean 0.15; squares of w (x - mean) / 5: 0.07^2 + 0.46^2 + 0.37^2 + 0.02^2, times 4 / 3. */
    double half = student_critical(3) * sqrt((0.0049 + 0.2116 + 0.1369 + 0.0004) * 4 / 3);
    const double by_hand[] = {0.15, 0.15 - half, 0.15 + half};
    check_interval(weighted_interval(values, other, 4), by_hand, "other weights");
    assert_true(isnan(weighted_interval(values, equal, 1).low));
    assert_true(isnan(weighted_interval(values, equal, 0).mean));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights),
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_of_too_few_there_is_no_interval),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
