/* The tape itself: what is recorded, when gradients flow and join, errors, memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "autograd/ops.h"
#include "core/parallel.h"
#include "tests/tape_fixture.h"

static int set_up(void **state) {
    (void)state;
    tape_fixture();
    tape_begin(tape, TAPE_TRAINING);
    return 0;
}

static Var *scalar(float value) {
    Var *x = tape_sample_leaf(tape, SHAPE_SCALAR, 0, 1);
    *var_f32(x) = value;
    return x;
}

static void test_diamond(void **state) {
    (void)state;
    /* y = (x + x) x + x: dy = 4x + 1 through four readers of x. */
    Var *x = scalar(3);
    Var *twice = op_add(tape, x, x);
    Var *product = op_mul(tape, twice, x);
    Var *y = op_add(tape, product, x);
    assert_true(*var_f32(y) == 21);
    tape_backward(tape, y, 1);
    assert_true(*var_grad_f32(x) == 13);
}

static void test_seed_grad(void **state) {
    (void)state;
    Var *x = scalar(3);
    Var *y = op_mul(tape, x, x);
    tape_backward(tape, y, 0.5f);
    assert_true(*var_grad_f32(x) == 3);
}

static void test_params_accumulate(void **state) {
    (void)state;
    /* A Param's buffer and flag live outside the tape; micro-batches add until somebody clears. */
    float value = 2, grad = NAN;
    bool has_grad = false;
    for (int micro_batch = 1; micro_batch <= 3; micro_batch++) {
        tape_begin(tape, TAPE_TRAINING);
        Tensor tensor = {.dtype = DTYPE_F32, .shape = SHAPE_SCALAR, .data = &value};
        Var *x = tape_leaf(tape, tensor, &grad, &has_grad);
        Var *y = op_mul(tape, x, x);
        tape_backward(tape, y, 1);
        assert_true(has_grad);
        assert_true(grad == 4.0f * (float)micro_batch);
    }
}

static void test_unread_leaf_is_untouched(void **state) {
    (void)state;
    Var *x = scalar(3), *unread = scalar(5);
    *var_grad_f32(unread) = 77;
    Var *after = op_mul(tape, unread, unread); /* no path to the loss */
    Var *y = op_mul(tape, x, x);
    tape_backward(tape, y, 1);
    assert_true(*var_grad_f32(unread) == 77 && !*unread->has_grad);
    assert_null(after->grad.data);
}

static void test_constants_need_nothing(void **state) {
    (void)state;
    float value = 2;
    Tensor tensor = {.dtype = DTYPE_F32, .shape = SHAPE_SCALAR, .data = &value};
    Var *c = tape_constant(tape, tensor);
    Var *squared = op_mul(tape, c, c);
    assert_false(squared->needs_grad);
    Var *x = scalar(3);
    Var *y = op_mul(tape, squared, x);
    tape_backward(tape, y, 1);
    assert_true(*var_grad_f32(x) == 4);
    assert_null(squared->grad.data);
    assert_null(c->grad.data);
}

static void test_evaluation_records_no_gradients(void **state) {
    (void)state;
    tape_begin(tape, TAPE_EVALUATION);
    Var *x = scalar(3);
    Var *y = op_mul(tape, x, x);
    *var_grad_f32(x) = 77;
    assert_false(y->needs_grad);
    tape_backward(tape, y, 1);
    assert_true(*var_grad_f32(x) == 77);
}

static void test_errors_are_sticky(void **state) {
    (void)state;
    Var *a = tape_sample_leaf(tape, SHAPE(2, 3), -1, 1);
    Var *b = tape_sample_leaf(tape, SHAPE(4), -1, 1);
    tape->scope = "block.1";
    Var *wrong = op_add(tape, a, b);
    assert_int_equal(tape->error.code, ERROR_INPUT);
    assert_non_null(strstr(tape->error.message, "block.1: add: "));
    char first[sizeof tape->error.message];
    memcpy(first, tape->error.message, sizeof first);
    tape->scope = "block.2";
    Var *later = op_relu(tape, wrong);
    Var *wrong_too = op_mul(tape, later, b);
    Var *loss = op_mean(tape, wrong_too, -1);
    assert_non_null(loss);
    assert_memory_equal(first, tape->error.message, sizeof first);
    tape_begin(tape, TAPE_TRAINING);
    assert_int_equal(tape->error.code, ERROR_NONE);
}

