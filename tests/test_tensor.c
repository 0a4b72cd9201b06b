#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <string.h>

#include "core/tensor.h"

static void test_shapes(void **state) {
    (void)state;
    Shape shape = SHAPE(128, 28, 28, 3);
    assert_int_equal(shape.rank, 4);
    assert_int_equal(shape_count(shape), 128 * 28 * 28 * 3);
    assert_int_equal(shape_rows(shape), 128 * 28 * 28);
    assert_int_equal(shape_last(shape), 3);
    assert_int_equal(shape_count(SHAPE_SCALAR), 1);
    assert_int_equal(shape_rows(SHAPE_SCALAR), 1);
    assert_int_equal(shape_last(SHAPE_SCALAR), 1);
    assert_true(shape_equal(shape, SHAPE(128, 28, 28, 3)));
    assert_false(shape_equal(shape, SHAPE(128, 28, 28)));
    assert_false(shape_equal(SHAPE(128, 28, 28), shape));
    assert_false(shape_equal(shape, SHAPE(128, 28, 28, 4)));
}

static void test_text(void **state) {
    (void)state;
    char text[SHAPE_TEXT_BYTES];
    assert_string_equal(shape_text(SHAPE(128, 28, 28, 1), text), "[128, 28, 28, 1]");
    assert_string_equal(shape_text(SHAPE(7), text), "[7]");
    assert_string_equal(shape_text(SHAPE_SCALAR, text), "[]");
    shape_text(SHAPE(INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX), text);
    assert_true(strlen(text) < SHAPE_TEXT_BYTES);
}

static void test_check(void **state) {
    (void)state;
    Error err = {0};
    int64_t count = 0;
    assert_true(shape_check(SHAPE(3, 5), &count, &err));
    assert_int_equal(count, 15);
    assert_false(shape_check(SHAPE(3, 0), &count, &err));
    assert_int_equal(err.code, ERROR_INPUT);
    assert_non_null(strstr(err.message, "[3, 0]"));
    err = (Error){0};
    assert_false(shape_check(SHAPE(-1), &count, &err));
    err = (Error){0};
    assert_false(shape_check(SHAPE(INT64_C(1) << 40, INT64_C(1) << 40), &count, &err));
    assert_non_null(strstr(err.message, "too large"));
    err = (Error){0}; /* 2^42 + 1 times 2^22 wraps to a small number in 64 bits */
    assert_false(shape_check(SHAPE((INT64_C(1) << 42) + 1, INT64_C(1) << 22), &count, &err));
    err = (Error){0};
    assert_false(shape_check(SHAPE(INT64_C(1) << 61), &count, &err));
    err = (Error){0};
    assert_false(shape_check((Shape){.rank = 5}, &count, &err));
    assert_non_null(strstr(err.message, "5 dimensions"));
}

static void test_memory(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    Tensor zeros = tensor_zeros(arena, DTYPE_F32, SHAPE(4, 5));
    assert_int_equal(tensor_count(&zeros), 20);
    assert_int_equal(tensor_bytes(&zeros), 80);
    for (int i = 0; i < 20; i++) assert_true(tensor_f32(&zeros)[i] == 0);
    Tensor half = tensor_new(arena, DTYPE_F16, SHAPE(3));
    assert_int_equal(tensor_bytes(&half), 6);

    const float scale[4] = {1, 2, 3, 4}, zero[4] = {0};
    Scales scales = {5, 5, 4, DTYPE_F16, grid_signed(3), scale, NULL};
    Tensor codes = tensor_zeros(arena, DTYPE_INT3, SHAPE(4, 5));
    codes.scales = &scales;
    assert_int_equal(tensor_bytes(&codes), 8 + 4 * 2); /* 60 bits, and four scales of f16 */
    scales.zero = zero;
    assert_int_equal(tensor_bytes(&codes), 8 + 4 * 2 + 4);
    arena_free(arena);
}

/* The same levels as packed codes, and as integers held in floats. */
static void test_decode(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    const float scale[2] = {0.5f, 2.0f}, levels[6] = {-4, 0, 3, 1, -1, 2};
    Scales scales = {3, 3, 2, DTYPE_F32, grid_signed(3), scale, NULL};
    Tensor held = tensor_new(arena, DTYPE_F32, SHAPE(2, 3));
    memcpy(held.data, levels, sizeof levels);
    held.scales = &scales;
    Tensor packed = tensor_zeros(arena, DTYPE_INT3, SHAPE(2, 3));
    packed.scales = &scales;
    dtype_codec(dtype_integer(scales.grid.bits))->write_levels(levels, &scales, 0, 6, packed.data);
    const float expected[6] = {-2, 0, 1.5f, 2, -2, 4};
    float values[6];
    tensor_decode(&held, values);
    assert_memory_equal(values, expected, sizeof expected);
    tensor_decode(&packed, values);
    assert_memory_equal(values, expected, sizeof expected);
    held.scales = NULL;
    tensor_decode(&held, values);
    assert_memory_equal(values, levels, sizeof levels);
    arena_free(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes), cmocka_unit_test(test_text),   cmocka_unit_test(test_check),
        cmocka_unit_test(test_memory), cmocka_unit_test(test_decode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
