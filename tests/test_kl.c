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

/* ---- The published search, over bins of magnitudes up to the largest. ---- */

static double divergence_by_hand(const double *counts, int bins, int kept, int levels) {
    static double p[BINS], q[BINS];
    double total = 0, inside = 0, d = 0;
    memcpy(p, counts, sizeof *p * (size_t)kept);
    for (int i = 0; i < bins; i++) total += counts[i];
    for (int i = 0; i < kept; i++) inside += counts[i];
    p[kept - 1] += total - inside;
    for (int l = 0; l < levels; l++) {
        int from = l * kept / levels, to = (l + 1) * kept / levels, filled = 0;
        double sum = 0;
        for (int i = from; i < to; i++) {
            sum += counts[i];
            filled += p[i] > 0;
        }
        for (int i = from; i < to; i++) q[i] = p[i] > 0 ? sum / filled : 0;
    }
    for (int i = 0; i < kept; i++)
        if (p[i] > 0) d += p[i] / total * log(p[i] / total / (q[i] / inside));
    return d;
}

static double threshold_by_hand(const float *values, int count, int levels) {
    static double counts[BINS];
    double largest = 0, found = INFINITY;
    int best = 0;
    memset(counts, 0, sizeof counts);
    for (int i = 0; i < count; i++) largest = fmax(largest, fabs((double)values[i]));
    double width = largest / BINS;
    for (int i = 0; i < count; i++)
        counts[(int)fmin(fabs((double)values[i]) / width, BINS - 1)] += 1;
    counts[0] = counts[1];
    for (int kept = BINS; kept >= levels; kept--) {
        double d = divergence_by_hand(counts, BINS, kept, levels);
        if (!(d < found)) continue;
        found = d;
        best = kept;
    }
    return fmin((best + 0.5) * width, largest);
}

static void test_follows_the_published_search(void **state) {
    (void)state;
    for (int bits = 2; bits <= 8; bits++) {
        fill_normal((uint64_t)bits, 1);
        for (int i = 0; i < COUNT; i++) x[i] *= fabsf(x[i]); /* tails worth clipping */
        double threshold = threshold_by_hand(x, COUNT, 1 << (bits - 1));
        double steps = (1 << bits) - 1;
        float scale = scale_of("kl", (Case){true, true, false, bits}, x, COUNT);
        if (fabs((double)scale / (threshold / (steps / 2)) - 1) > 1e-6)
            fail_msg("%d bits: %g is not %g", bits, (double)scale, threshold / (steps / 2));
        assert_true(scale < 0.9f * scale_of("minmax", (Case){true, true, false, bits}, x, COUNT));
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
        cmocka_unit_test_setup_teardown(test_affine_follows_the_sign, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_few_values_take_the_full_range, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_equal_values_are_kept, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_zeros_cost_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_empty_tail, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_channels_are_searched_alone, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("kl", tests, NULL, NULL);
}
