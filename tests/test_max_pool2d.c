/* Max pooling: ties, NaN, padding, and inputs that hold levels. (Gradients and PyTorch's values are
 * checked with those of all ops.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "autograd/map.h"
#include "autograd/ops.h"

static Arena *arena;
static Tape *tape;

static int set_up(void **state) {
    (void)state;
    arena = arena_new("test");
    tape = tape_new(arena);
    tape_begin(tape, TAPE_TRAINING);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    tape_free(tape);
    arena_free(arena);
    return 0;
}

static Var *leaf(Shape shape, const float *values) {
    Var *x = tape_sample_leaf(tape, shape, 0, 1);
    memcpy(var_f32(x), values, sizeof *values * (size_t)var_count(x));
    return x;
}

/* The gradient of a tie belongs to its first pixel in row-major order, as in PyTorch. */
static void test_first_of_a_tie_wins(void **state) {
    (void)state;
    const float values[] = {1, 5, 2, 2, 5, 0, 2, 2}, expected[] = {0, 1, 1, 0, 0, 0, 0, 0};
    Var *x = leaf(SHAPE(1, 2, 4, 1), values);
    Var *y = op_max_pool2d(tape, x, (Pool2dAttr){2, 2, 0});
    Var *loss = op_sum(tape, y, -1);
    tape_backward(tape, loss, 1);
    assert_true(var_f32(y)[0] == 5 && var_f32(y)[1] == 2);
    assert_memory_equal(var_grad_f32(x), expected, sizeof expected);
}

/* Padding is not a pixel: it wins against nothing, not even below 0. */
static void test_padding_never_wins(void **state) {
    (void)state;
    const float values[] = {-4, -3, -2, -1};
    Var *x = leaf(SHAPE(1, 2, 2, 1), values);
    Var *y = op_max_pool2d(tape, x, (Pool2dAttr){2, 2, 1});
    assert_memory_equal(var_f32(y), values, sizeof values);
}

static void test_nan_spreads(void **state) {
    (void)state;
    for (int at = 0; at < 4; at++) {
        float values[] = {1, 2, 3, 4};
        values[at] = NAN;
        Var *x = leaf(SHAPE(1, 2, 2, 1), values);
        Var *y = op_max_pool2d(tape, x, (Pool2dAttr){2, 2, 0});
        assert_true(isnan(*var_f32(y)));
    }
}

static Var *quantized(int64_t run_length) {
    Var *x = tape_sample_leaf(tape, SHAPE(2, 6, 6, 3), -2, 2);
    int64_t scales = scales_count(216, run_length, run_length);
    Var *scale = tape_sample_leaf(tape, SHAPE(scales), 0.1f, 0.4f);
    FakeQuantAttr attr = {.grid = grid_signed(4),
                          .row_length = run_length,
                          .run_length = run_length,
                          .scale_dtype = DTYPE_F32,
                          .range_gradient = RANGE_LSQ,
                          .grad_scale = 1};
    return op_fake_quant(tape, x, scale, NULL, attr);
}

/* Under one scale the levels themselves are pooled and stay levels; under several, their values. */
static void test_levels(void **state) {
    (void)state;
    for (int is_single = 0; is_single < 2; is_single++) {
        Var *x = quantized(is_single ? 216 : 9);
        Var *values = op_dequantize(tape, x);
        Var *y = op_max_pool2d(tape, x, (Pool2dAttr){3, 2, 1});
        Var *expected = op_max_pool2d(tape, values, (Pool2dAttr){3, 2, 1});
        assert_int_equal(y->value.scales != NULL, is_single);
        if (is_single) {
            assert_int_equal(y->value.scales->row_length, var_count(y));
            assert_int_equal(y->value.scales->run_length, var_count(y));
        }
        float decoded[2 * 3 * 3 * 3];
        assert_int_equal(var_count(y), sizeof decoded / sizeof *decoded);
        tensor_decode(&y->value, decoded);
        assert_memory_equal(decoded, var_f32(expected), sizeof decoded);
    }
}

/* A dry record knows which scales there will be. */
static void test_levels_are_foretold(void **state) {
    (void)state;
    TapeMode mode = TAPE_TRAINING;
    mode.is_dry = true;
    for (int is_single = 0; is_single < 2; is_single++) {
        tape_begin(tape, mode);
        Var *x = quantized(is_single ? 216 : 9);
        const Var *y = op_max_pool2d(tape, x, (Pool2dAttr){3, 2, 1});
        assert_int_equal(y->value.scales != NULL, is_single);
        if (!is_single) continue;
        assert_int_equal(y->value.scales->row_length, var_count(y));
        assert_int_equal(y->value.scales->run_length, var_count(y));
    }
}

