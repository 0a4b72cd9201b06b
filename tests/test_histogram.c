/* Histograms against counting by hand, through doublings, decay and any number of threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "core/parallel.h"
#include "qat/histogram.h"
#include "qat/observer.h"

enum { COUNT = 70001, HALF = HISTOGRAM_BINS / 2, THREADS_MAX = 4 };

static float x[COUNT], counts[HISTOGRAM_BINS], limit;
static uint32_t found[HISTOGRAM_BINS];
static Probe probe;
static Arena *arena;

static Histogram fresh(void) {
    memset(counts, 0, sizeof counts);
    limit = 0;
    probe = (Probe){.counts = found};
    return (Histogram){counts, &limit, &probe};
}

static bool add(Histogram h, const float *values, int64_t count, float decay) {
    return histogram_add(h, (Observed){values, count, false, arena}, decay, 0);
}

static void fill(uint64_t seed, float deviation) {
    random_fill_normal((RandomKey){.seed = seed, .stream = RANDOM_TEST}, deviation, COUNT, x);
}

static void count_by_hand(float *expected) {
    memset(expected, 0, sizeof counts);
    double width = (double)limit / HALF;
    for (int i = 0; i < COUNT; i++) {
        /* Adding half the bins in f32 rounds a place; that is part of the definition. */
        float place = (float)((double)x[i] / width) + HALF;
        int bin = (int)floorf(place);
        expected[bin < HISTOGRAM_BINS ? bin : HISTOGRAM_BINS - 1]++;
    }
}

static void test_counts(void **state) {
    (void)state;
    static float expected[HISTOGRAM_BINS];
    fill(1, 1);
    Histogram h = fresh();
    assert_true(add(h, x, COUNT, 1));
    Range range = observer_range(x, COUNT);
    float largest = fmaxf(-range.low, range.high);
    assert_true(limit > largest && limit <= 2 * largest && log2f(limit) == rintf(log2f(limit)));
    count_by_hand(expected);
    assert_memory_equal(counts, expected, sizeof counts);
}

/* Doubling loses nothing: what small values left is where it would be, had the wide come first. */
static void test_order_of_batches_does_not_matter(void **state) {
    (void)state;
    static float small_first[HISTOGRAM_BINS], expected[HISTOGRAM_BINS];
    static float wide[COUNT];
    fill(2, 30);
    for (int i = 0; i < COUNT; i++) wide[i] = x[i];
    fill(3, 1); /* five doublings */
    for (int i = 0; i < COUNT; i++)
        x[i] = rintf(x[i] * 64) / 64 + 1.0f / 128; /* exact in any bin */
    Histogram h = fresh();
    assert_true(add(h, x, COUNT, 1));
    float limit_small = limit;
    assert_true(add(h, wide, COUNT, 1));
    assert_true(limit > 8 * limit_small);
    memcpy(small_first, counts, sizeof counts);
    h = fresh();
    assert_true(add(h, wide, COUNT, 1));
    assert_true(add(h, x, COUNT, 1));
    memcpy(expected, counts, sizeof counts);
    assert_memory_equal(small_first, expected, sizeof counts);
}

/* Who writes a batch counts it under the limit of the batch before. */
static void test_what_was_seen_is_not_read_again(void **state) {
    (void)state;
    static float expected[HISTOGRAM_BINS];
    for (int grows = 0; grows < 2; grows++) {
        Histogram h = fresh();
        for (int i = 0; i < 4; i++) {
            fill(20 + (uint64_t)i, grows && i == 2 ? 9 : 1);
            assert_true(add(h, x, COUNT, 0.9f));
        }
        float last = limit;
        memcpy(expected, counts, sizeof counts);
        h = fresh();
        for (int i = 0; i < 4; i++) {
            fill(20 + (uint64_t)i, grows && i == 2 ? 9 : 1);
            probe_over(&probe, x, COUNT, arena);
            bool is_enough = i && !(grows && i == 2); /* nothing is read then */
            Observed seen = {is_enough ? NULL : x, COUNT, true, arena};
            assert_true(histogram_add(h, seen, 0.9f, 0));
        }
        assert_true(limit == last);
        assert_memory_equal(counts, expected, sizeof counts);
    }
}

/* A few values far outside, in the first batch or later, move a quantile by less than a bin of what
 * the others need. */
