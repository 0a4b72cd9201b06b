/* How grids are used: clipped values and codes that none has, beside a plain count of levels. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>

#include "experiments/train/code_use.h"

static Arena *arena;
static Tape *tape;
static const QuantPhase phase = {.is_faking = true};

static int set_up(void **state) {
    (void)state;
    arena = arena_new("test");
    tape = tape_new(arena);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    tape_free(tape);
    arena_free(arena);
    return 0;
}

/* A quantizer of one scale and, where it is affine, offset. */
static Quant *quant(const Quantizer *row, bool is_weight, int bits, bool is_affine, Shape shape) {
    Model *model = arena_new_array(arena, Model, 1);
    model->arena = arena;
    QuantSpec spec = {
        .quantizer = {.kind = &row->kind}, .bits = bits, .is_affine = is_affine, .is_signed = true};
    Quant *q = NULL;
    Error err = {0};
    if (!quant_new(model, "q", is_weight, shape, &spec, &phase, &q, &err))
        fail_msg("%s", err.message);
    return q;
}

static CodeUse use_of(Quant *q, const float *x, Shape shape, TapeMode mode) {
    CodeUse use = {0};
    tape_begin(tape, mode);
    Tensor value = {.dtype = DTYPE_F32, .shape = shape, .data = (void *)(uintptr_t)x};
    quant_apply(q, tape, tape_constant(tape, value));
    assert_int_equal(tape->error.code, ERROR_NONE);
    code_use_add(&use, q, tape);
    return use;
}

static void set(Quant *q, float scale, float offset) {
    *tensor_f32(&q->scale->value) = scale;
    if (q->offset) *tensor_f32(&q->offset->value) = offset;
    *tensor_f32(&q->count->value) = 1;
}

/* Levels -4 to 3 of step 0.5: up to 3.5 steps, a tie that goes to 4, nothing is clipped. */
static void signed_grid(void **state) {
    (void)state;
    const float x[] = {0, 0.5f, -2, 1.5f, 1.74f, 1.75f, 1.76f, 9, -2.25f, -2.26f, 0.1f};
    Quant *q = quant(&quantizer_minmax, false, 3, false, SHAPE(1, 11));
    set(q, 0.5f, 0);
    CodeUse use = use_of(q, x, SHAPE(1, 11), TAPE_EVALUATION);
    assert_int_equal(use.codes, 8);
    assert_int_equal(use.clipped, 3);           /* 1.76, 9, -2.26 */
    assert_int_equal(code_use_unused(&use), 4); /* -3, -2, -1, 2: of 0, 1, -4, 3 */
    assert_true(code_use_clipped(&use) == 3.0 / 11);
}

/* Codes 0 to 3, zero point 1: values -1, 0, 1, 2. */
static void affine_grid(void **state) {
    (void)state;
    const float x[] = {-1, 0, 0.4f, 2, 2.4f, 2.6f, -1.6f, 0};
    Quant *q = quant(&quantizer_minmax, false, 2, true, SHAPE(1, 8));
    set(q, 1, -1);
    CodeUse use = use_of(q, x, SHAPE(1, 8), TAPE_EVALUATION);
    assert_int_equal(use.clipped, 2);
    assert_int_equal(code_use_unused(&use), 1); /* value 1 */
    assert_true(use.is_used[0] && use.is_used[1] && !use.is_used[2] && use.is_used[3]);
}

/* Three codes of two bits, a scale each row. */
static void ternary_rows(void **state) {
    (void)state;
    const float w[] = {1, 0, 1.4f, 1.6f, 0.1f, 0, 0.14f, 0.16f};
    Model *model = arena_new_array(arena, Model, 1);
    model->arena = arena;
    QuantSpec spec = {.quantizer = {.kind = &quantizer_minmax.kind},
                      .bits = BITS_TERNARY,
                      .is_signed = true,
                      .granularity = GRANULARITY_CHANNEL};
    Quant *q;
    Error err = {0};
    assert_true(quant_new(model, "q", true, SHAPE(2, 4), &spec, &phase, &q, &err));
    set(q, 1, 0);
    tensor_f32(&q->scale->value)[1] = 0.1f;
    CodeUse use = use_of(q, w, SHAPE(2, 4), TAPE_EVALUATION);
    assert_int_equal(use.codes, 3);
    assert_int_equal(use.clipped, 2);           /* 1.6 and 0.16 */
    assert_int_equal(code_use_unused(&use), 1); /* -1 */
}

/* Odd levels: none of a weight that tanh has bent is beyond them. */
static void odd_grid(void **state) {
    (void)state;
    const float w[] = {-3, -0.2f, 0.1f, 5};
    Quant *q = quant(&quantizer_dorefa, true, 2, false, SHAPE(1, 4));
    CodeUse use = use_of(q, w, SHAPE(1, 4), TAPE_EVALUATION);
    assert_int_equal(use.codes, 4);
    assert_int_equal(use.clipped, 0);
    assert_int_equal(code_use_unused(&use), 0);
}

/* By a count of what rounding gives, at many scales. */
static void as_levels_say(void **state) {
    (void)state;
    enum { COUNT = 3000 };
    float *x = arena_new_array(arena, float, COUNT);
    random_fill_normal((RandomKey){.seed = 5, .stream = RANDOM_TEST}, 1, COUNT, x);
    for (int bits = 2; bits <= 8; bits++) {
        Quant *q = quant(&quantizer_minmax, false, bits, false, SHAPE(1, COUNT));
        float scale = 2.0f / (float)(1 << (bits - 1));
        set(q, scale, 0);
        CodeUse use = use_of(q, x, SHAPE(1, COUNT), TAPE_EVALUATION);
        int low = -(1 << (bits - 1)), high = -low - 1, clipped = 0, unused = 0;
        bool seen[256] = {false};
        for (int i = 0; i < COUNT; i++) {
            double v = (double)x[i] / (double)scale; /* powers of two: exact */
            clipped += v > high + 0.501 || v < low - 0.501;
            seen[(int)fmax(low, fmin(high, rint(v))) - low] = true;
        }
        for (int i = 0; i < 1 << bits; i++) unused += !seen[i];
        assert_int_equal(use.clipped, clipped);
        assert_int_equal(code_use_unused(&use), unused);
        assert_true(clipped > 50); /* else nothing is shown */
    }
}

static void nothing_is_said_of_what_is_not_quantized(void **state) {
    (void)state;
    const float x[] = {1, 2};
    Quant *q = quant(&quantizer_minmax, false, 4, false, SHAPE(1, 2));
    set(q, 1, 0);
    CodeUse use = use_of(q, x, SHAPE(1, 2), (TapeMode){.is_float = true, .loss_scale = 1});
    assert_true(isnan(code_use_clipped(&use)));
    assert_int_equal(code_use_unused(&use), -1);
    code_use_add(&use, NULL, tape);
    assert_int_equal(use.codes, 0);
    *tensor_f32(&q->count->value) = 0; /* without a range values pass */
    use = use_of(q, x, SHAPE(1, 2), TAPE_EVALUATION);
    assert_int_equal(code_use_unused(&use), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(signed_grid), TEST(affine_grid),   TEST(ternary_rows),
        TEST(odd_grid),    TEST(as_levels_say), TEST(nothing_is_said_of_what_is_not_quantized),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