/* Blocks of a group hold whole windows of one image, of values. */
static void test_tail_fits(void **state) {
    (void)state;
    static const struct {
        Pool2dAttr attr;
        int64_t height, width, block_pixels;
        bool fits;
    } cases[] = {{{2, 2, 0}, 8, 8, 16, true},  {{2, 2, 0}, 8, 8, 32, true},
                 {{2, 2, 0}, 8, 8, 24, false}, {{2, 2, 0}, 8, 8, 48, false},
                 {{2, 2, 0}, 8, 7, 14, false}, {{2, 2, 1}, 8, 8, 16, false},
                 {{3, 2, 0}, 6, 6, 18, false}, {{3, 3, 0}, 6, 6, 18, true}};
    const MapTail *tail = op_row_max_pool2d.tail;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Var *x = tape_sample_leaf(tape, SHAPE(2, cases[i].height, cases[i].width, 3), -1, 1);
        const Var *y = op_max_pool2d(tape, x, cases[i].attr);
        assert_int_equal(tail->fits(y, cases[i].block_pixels), cases[i].fits);
    }
    const Var *levels = op_max_pool2d(tape, quantized(216), (Pool2dAttr){2, 2, 0});
    assert_false(tail->fits(levels, 12));
}

/* The pixels of two images get what another reader gave, in half precision too. */
static Var *record_joined(void *context, Tape *t) {
    Var **x = context;
    *x = tape_sample_leaf(t, SHAPE(2, 4, 4, 3), -1, 1);
    Var *h = op_scale(t, *x, 2);
    Var *y = op_max_pool2d(t, h, (Pool2dAttr){2, 1, 0});
    Var *squares = op_mul(t, h, h);
    Var *sum = op_sum(t, y, -1), *other = op_sum(t, squares, -1);
    return op_add(t, sum, other);
}

static void test_gradients_join(void **state) {
    (void)state;
    static const Dtype halves[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    float exact[96];
    for (int h = 0; h < 3; h++) {
        Var *x;
        TapeMode mode = TAPE_TRAINING;
        mode.half = halves[h];
        Var *loss = tape_run(tape, mode, record_joined, &x);
        if (tape->error.code != ERROR_NONE) fail_msg("%s", tape->error.message);
        tape_backward(tape, loss, 1);
        for (int i = 0; i < 96; i++) {
            float got = var_grad_f32(x)[i];
            if (!h) exact[i] = got;
            assert_true(fabsf(got - exact[i]) <= 0.02f * (1 + fabsf(exact[i])));
        }
    }
}

/* More pixels than a byte could number. */
static void test_large_window(void **state) {
    (void)state;
    Var *x = tape_sample_leaf(tape, SHAPE(1, 30, 30, 2), -1, 0);
    var_f32(x)[2 * (29 * 30 + 28)] = 3;
    var_f32(x)[2 * (1 * 30 + 2) + 1] = 4;
    Var *y = op_max_pool2d(tape, x, (Pool2dAttr){30, 1, 0});
    Var *loss = op_sum(tape, y, -1);
    tape_backward(tape, loss, 1);
    assert_true(var_f32(y)[0] == 3 && var_f32(y)[1] == 4);
    for (int i = 0; i < 1800; i++)
        assert_true(var_grad_f32(x)[i] == (i == 2 * (29 * 30 + 28) || i == 2 * (1 * 30 + 2) + 1));
}

static void test_bad_settings(void **state) {
    (void)state;
    static const struct {
        Pool2dAttr attr;
        const char *expected;
    } cases[] = {
        {{0, 1, 0}, "kernel must be 1 to 256 and stride at least 1"},
        {{300, 1, 0}, "kernel must be 1 to 256"},
        {{2, 0, 0}, "stride at least 1"},
        {{3, 1, 2}, "padding must be from 0 to half the kernel (1)"},
        {{5, 1, 0}, "image [1, 4, 4, 1] is smaller than the 5x5 window"},
        {{5, 3, 0}, "image [1, 4, 4, 1] is smaller than the 5x5 window"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tape_begin(tape, TAPE_TRAINING);
        Var *x = tape_sample_leaf(tape, SHAPE(1, 4, 4, 1), -1, 1);
        op_max_pool2d(tape, x, cases[i].attr);
        assert_int_equal(tape->error.code, ERROR_INPUT);
        if (!strstr(tape->error.message, cases[i].expected)) fail_msg("%s", tape->error.message);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_first_of_a_tie_wins, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_padding_never_wins, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_nan_spreads, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_levels, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_levels_are_foretold, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_tail_fits, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_gradients_join, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_large_window, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bad_settings, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
