/* The range by entropy against the published search written out over whole distributions; what few
 * values, empty tails, outliers and a ReLU's zeros do to it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/parallel.h"
#include "qat/quantizer.h"
#include "tests/tape_fixture.h"

enum { COUNT = 60000, BINS = 2048 };

static Model *model;
static QuantPhase phase;
static float x[COUNT];

static int set_up(void **state) {
    (void)state;
    tape_fixture();
    model = arena_new_array(arena, Model, 1);
    model->arena = arena;
    phase = (QuantPhase){.is_faking = true, .is_observing = true};
    return 0;
}

typedef struct Case {
    bool is_weight, is_signed, is_affine;
    int bits;
} Case;

static Quant *observed(const char *kind, Case c, const float *values, int64_t rows,
                       int64_t columns) {
    static int number;
    QuantSpec spec = {.quantizer = {.kind = kind_find(&quantizer_kinds, kind)},
                      .bits = c.bits,
                      .is_affine = c.is_affine,
                      .is_signed = c.is_signed,
                      .granularity = rows > 1 ? GRANULARITY_CHANNEL : GRANULARITY_TENSOR};
    Quant *q = NULL;
    Error err = {0};
    char name[32];
    snprintf(name, sizeof name, "edge%d", number++);
    assert_true(quant_new(model, name, c.is_weight, SHAPE(rows, columns), &spec, &phase, &q, &err));
    tape_begin(tape, mode);
    Tensor tensor = {
        .dtype = DTYPE_F32, .shape = SHAPE(rows, columns), .data = (void *)(uintptr_t)values};
    quant_apply(q, tape, tape_constant(tape, tensor));
    assert_int_equal(tape->error.code, ERROR_NONE);
    return q;
}

static float scale_of(const char *kind, Case c, const float *values, int64_t count) {
    return *tensor_f32(&observed(kind, c, values, 1, count)->scale->value);
}

static void fill_normal(uint64_t seed, float deviation) {
    random_fill_normal((RandomKey){.seed = seed, .stream = RANDOM_TEST}, deviation, COUNT, x);
}

/* ---- The published search, over bins up to the largest magnitude, of either side. ---- */

/* Counts outwards from 0. */
typedef struct Tail {
    double counts[BINS];
    int used;
} Tail;

static double tail_end(Tail *t) {
    double total = 0;
    t->used = 0;
    for (int i = 0; i < BINS; i++) {
        total += t->counts[i];
        if (t->counts[i] > 0) t->used = i + 1;
    }
    return total;
}

static void tail_merge(Tail *t) {
    for (int i = 0; i < BINS; i++)
        t->counts[i] = 2 * i < BINS ? t->counts[2 * i] + t->counts[2 * i + 1] : 0;
}

/* Of bins first to first + kept - 1. */
static double divergence_by_hand(const double *counts, int bins, int first, int kept, int levels) {
    static double p[2 * BINS], q[2 * BINS];
    double total = 0, inside = 0, under = 0, d = 0;
    memcpy(p, counts + first, sizeof *p * (size_t)kept);
    for (int i = 0; i < bins; i++) total += counts[i];
    for (int i = 0; i < first; i++) under += counts[i];
    for (int i = 0; i < kept; i++) inside += counts[first + i];
    p[0] += under;
    p[kept - 1] += total - inside - under;
    for (int l = 0; l < levels; l++) {
        int from = l * kept / levels, to = (l + 1) * kept / levels, filled = 0;
        double sum = 0;
        for (int i = from; i < to; i++) {
            sum += counts[first + i];
            filled += p[i] > 0;
        }
        for (int i = from; i < to; i++) q[i] = p[i] > 0 ? sum / filled : 0;
    }
    for (int i = 0; i < kept; i++)
        if (p[i] > 0) d += p[i] / total * log(p[i] / total / (q[i] / inside));
    return d;
}

typedef struct Kept {
    double low, high;
} Kept;

