/* From ranges to scales: the formulas, ranges of nothing, and the search. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <float.h>
#include <math.h>

#include "autograd/ops.h"
#include "core/parallel.h"
#include "qat/range.h"

static const Dtype scale_dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
enum { SCALE_DTYPES = 3 };

static void test_formulas(void **state) {
    (void)state;
    Range range = {-3, 6};
    for (int bits = 2; bits <= 8; bits++) {
        float steps = (float)((1 << bits) - 1);
        RangeFit fit = range_fit(range, grid_signed(bits), false, DTYPE_F32);
        assert_true(fit.scale == 6 / (steps / 2) && fit.offset == 0);
        fit = range_fit(range, grid_unsigned(bits), false, DTYPE_F32);
        assert_true(fit.scale == 6 / steps && fit.offset == 0);
        fit = range_fit(range, grid_unsigned(bits), true, DTYPE_F32);
        assert_true(fit.scale == 9 / steps && fit.offset == -3);
    }
    RangeFit one_sided = range_fit((Range){2, 6}, grid_unsigned(4), true, DTYPE_F32);
    assert_true(one_sided.scale == 6.0f / 15 && one_sided.offset == 0); /* 0 is in every range */
    RangeFit below = range_fit((Range){-6, -2}, grid_signed(4), false, DTYPE_F32);
    assert_true(below.scale == 6 / 7.5f);
}

static void test_nothing_gets_the_smallest_scale(void **state) {
    (void)state;
    for (int d = 0; d < SCALE_DTYPES; d++)
        for (int is_affine = 0; is_affine < 2; is_affine++) {
            Grid grid = is_affine ? grid_unsigned(4) : grid_signed(4);
            RangeFit fit = range_fit((Range){0, 0}, grid, is_affine, scale_dtypes[d]);
            float stored = fake_quant_stored_scale(scale_dtypes[d], fit.scale);
            assert_true(fit.scale > 0 && stored > 0 && isfinite(1 / stored) && fit.offset == 0);
            assert_true(fake_quant_zero(grid, fit.offset, stored) == 0);
        }
}

/* Whatever the rounding of the scale does, the offset's zero point needs no clamping. */
static void test_zero_points_stay_on_the_grid(void **state) {
    (void)state;
    float random[200];
    random_fill_uniform((RandomKey){.seed = 1, .stream = RANDOM_TEST}, -9, 3, 200, random);
    int clamped = 0;
    for (int i = 0; i < 200; i++)
        for (int d = 0; d < SCALE_DTYPES; d++)
            for (int bits = 2; bits <= 8; bits++) {
                float low = random[i] < 0 ? random[i] : -random[i];
                Grid grid = grid_unsigned(bits);
                RangeFit fit = range_fit((Range){low, 0}, grid, true, scale_dtypes[d]);
                float stored = fake_quant_stored_scale(scale_dtypes[d], fit.scale);
                float free = -rintf(fit.offset / stored);
                assert_true(free >= 0 && free <= (float)grid_high(grid));
                assert_true(fake_quant_zero(grid, fit.offset, stored) == free);
                clamped += -rintf(low / stored) > (float)grid_high(grid);
            }
    assert_true(clamped > 0); /* else the case was never met */
}

/* The sum of squared errors by the definition, in double. */
static double error_of(RangeData data, RangeFit fit, Grid grid, Dtype scale_dtype) {
    float s = fake_quant_stored_scale(scale_dtype, fit.scale);
    double zero = fake_quant_zero(grid, fit.offset, s), sum = 0;
    for (int64_t i = 0; i < data.count; i++) {
        double level = rintf(data.x[i] * (1 / s));
        level = fmin(fmax(level, grid_low(grid) - zero), grid_high(grid) - zero);
        double error = level * (double)s - (double)data.x[i];
        sum += (data.weight ? (double)data.weight[i] : 1) * error * error;
    }
    return sum;
}

static void check_search(RangeData data, int bits, bool is_affine, Dtype scale_dtype) {
    enum { CANDIDATES = 33 };
    Grid grid = is_affine ? grid_unsigned(bits) : grid_signed(bits);
    Range full = {-4, 5};
    Range best = range_search(data, full, grid, is_affine, scale_dtype, CANDIDATES);
    double least = INFINITY;
    for (int i = 0; i < CANDIDATES; i++) {
        float fraction = 1 - 0.8f * (float)i / (CANDIDATES - 1);
        Range tried = {full.low * fraction, full.high * fraction};
        RangeFit fit = range_fit(tried, grid, is_affine, scale_dtype);
        least = fmin(least, error_of(data, fit, grid, scale_dtype));
    }
    RangeFit fit = range_fit(best, grid, is_affine, scale_dtype);
    assert_true(error_of(data, fit, grid, scale_dtype) <= least * (1 + 1e-5));
    assert_true(best.high <= full.high && best.high >= full.high * 0.199f);
}

static void test_search_finds_the_least_error(void **state) {
    (void)state;
    enum { COUNT = 1300 };
    static float x[COUNT], weight[COUNT];
    random_fill_normal((RandomKey){.seed = 2, .stream = RANDOM_TEST}, 1, COUNT, x);
    random_fill_uniform((RandomKey){.seed = 3, .stream = RANDOM_TEST}, 0, 5, COUNT, weight);
    for (int bits = 2; bits <= 8; bits++)
        for (int which = 0; which < 4; which++) {
            RangeData data = {.x = x, .weight = which & 1 ? weight : NULL, .count = COUNT};
            check_search(data, bits, which & 2, scale_dtypes[bits % SCALE_DTYPES]);
        }
}

/* The fewer the levels, the more of the tails is given up. */
static void test_search_clips_more_at_fewer_bits(void **state) {
    (void)state;
    enum { COUNT = 5000 };
    static float x[COUNT];
    random_fill_normal((RandomKey){.seed = 4, .stream = RANDOM_TEST}, 1, COUNT, x);
    RangeData data = {.x = x, .count = COUNT};
    float wider = 0;
    for (int bits = 2; bits <= 8; bits += 3) {
        Range best = range_search(data, (Range){-4, 4}, grid_signed(bits), false, DTYPE_F32, 100);
        assert_true(best.high > wider);
        wider = best.high;
    }
}

static void test_search_prefers_the_widest_of_equals(void **state) {
    (void)state;
    float zeros[5] = {0};
    RangeData data = {.x = zeros, .count = 5};
    Range best = range_search(data, (Range){-1, 2}, grid_signed(4), false, DTYPE_F32, 10);
    assert_true(best.low == -1 && best.high == 2);
}

int main(void) {
    Error err = {0};
    if (!parallel_init(0, &err)) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formulas),
        cmocka_unit_test(test_nothing_gets_the_smallest_scale),
        cmocka_unit_test(test_zero_points_stay_on_the_grid),
        cmocka_unit_test(test_search_finds_the_least_error),
        cmocka_unit_test(test_search_clips_more_at_fewer_bits),
        cmocka_unit_test(test_search_prefers_the_widest_of_equals),
    };
    return cmocka_run_group_tests_name("range", tests, NULL, NULL);
}
