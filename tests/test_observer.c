/* Reductions against plain loops, and for any number of threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/parallel.h"
#include "qat/observer.h"

static const int64_t counts[] = {1, 2, 15, 16, 17, 100, 1000, 65535, 65536, 100003};
enum { SIZES = 10, COUNT_MAX = 100003, THREADS_MAX = 4 };

static float x[COUNT_MAX], sorted[COUNT_MAX];

static void fill(uint64_t seed, int64_t count) {
    random_fill_normal((RandomKey){.seed = seed, .stream = RANDOM_TEST}, 2, count, x);
}

static void test_range(void **state) {
    (void)state;
    for (int c = 0; c < SIZES; c++) {
        fill((uint64_t)c, counts[c]);
        float low = 0, high = 0;
        for (int64_t i = 0; i < counts[c]; i++) {
            low = fminf(low, x[i]);
            high = fmaxf(high, x[i]);
        }
        Range range = observer_range(x, counts[c]);
        assert_true(range.low == low && range.high == high);
        x[counts[c] / 2] = NAN; /* passed over */
        range = observer_range(x, counts[c]);
        assert_true(range.low >= low && range.high <= high);
    }
}

static void test_usable(void **state) {
    (void)state;
    assert_true(observer_range_is_usable((Range){-1, 0}));
    assert_true(observer_range_is_usable((Range){0, 1e-30f}));
    assert_false(observer_range_is_usable((Range){0, 0}));
    assert_false(observer_range_is_usable((Range){0, INFINITY}));
    assert_false(observer_range_is_usable((Range){-INFINITY, 1}));
}

static void test_moments(void **state) {
    (void)state;
    for (int c = 0; c < SIZES; c++) {
        fill((uint64_t)c + 50, counts[c]);
        double n = (double)counts[c], sum = 0, magnitudes = 0, squares = 0;
        for (int64_t i = 0; i < counts[c]; i++) {
            sum += (double)x[i];
            magnitudes += fabs((double)x[i]);
        }
        for (int64_t i = 0; i < counts[c]; i++) squares += pow((double)x[i] - sum / n, 2);
        Moments moments = observer_moments(x, counts[c]);
        assert_true(fabs(moments.mean - sum / n) < 1e-12 * n);
        assert_true(fabs(moments.mean_magnitude - magnitudes / n) < 1e-12 * n);
        assert_true(fabs(moments.deviation - sqrt(squares / n)) < 1e-7);
    }
}

static int compare(const void *a, const void *b) {
    float left = *(const float *)a, right = *(const float *)b;
    return (left > right) - (left < right);
}

static float quantile_by_sorting(int64_t count, double at, bool of_magnitudes) {
    for (int64_t i = 0; i < count; i++) sorted[i] = of_magnitudes ? fabsf(x[i]) : x[i];
    qsort(sorted, (size_t)count, sizeof *sorted, compare);
    double place = at * (double)(count - 1), low = floor(place), high = ceil(place);
    double a = (double)sorted[(int64_t)low], b = (double)sorted[(int64_t)high];
    return (float)(a + (place - low) * (b - a));
}

static void test_quantile(void **state) {
    (void)state;
    static const double places[] = {0, 0.001, 0.25, 0.5, 0.9, 0.999, 0.99999, 1};
    for (int c = 0; c < SIZES; c++)
        for (int p = 0; p < 8; p++)
            for (int of_magnitudes = 0; of_magnitudes < 2; of_magnitudes++) {
                fill((uint64_t)c + 100, counts[c]);
                /* Many equal values too. */
                for (int64_t i = 0; i < counts[c]; i += 2) x[i] = rintf(x[i]);
                float expected = quantile_by_sorting(counts[c], places[p], of_magnitudes);
                assert_true(observer_quantile(x, counts[c], places[p], of_magnitudes) == expected);
            }
}

static void test_threads(void **state) {
    (void)state;
    Error err = {0};
    int before = parallel_threads();
    fill(7, COUNT_MAX);
    Moments one = {0};
    Range range_one = {0};
    for (int threads = 1; threads <= THREADS_MAX; threads++) {
        assert_true(parallel_init(threads, &err));
        Moments moments = observer_moments(x, COUNT_MAX);
        Range range = observer_range(x, COUNT_MAX);
        if (threads == 1) {
            one = moments;
            range_one = range;
        }
        assert_memory_equal(&moments, &one, sizeof one);
        assert_memory_equal(&range, &range_one, sizeof range);
    }
    assert_true(parallel_init(before, &err));
}

int main(void) {
    Error err = {0};
    if (!parallel_init(0, &err)) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_range),   cmocka_unit_test(test_usable),
        cmocka_unit_test(test_moments), cmocka_unit_test(test_quantile),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests_name("observer", tests, NULL, NULL);
}