/* One side's magnitudes, or around 0 a share of either. */
static Kept range_by_hand(const float *values, int count, int levels, bool is_affine) {
    static Tail below, above;
    static double all[2 * BINS];
    double largest = 0, found = INFINITY;
    int best = 0;
    below = above = (Tail){0};
    for (int i = 0; i < count; i++) largest = fmax(largest, fabs((double)values[i]));
    double width = largest / BINS;
    for (int i = 0; i < count; i++) {
        Tail *side = is_affine && values[i] < 0 ? &below : &above;
        side->counts[(int)fmin(fabs((double)values[i]) / width, BINS - 1)] += 1;
    }
    below.counts[0] = below.counts[1];
    above.counts[0] = above.counts[1];
    double total = tail_end(&below) + tail_end(&above);
    while (below.used + above.used > levels && total < 4 * (below.used + above.used)) {
        tail_merge(&below);
        tail_merge(&above);
        total = tail_end(&below) + tail_end(&above);
        width *= 2;
    }
    int bins = below.used + above.used, lowest = 0;
    for (int i = 0; i < below.used; i++) all[i] = below.counts[below.used - 1 - i];
    for (int i = 0; i < above.used; i++) all[below.used + i] = above.counts[i];
    for (int kept = bins; kept >= levels; kept--) {
        int first = below.used - (int)floor((double)kept * below.used / bins + 0.5);
        double d = divergence_by_hand(all, bins, first, kept, levels);
        if (!(d < found)) continue;
        found = d;
        best = kept;
        lowest = first;
    }
    double low = below.used - lowest, high = best - low;
    return (Kept){low > 0 ? -(low + 0.5) * width : 0, high > 0 ? (high + 0.5) * width : 0};
}

/* Tails worth clipping; with fewer values, bins become one. */
static void test_follows_the_published_search(void **state) {
    (void)state;
    static const int counts[] = {COUNT, 5000, 700};
    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++)
        for (int bits = 2; bits <= 8; bits++) {
            int count = counts[k];
            fill_normal((uint64_t)bits, 1);
            for (int i = 0; i < count; i++) x[i] *= fabsf(x[i]);
            double threshold = range_by_hand(x, count, 1 << (bits - 1), false).high;
            double steps = (1 << bits) - 1, largest = 0;
            for (int i = 0; i < count; i++) largest = fmax(largest, fabs((double)x[i]));
            threshold = fmin(threshold, largest);
            float scale = scale_of("kl", (Case){true, true, false, bits}, x, count);
            if (fabs((double)scale / (threshold / (steps / 2)) - 1) > 1e-6)
                fail_msg("%d bits, %d values: %g is not %g", bits, count, (double)scale,
                         threshold / (steps / 2));
            if (count < COUNT) continue;
            assert_true(scale <
                        0.9f * scale_of("minmax", (Case){true, true, false, bits}, x, count));
        }
}

/* Of both sides of 0, which differ; much lies just below 0. */
static void test_affine_follows_the_published_search(void **state) {
    (void)state;
    static const int counts[] = {COUNT, 5000};
    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++)
        for (int bits = 2; bits <= 6; bits++) {
            int count = counts[k], levels = 1 << bits;
            fill_normal((uint64_t)(20 + bits), 1);
            for (int i = 0; i < count; i++)
                x[i] = i % 4 == 0 ? -1e-5f : x[i] < 0 ? 0.5f * x[i] * x[i] * x[i] : x[i] * x[i];
            Kept kept = range_by_hand(x, count, levels, true);
            Quant *q = observed("kl", (Case){true, true, true, bits}, x, 1, count);
            double scale = (double)*tensor_f32(&q->scale->value),
                   low = (double)*tensor_f32(&q->offset->value);
            double expected = (kept.high - kept.low) / (levels - 1);
            if (fabs(scale / expected - 1) > 1e-5 || fabs(low - kept.low) > 1e-5 * -kept.low)
                fail_msg("%d bits, %d values: %g from %g, not %g from %g", bits, count, scale, low,
                         expected, kept.low);
        }
}