static void test_many_vars(void **state) {
    (void)state;
    Var *x = scalar(1), *y = x;
    for (int i = 0; i < 2000; i++) y = op_add(tape, y, x);
    assert_int_equal(tape->count, 2001);
    for (int i = 0; i < tape->count; i++) assert_int_equal(tape->vars[i]->index, i);
    tape_backward(tape, y, 1);
    assert_true(*var_f32(y) == 2001 && *var_grad_f32(x) == 2001);
}

static void test_sizes_that_overflow(void **state) {
    (void)state;
    tape_begin(tape, (TapeMode){.is_dry = true});
    Tensor images = {.dtype = DTYPE_F32, .shape = SHAPE(1 << 30, 1 << 10, 1 << 10, 1)};
    Tensor filters = {.dtype = DTYPE_F32, .shape = SHAPE(1 << 30, 1, 1, 1)};
    Var *x = tape_constant(tape, images);
    Var *w = tape_constant(tape, filters);
    tape->scope = "wide";
    op_conv2d(tape, x, w, NULL, (Conv2dAttr){.stride = 1, .dilation = 1, .groups = 1});
    assert_int_equal(tape->error.code, ERROR_INPUT);
    assert_non_null(strstr(tape->error.message, "wide: conv2d"));
}

static void test_dry_run(void **state) {
    (void)state;
    tape_begin(tape, (TapeMode){.is_dry = true});
    Tensor tensor = {.dtype = DTYPE_F32, .shape = SHAPE(1 << 20, 1 << 10, 1 << 10, 1 << 10)};
    Var *x = tape_constant(tape, tensor); /* no machine has this memory: only shapes are used */
    Var *y = op_mean(tape, x, 3);
    Var *z = op_relu(tape, y);
    assert_true(shape_equal(z->value.shape, SHAPE(1 << 20, 1 << 10, 1 << 10)));
    assert_null(z->value.data);
    op_add(tape, z, x);
    assert_int_equal(tape->error.code, ERROR_INPUT); /* shapes are checked */
}

static void test_steps_stop_allocating(void **state) {
    (void)state;
    size_t calls = 0;
    for (int step = 0; step < 6; step++) {
        tape_begin(tape, TAPE_TRAINING);
        Var *x = tape_sample_leaf(tape, SHAPE(300, 400), -1, 1);
        Var *noisy = op_dropout(tape, x, 0.1f, 0);
        Var *y = op_gelu(tape, noisy);
        Var *p = op_softmax(tape, y);
        Var *loss = op_mean(tape, p, -1);
        tape_backward(tape, loss, 1);
        if (step == 2) calls = arena_system_calls(tape->arena);
    }
    assert_true(calls > 0);
    assert_int_equal(arena_system_calls(tape->arena), calls);
}

static void test_replay_follows_leaves(void **state) {
    (void)state;
    mode.keeps_residuals = true;
    tape_begin(tape, mode);
    Var *x = scalar(3);
    Var *flat = op_reshape(tape, x, SHAPE(1));
    Var *y = op_mul(tape, flat, flat);
    *var_f32(x) = 5;
    tape_replay(tape);
    assert_true(*var_f32(y) == 25);
    assert_false(tape->is_replay);
}

static void test_levels_are_decoded_once(void **state) {
    (void)state;
    static const float scale = 0.5f;
    Scales scales = {.row_length = 4,
                     .run_length = 4,
                     .count = 1,
                     .dtype = DTYPE_F32,
                     .grid = grid_signed(4),
                     .scale = &scale};
    float levels[4] = {-8, 0, 3, 7};
    Tensor tensor = {.dtype = DTYPE_F32, .shape = SHAPE(4), .data = levels, .scales = &scales};
    Var *q = tape_constant(tape, tensor);
    Var *column = op_reshape(tape, q, SHAPE(4, 1)); /* reads levels: stays encoded */
    assert_ptr_equal(column->value.scales, &scales);
    int before = tape->count;
    Var *y = op_relu(tape, q);
    Var *z = op_tanh(tape, q);
    assert_int_equal(tape->count, before + 3); /* one dequantize for both */
    assert_ptr_equal(y->in[0], z->in[0]);
    assert_ptr_equal(y->in[0], q->decoded);
    assert_true(var_f32(y)[0] == 0 && var_f32(y)[2] == 1.5f && var_f32(y)[3] == 3.5f);
}