static void test_outliers(void **state) {
    (void)state;
    static const float outliers[] = {1e6f, 1e30f, -3e4f};
    double beyond = 1e-4;
    fill(30, 0.2f);
    Histogram h = fresh();
    assert_true(histogram_add(h, (Observed){x, COUNT, false, arena}, 0.9f, beyond));
    float bare = histogram_magnitude_quantile(h, 0.999);
    for (int first = 0; first < 3; first++) {
        for (size_t k = 0; k < sizeof outliers / sizeof *outliers; k++) {
            h = fresh();
            for (int batch = 0; batch < 3; batch++) {
                fill(30, 0.2f);
                if (batch == first) x[17] = x[COUNT - 1] = outliers[k];
                Observed seen = {x, COUNT, false, arena};
                assert_true(histogram_add(h, seen, 0.9f, beyond));
                assert_true(probe.limit == limit); /* the next writer counts under it */
            }
            float found_here = histogram_magnitude_quantile(h, 0.999);
            assert_true(fabsf(found_here - bare) < 0.005f * bare);
        }
    }
}

/* ---- Where a share of 1 in 1024 makes a difference: 10 of a batch, 20 of two, 30 of three. ----
 */

enum { BATCH = 10240, ALLOWED = 10 };

static const double one_in_1024 = 0x1p-10;

/* The first batch's values but for the first `count`, which are `outlier`. */
static void add_batch(Histogram h, int count, float outlier) {
    fill(30, 0.2f);
    for (int i = 0; i < count; i++) x[i] = outlier;
    assert_true(histogram_add(h, (Observed){x, BATCH, false, arena}, 1, one_in_1024));
}

static double total(void) {
    double sum = 0;
    for (int i = 0; i < HISTOGRAM_BINS; i++) sum += (double)counts[i];
    return sum;
}

/* On either side: what lies outside adds up over batches, and is kept in the outer bins till then.
 */
static void test_outliers_add_up(void **state) {
    (void)state;
    for (int sign = -1; sign <= 1; sign += 2) {
        const float *outer = &counts[sign < 0 ? 0 : HISTOGRAM_BINS - 1];
        Histogram h = fresh();
        add_batch(h, 0, 0);
        assert_true(limit == 1);
        add_batch(h, 2 * ALLOWED, (float)sign * 100);
        assert_true(limit == 1 && *outer >= 2 * ALLOWED);
        add_batch(h, ALLOWED + 1, (float)sign * 100);
        assert_true(limit == 128 && total() == 3 * BATCH);
    }
}

/* Outliers set bins that are refined where the rest fills a sixteenth of them, not where it fills
 * more. */
static void test_bins_worth_refining(void **state) {
    (void)state;
    RandomKey key = {.seed = 9, .stream = RANDOM_TEST};
    for (int sign = -1; sign <= 1; sign += 2)
        for (float least = 0.5f; least < 2; least *= 2) {
            random_fill_uniform(key, least, 2 * least, BATCH, x);
            for (int i = 0; i < BATCH; i++) x[i] = (float)sign * (i < ALLOWED ? 10 : x[i]);
            Histogram h = fresh();
            assert_true(histogram_add(h, (Observed){x, BATCH, false, arena}, 1, one_in_1024));
            assert_true(limit == (least < 1 ? 1 : 16) && total() == BATCH);
            add_batch(h, 0, 0); /* half of all batches may still lie further out */
            assert_true(limit == (least < 1 ? 1 : 16) && total() == 2 * BATCH);
        }
    for (int i = 0; i < BATCH; i++) x[i] = i < ALLOWED ? 10 : i % 2 ? 0.001f : 0;
    Histogram h = fresh();
    assert_true(histogram_add(h, (Observed){x, BATCH, false, arena}, 1, one_in_1024));
    assert_true(limit == 0x1p-9f); /* zeros need no bins */
}

/* Bins stay where the batch at hand would need them, though all batches together would not. */
static void test_refining_needs_a_batch(void **state) {
    (void)state;
    static const float zeros[BATCH] = {100};
    Histogram h = fresh();
    add_batch(h, ALLOWED + 1, 100);
    for (int i = 0; i < 2; i++)
        assert_true(histogram_add(h, (Observed){zeros, BATCH, false, arena}, 1, one_in_1024));
    add_batch(h, ALLOWED + 1, 100);
    assert_true(limit == 128 && total() == 4 * BATCH);
}

/* Where many lie there, they are no outliers; and zeros are no reason for finer bins. */
static void test_no_outliers(void **state) {
    (void)state;
    fill(31, 0.2f);
    Histogram h = fresh();
    assert_true(histogram_add(h, (Observed){x, COUNT, false, arena}, 1, 1e-4));
    for (int i = 0; i < COUNT; i += 1000) x[i] = 100;
    assert_true(histogram_add(h, (Observed){x, COUNT, false, arena}, 1, 1e-4));
    assert_true(limit == 128);
    memset(x, 0, sizeof x);
    x[0] = 3;
    h = fresh();
    assert_true(histogram_add(h, (Observed){x, COUNT, false, arena}, 1, 1e-4));
    assert_true(limit == 4 && probe.limit == 4);
    assert_true(counts[HALF] == COUNT - 1);
}