/* Mirrored values ask for a mirrored range; shifted by nothing but a sign. */
static void test_affine_follows_the_sign(void **state) {
    (void)state;
    Case c = {true, true, true, 4};
    fill_normal(3, 1);
    for (int i = 0; i < COUNT; i++) x[i] = x[i] < 0 ? 0.25f * x[i] : x[i] * x[i];
    Quant *q = observed("kl", c, x, 1, COUNT);
    float scale = *tensor_f32(&q->scale->value), low = *tensor_f32(&q->offset->value);
    for (int i = 0; i < COUNT; i++) x[i] = -x[i];
    q = observed("kl", c, x, 1, COUNT);
    float high = *tensor_f32(&q->offset->value) + 15 * scale;
    assert_true(fabsf(*tensor_f32(&q->scale->value) / scale - 1) < 0.02f);
    assert_true(low < 0 && fabsf(-low / high - 1) < 0.02f);
}

/* ---- What must not lead it astray. ---- */

static void test_few_values_take_the_full_range(void **state) {
    (void)state;
    static const int counts[] = {1, 2, 9, 27, 31};
    fill_normal(5, 1);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (int is_affine = 0; is_affine < 2; is_affine++) {
            Case c = {true, true, is_affine, 4}; /* 8 levels or more, 4 values a bin */
            assert_true(scale_of("kl", c, x, counts[i]) == scale_of("minmax", c, x, counts[i]));
        }
}

static void test_equal_values_are_kept(void **state) {
    (void)state;
    for (int is_weight = 0; is_weight < 2; is_weight++)
        for (int bits = 2; bits <= 8; bits++) {
            Case c = {is_weight, true, false, bits};
            for (int i = 0; i < COUNT; i++) x[i] = i % 2 ? -0.7f : 0.7f;
            float full = scale_of("minmax", c, x, COUNT), scale = scale_of("kl", c, x, COUNT);
            assert_true(scale >= full && scale < 1.001f * full);
        }
}

/* Many zeros are as none. */
static void test_zeros_cost_nothing(void **state) {
    (void)state;
    for (int bits = 2; bits <= 8; bits += 2) {
        Case c = {false, false, false, bits};
        fill_normal(7, 1);
        for (int i = 0; i < COUNT; i++) x[i] = fabsf(x[i]);
        float without = scale_of("kl", c, x, COUNT / 10);
        for (int i = COUNT / 10; i < COUNT; i++) x[i] = 0;
        assert_true(scale_of("kl", c, x, COUNT) == without);
    }
}

/* A far value, with nothing between it and the rest, is given up. */
static void test_empty_tail(void **state) {
    (void)state;
    for (int is_weight = 0; is_weight < 2; is_weight++) {
        Case c = {is_weight, true, false, 4};
        fill_normal(9, 1);
        float without = scale_of("kl", c, x, COUNT);
        x[17] = 40;
        float scale = scale_of("kl", c, x, COUNT);
        assert_true(scale < 1.5f * without && scale > without / 1.5f);
        x[29] = -40;
        c.is_affine = true; /* either end gives its own up */
        scale = scale_of("kl", c, x, COUNT);
        assert_true(scale < 1.5f * without && scale > without / 1.5f);
    }
}

static void test_channels_are_searched_alone(void **state) {
    (void)state;
    enum { ROWS = 4, COLUMNS = COUNT / ROWS };
    Case c = {true, true, false, 4};
    fill_normal(11, 1);
    for (int i = 0; i < COLUMNS; i++) x[COLUMNS + i] = 0;
    for (int i = 0; i < COLUMNS; i++) x[2 * COLUMNS + i] *= 100;
    x[5] = NAN; /* is passed over */
    const float *scales = tensor_f32(&observed("kl", c, x, ROWS, COLUMNS)->scale->value);
    for (int row = 0; row < ROWS; row++)
        assert_true(scales[row] == scale_of("kl", c, x + row * COLUMNS, COLUMNS));
    assert_true(scales[1] < 1e-30f && scales[2] > 50 * scales[3]);
}

int main(void) {
    Error err = {0};
    if (!parallel_init(0, &err)) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_follows_the_published_search, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_affine_follows_the_published_search, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_affine_follows_the_sign, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_few_values_take_the_full_range, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_equal_values_are_kept, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_zeros_cost_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_empty_tail, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_channels_are_searched_alone, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("kl", tests, NULL, NULL);
}