/* A gradient that only passes on its way to a leaf lies there, unless another one comes there too.
 */
static void test_gradient_in_place(void **state) {
    (void)state;
    FakeQuantAttr attr = {.grid = grid_signed(4),
                          .row_length = 4,
                          .run_length = 2,
                          .range_gradient = RANGE_FIXED,
                          .grad_scale = 1};
    float values[4] = {1, 2, 100, 3}, grad[4] = {NAN, NAN, NAN, NAN}, scale[2] = {1, 1};
    bool has_grad = false;
    for (int readers = 1; readers <= 2; readers++)
        for (int again = 0; again < 2; again++) { /* adds to what is there */
            tape_begin(tape, TAPE_TRAINING);
            has_grad = again;
            Tensor x = {.dtype = DTYPE_F32, .shape = SHAPE(4), .data = values};
            Var *leaf = tape_leaf(tape, x, grad, &has_grad);
            Var *s = tape_constant(tape, (Tensor){.shape = SHAPE(2), .data = scale});
            Var *first = op_fake_quant(tape, leaf, s, NULL, attr), *sum = first;
            if (readers == 2) {
                Var *second = op_fake_quant(tape, leaf, s, NULL, attr);
                sum = op_add(tape, first, second);
            }
            Var *loss = op_sum(tape, sum, -1);
            assert_int_equal(tape->error.code, ERROR_NONE);
            tape_backward(tape, loss, 1);
            float expected = (float)(readers * (again + 1));
            for (int i = 0; i < 4; i++)
                assert_float_equal(grad[i], values[i] < 8 ? expected : 0, 0);
            assert_int_equal(first->grad.data == grad, readers == 1 && !again);
        }
}

static void test_find_nonfinite(void **state) {
    (void)state;
    mode.is_watching = true;
    tape_begin(tape, mode);
    Var *x = tape_sample_leaf(tape, SHAPE(100), 1, 2);
    tape->scope = "here";
    Var *big = op_scale(tape, x, 3e38f);
    tape->scope = "there";
    Var *sum = op_sum(tape, big, -1);
    assert_ptr_equal(tape_find_nonfinite(tape), big);
    assert_string_equal(tape_find_nonfinite(tape)->scope, "here");
    tape_backward(tape, sum, 1e10f);
    assert_ptr_equal(tape->overflowed, x); /* 1e10 * 3e38 overflows on the way back */
}

static void test_nonnegative(void **state) {
    (void)state;
    Var *x = tape_sample_leaf(tape, SHAPE(2, 2), 0, 1);
    assert_false(var_is_nonnegative(x)); /* what a leaf holds is not known from shapes */
    Var *a = op_relu(tape, x);
    Var *b = op_sigmoid(tape, x);
    assert_true(var_is_nonnegative(a) && var_is_nonnegative(b));
    Var *both = op_add(tape, a, b);
    Var *flat = op_reshape(tape, both, SHAPE(-1));
    assert_true(var_is_nonnegative(flat));
    Var *mixed = op_add(tape, a, x);
    assert_false(var_is_nonnegative(mixed));
    Var *negated = op_scale(tape, a, -1);
    assert_false(var_is_nonnegative(negated));
    Var *parts = op_concat(tape, (Var *[]){a, x}, 2, 0);
    assert_false(var_is_nonnegative(parts));
}

int main(void) {
    Error err = {0};
    if (!parallel_init(0, &err)) return 1;
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(test_diamond),
        TEST(test_seed_grad),
        TEST(test_params_accumulate),
        TEST(test_unread_leaf_is_untouched),
        TEST(test_constants_need_nothing),
        TEST(test_evaluation_records_no_gradients),
        TEST(test_errors_are_sticky),
        TEST(test_many_vars),
        TEST(test_sizes_that_overflow),
        TEST(test_dry_run),
        TEST(test_steps_stop_allocating),
        TEST(test_replay_follows_leaves),
        TEST(test_levels_are_decoded_once),
        TEST(test_gradient_in_place),
        TEST(test_find_nonfinite),
        TEST(test_nonnegative),
#undef TEST
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