static void test_decay(void **state) {
    (void)state;
    static float once[HISTOGRAM_BINS];
    fill(4, 1);
    Histogram h = fresh();
    assert_true(add(h, x, COUNT, 0.5f));
    memcpy(once, counts, sizeof once);
    assert_true(add(h, x, COUNT, 0.5f));
    for (int i = 0; i < HISTOGRAM_BINS; i++) assert_true(counts[i] == once[i] * 1.5f);
}

static void test_nothing_to_count(void **state) {
    (void)state;
    float zeros[3] = {0}, infinite[3] = {1, INFINITY, 0}, huge[1] = {3e38f}, tiny[1] = {1e-40f};
    Histogram h = fresh();
    assert_false(add(h, zeros, 3, 1));
    assert_false(add(h, infinite, 3, 1));
    assert_false(add(h, huge, 1, 1));
    assert_false(add(h, tiny, 1, 1));
    assert_true(limit == 0);
    for (int i = 0; i < HISTOGRAM_BINS; i++) assert_true(counts[i] == 0);
}

static void test_quantiles(void **state) {
    (void)state;
    fill(5, 3);
    Histogram h = fresh();
    assert_true(add(h, x, COUNT, 1));
    float width = limit / HALF;
    static const double places[] = {0.001, 0.01, 0.3, 0.5, 0.9, 0.999};
    for (int i = 0; i < 6; i++) {
        float exact = observer_quantile(x, COUNT, places[i], false);
        assert_true(fabsf(histogram_quantile(h, places[i]) - exact) <= width);
        exact = observer_quantile(x, COUNT, places[i], true);
        assert_true(fabsf(histogram_magnitude_quantile(h, places[i]) - exact) <= width);
    }
    Range full = observer_range(x, COUNT), kept = histogram_range(h);
    assert_true(fabsf(kept.low - full.low) <= width && fabsf(kept.high - full.high) <= width);
}

/* One value far out must not set where the search begins. */
static void test_range_gives_up_a_millionth(void **state) {
    (void)state;
    Histogram h = fresh();
    fill(6, 1);
    for (int i = 0; i < 50; i++) assert_true(add(h, x, COUNT, 1));
    float bound = limit, outlier = 1000;
    assert_true(add(h, &outlier, 1, 1));
    assert_true(limit >= 1000 && histogram_range(h).high <= bound + limit / HALF);
}

/* Within what the width of bins allows, the search sees what the values themselves say. */
static void test_search(void **state) {
    (void)state;
    fill(7, 1);
    Histogram h = fresh();
    assert_true(add(h, x, COUNT, 1));
    RangeData data = {.x = x, .count = COUNT};
    for (int bits = 2; bits <= 6; bits++) {
        Range binned = histogram_search(h, grid_signed(bits), false, DTYPE_F32, 41);
        Range exact =
            range_search(data, histogram_range(h), grid_signed(bits), false, DTYPE_F32, 41);
        float candidate = 0.8f / 40 * histogram_range(h).high;
        assert_true(fabsf(binned.high - exact.high) <= 1.01f * candidate);
    }
}

static void test_threads(void **state) {
    (void)state;
    Error err = {0};
    static float one[HISTOGRAM_BINS];
    int before = parallel_threads();
    fill(8, 1);
    for (int threads = 1; threads <= THREADS_MAX; threads++) {
        assert_true(parallel_init(threads, &err));
        Histogram h = fresh();
        assert_true(add(h, x, COUNT, 0.99f));
        if (threads == 1) memcpy(one, counts, sizeof one);
        assert_memory_equal(counts, one, sizeof one);
    }
    assert_true(parallel_init(before, &err));
}

int main(void) {
    Error err = {0};
    if (!parallel_init(0, &err)) return 1;
    arena = arena_new("test");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_order_of_batches_does_not_matter),
        cmocka_unit_test(test_outliers),
        cmocka_unit_test(test_outliers_add_up),
        cmocka_unit_test(test_bins_worth_refining),
        cmocka_unit_test(test_refining_needs_a_batch),
        cmocka_unit_test(test_no_outliers),
        cmocka_unit_test(test_decay),
        cmocka_unit_test(test_nothing_to_count),
        cmocka_unit_test(test_quantiles),
        cmocka_unit_test(test_range_gives_up_a_millionth),
        cmocka_unit_test(test_search),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_what_was_seen_is_not_read_again),
    };
    int failed = cmocka_run_group_tests_name("histogram", tests, NULL, NULL);
    arena_free(arena);
    return failed;
}
