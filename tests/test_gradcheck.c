/* A gradient check is worth what it catches: right, slightly wrong, missing and misplaced
 * derivatives. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "autograd/gradcheck.h"
#include "autograd/ops.h"
#include "core/parallel.h"

/* y = x^2 with a derivative of 2x times `factor`, except at the element `odd`, where it is 2x
 * times `odd_factor`. */
typedef struct SquareAttr {
    float factor, odd_factor;
    int64_t odd;
} SquareAttr;

static bool square_infer(Var *v, Error *err) {
    (void)v, (void)err;
    return true; /* the tape starts from the shape of input 0 */
}

static void square_forward(Tape *t, Var *v) {
    (void)t;
    const float *x = var_f32(v->in[0]);
    for (int64_t i = 0; i < var_count(v); i++) var_f32(v)[i] = x[i] * x[i];
}

static void square_backward(Tape *t, Var *v) {
    const SquareAttr *attr = v->attr;
    if (attr->factor == 0) return; /* "forgets" its input */
    float beta;
    float *dx = tape_grad(t, v->in[0], &beta);
    const float *x = var_f32(v->in[0]);
    for (int64_t i = 0; i < var_count(v); i++) {
        float factor = i == attr->odd ? attr->odd_factor : attr->factor;
        dx[i] = (beta == 0 ? 0 : dx[i]) + factor * 2 * x[i] * var_grad_f32(v)[i];
    }
}

static const Op square_row = {.name = "square",
                              .infer = square_infer,
                              .forward = square_forward,
                              .backward = square_backward};

static Tape *new_tape(Arena *arena) {
    Tape *t = tape_new(arena);
    tape_begin(t, (TapeMode){.needs_grad = true, .keeps_residuals = true});
    return t;
}

static Var *square(Tape *t, Var *x, SquareAttr attr) {
    return tape_record(t, &square_row, 1, &x, &attr, sizeof attr);
}

static bool check_square(Shape shape, SquareAttr attr, Error *err) {
    Arena *arena = arena_new("test");
    Tape *t = new_tape(arena);
    Var *x = tape_sample_leaf(t, shape, 0.5f, 1.5f);
    Var *y = square(t, x, attr);
    bool passed = gradcheck(t, y, err);
    tape_free(t);
    arena_free(arena);
    return passed;
}

static void test_right(void **state) {
    (void)state;
    Error err = {0};
    SquareAttr attr = {.factor = 1, .odd = -1};
    assert_true(check_square(SHAPE(3, 4), attr, &err));
    assert_true(check_square(SHAPE_SCALAR, attr, &err));
    assert_true(check_square(SHAPE(40, 40), attr, &err));
    assert_int_equal(err.code, ERROR_NONE);
}

static void test_one_percent(void **state) {
    (void)state;
    float factors[] = {1.01f, 0.99f, -1, 0.5f};
    for (int i = 0; i < 4; i++) {
        Error err = {0};
        assert_false(
            check_square(SHAPE(3, 4), (SquareAttr){.factor = factors[i], .odd = -1}, &err));
        assert_int_equal(err.code, ERROR_NUMERIC);
        assert_non_null(strstr(err.message, "square"));
        assert_non_null(strstr(err.message, "leaf 0 [3, 4] at element 0"));
    }
}

static void test_forgotten(void **state) {
    (void)state;
    Error err = {0};
    assert_false(check_square(SHAPE(3, 4), (SquareAttr){.factor = 0}, &err));
    assert_non_null(strstr(err.message, "backward gives 0"));
}

static void test_one_element(void **state) {
    (void)state;
    for (int64_t odd = 0; odd < 12; odd++) {
        Error err = {0};
        SquareAttr attr = {.factor = 1, .odd = odd, .odd_factor = 1.05f};
        assert_false(check_square(SHAPE(3, 4), attr, &err));
        char expected[32];
        snprintf(expected, sizeof expected, "at element %d:", (int)odd);
        assert_non_null(strstr(err.message, expected));
    }
}

static void test_deeper_leaf(void **state) {
    (void)state;
    /* The wrong op sits between two right ones, on the second of two leaves. */
    Arena *arena = arena_new("test");
    Tape *t = new_tape(arena);
    Var *a = tape_sample_leaf(t, SHAPE(2, 3), -1, 1);
    Var *b = tape_sample_leaf(t, SHAPE(3), 0.5f, 1.5f);
    Var *wrong = square(t, b, (SquareAttr){.factor = 1.02f, .odd = -1});
    Var *product = op_mul(t, a, wrong);
    Var *y = op_tanh(t, product);
    Error err = {0};
    assert_false(gradcheck(t, y, &err));
    assert_non_null(strstr(err.message, "tanh: gradient of leaf 1 [3]"));
    tape_free(t);
    arena_free(arena);
}

static void test_leaves_the_record(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    Tape *t = new_tape(arena);
    Var *x = tape_sample_leaf(t, SHAPE(100), -1, 1);
    Var *y = op_sigmoid(t, x);
    float x_before[100], y_before[100];
    memcpy(x_before, var_f32(x), sizeof x_before);
    memcpy(y_before, var_f32(y), sizeof y_before);
    Error err = {0};
    assert_true(gradcheck(t, y, &err));
    assert_memory_equal(var_f32(x), x_before, sizeof x_before);
    assert_memory_equal(var_f32(y), y_before, sizeof y_before);
    tape_free(t);
    arena_free(arena);
}

static void test_sticky_error(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    Tape *t = new_tape(arena);
    Var *a = tape_sample_leaf(t, SHAPE(2, 3), -1, 1);
    Var *b = tape_sample_leaf(t, SHAPE(4), -1, 1);
    Var *y = op_add(t, a, b);
    Error err = {0};
    assert_false(gradcheck(t, y, &err));
    assert_int_equal(err.code, ERROR_INPUT);
    tape_free(t);
    arena_free(arena);
}

int main(void) {
    Error err = {0};
    if (!parallel_init(0, &err)) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_right),        cmocka_unit_test(test_one_percent),
        cmocka_unit_test(test_forgotten),    cmocka_unit_test(test_one_element),
        cmocka_unit_test(test_deeper_leaf),  cmocka_unit_test(test_leaves_the_record),
        cmocka_unit_test(test_sticky_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
