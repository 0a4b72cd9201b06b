/* Deviations: their formulas, in plain double sums; the same bits for any number of threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "core/parallel.h"
#include "core/random.h"
#include "experiments/train/deviation.h"

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
        TEST(as_plain_sums),
        TEST(the_same_for_any_number_of_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
