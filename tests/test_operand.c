/* Codes of a tensor to numbers and back, from anywhere, on every instruction set. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/kernels.h"
#include "core/kernels/operand.h"
#include "core/parallel.h"
#include "core/random.h"

enum { COUNT = 1403, BITS = 4 };

static const char *const isas[] = {"baseline", "avx2", "avx512"};
static const Dtype code_dtypes[] = {DTYPE_BYTE, DTYPE_NIBBLE, DTYPE_INT4};
static const Dtype low_dtypes[] = {DTYPE_BYTE, DTYPE_NIBBLE, DTYPE_TERNARY, DTYPE_BINARY};

/* How levels are scaled: all alike, or in groups of an odd length; with zero points or none. */
static const struct {
    bool in_groups, has_zeros;
} ways[] = {{false, true}, {true, false}, {true, true}};

enum { WAYS = sizeof ways / sizeof *ways };

/* Levels of a 4-bit grid. */
static Tensor levels_draw(Arena *arena, int64_t elements, int way) {
    int64_t run = ways[way].in_groups ? 23 : elements;
    int64_t count = scales_count(elements, elements, run);
    float *scale = arena_new_array(arena, float, count);
    float *zero = arena_new_array(arena, float, count);
    random_fill_uniform((RandomKey){.seed = 4, .stream = RANDOM_TEST}, 0.1f, 1, count, scale);
    for (int64_t i = 0; i < count; i++) zero[i] = (float)(5 + i % 7);
    Scales *s = arena_new_array(arena, Scales, 1);
    *s = (Scales){elements, run, count, DTYPE_F32, grid_unsigned(BITS), scale, NULL};
    if (ways[way].has_zeros) s->zero = zero;
    Tensor t = tensor_new(arena, DTYPE_F32, SHAPE(elements));
    random_fill_normal((RandomKey){.seed = 5, .stream = RANDOM_TEST}, 4, elements, t.data);
    quantize_levels(t.data, s, 0, elements, t.data);
    t.scales = s;
    return t;
}

/* Of fewer than two bits, in groups of an odd length, as weights are. */
static Tensor low_levels_draw(Arena *arena, Grid grid) {
    Tensor t = levels_draw(arena, COUNT, 1);
    Scales *s = arena_new_array(arena, Scales, 1);
    *s = *t.scales;
    s->grid = grid;
    random_fill_normal((RandomKey){.seed = 6, .stream = RANDOM_TEST}, 0.6f, COUNT, t.data);
    quantize_levels(t.data, s, 0, COUNT, t.data);
    t.scales = s;
    return t;
}

static Tensor codes_of(Arena *arena, const Tensor *levels, Dtype dtype) {
    Tensor t = tensor_zeros(arena, dtype, levels->shape);
    t.scales = levels->scales;
    int64_t count = tensor_count(levels);
    float *values = arena_new_array(arena, float, count);
    tensor_decode(levels, values);
    dtype_encode(dtype, values, count, t.scales, t.data);
    return t;
}

static void check_reads(const Tensor *codes, const Tensor *levels) {
    static float numbers[COUNT + 1], values[COUNT], all[COUNT];
    tensor_decode(levels, all);
    for (int64_t first = 0; first < COUNT; first += first < 40 ? 1 : 97)
        for (int64_t count = COUNT - first; count > 0; count = count * 2 / 3) {
            numbers[count] = 99; /* nothing is written past the end */
            operand_read(codes, first, count, numbers);
            assert_memory_equal(numbers, tensor_f32(levels) + first,
                                sizeof *numbers * (size_t)count);
            assert_true(numbers[count] == 99);
            operand_read_values(codes, first, count, values);
            assert_memory_equal(values, all + first, sizeof *values * (size_t)count);
            assert_memory_equal(operand_part(codes, first, count, values),
                                tensor_f32(levels) + first, sizeof *values * (size_t)count);
        }
}

static void test_reads(void **state) {
    (void)state;
    Arena *arena = arena_new("case");
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        Error err = {0};
        setenv("NIBBLE_ISA", isas[i], 1);
        if (!kernels_init(&err)) continue;
        for (int way = 0; way < WAYS; way++)
            for (size_t d = 0; d < sizeof code_dtypes / sizeof *code_dtypes; d++) {
                const Tensor levels = levels_draw(arena, COUNT, way);
                const Tensor codes = codes_of(arena, &levels, code_dtypes[d]);
                check_reads(&codes, &levels);
                check_reads(&levels, &levels);
            }
        for (size_t d = 0; d < sizeof low_dtypes / sizeof *low_dtypes; d++) {
            bool is_binary = low_dtypes[d] == DTYPE_BINARY;
            const Tensor levels = low_levels_draw(arena, is_binary ? grid_odd(1) : grid_ternary());
            const Tensor codes = codes_of(arena, &levels, low_dtypes[d]);
            check_reads(&codes, &levels);
        }
    }
    unsetenv("NIBBLE_ISA");
    arena_free(arena);
}

/* Several threads write parts that begin at even elements. */
static void check_write(Arena *arena, const Tensor *levels, Dtype dtype, int64_t part) {
    const Tensor whole = codes_of(arena, levels, dtype);
    const Tensor codes = tensor_new(arena, dtype, levels->shape);
    memset(codes.data, 0xff, tensor_bytes(&codes));
    Tensor scaled = codes;
    scaled.scales = levels->scales;
#pragma omp parallel for schedule(dynamic)
    for (int64_t first = 0; first < COUNT; first += part)
        operand_write(tensor_f32(levels) + first, first,
                      COUNT - first < part ? COUNT - first : part, &scaled);
    assert_memory_equal(codes.data, whole.data, tensor_bytes(&codes));
}

static void test_writes(void **state) {
    (void)state;
    Arena *arena = arena_new("case");
    for (int threads = 1; threads <= 4; threads++) {
        Error err = {0};
        assert_true(parallel_init(threads, &err));
        for (int way = 0; way < WAYS; way++) {
            const Tensor levels = levels_draw(arena, COUNT, way);
            for (int64_t part = 2; part < 2 * COUNT; part = part * 3 / 2 & ~(int64_t)1) {
                check_write(arena, &levels, DTYPE_BYTE, part);
                check_write(arena, &levels, DTYPE_NIBBLE, part);
                if (part == 2) part = 4;
            }
        }
    }
    Error err = {0};
    assert_true(parallel_init(0, &err));
    arena_free(arena);
}

/* Levels or values of the same tensor; from where they lie, if they do. */
static void test_operands(void **state) {
    (void)state;
    Arena *arena = arena_new("case");
    for (int way = 0; way < WAYS; way++) {
        const Tensor levels = levels_draw(arena, COUNT, way);
        float values[COUNT], buffer[COUNT];
        tensor_decode(&levels, values);
        for (size_t d = 0; d < sizeof code_dtypes / sizeof *code_dtypes; d++)
            for (int64_t first = 0; first < COUNT; first += 7) {
                const Tensor codes = codes_of(arena, &levels, code_dtypes[d]);
                const Operand as_levels = {codes, true}, as_values = {codes, false};
                size_t bytes = sizeof(float) * (size_t)(COUNT - first);
                assert_ptr_equal(operand_at(&as_levels, first, COUNT - first, buffer), buffer);
                assert_memory_equal(buffer, tensor_f32(&levels) + first, bytes);
                assert_ptr_equal(operand_at(&as_values, first, COUNT - first, buffer), buffer);
                assert_memory_equal(buffer, values + first, bytes);
            }
        const Operand lying = {levels, true}, scaled = {levels, false};
        assert_ptr_equal(operand_at(&lying, 3, 5, buffer), tensor_f32(&levels) + 3);
        assert_ptr_equal(operand_at(&scaled, 3, 5, buffer), buffer);
        assert_memory_equal(buffer, values + 3, 5 * sizeof(float));
        const Operand plain = {{DTYPE_F32, levels.shape, levels.data, NULL}, false};
        assert_ptr_equal(operand_at(&plain, 3, 5, buffer), tensor_f32(&levels) + 3);
    }
    arena_free(arena);
}

/* Decoded whole, by several threads. */
static void test_whole(void **state) {
    (void)state;
    enum { LARGE = 50001 };
    Arena *arena = arena_new("case");
    for (int way = 0; way < WAYS; way++) {
        const Tensor levels = levels_draw(arena, LARGE, way);
        float *values = arena_new_array(arena, float, LARGE);
        tensor_decode(&levels, values);
        size_t before = arena_used(arena);
        assert_memory_equal(operand_values(&levels, arena), values, sizeof *values * LARGE);
        assert_true(operand_values_scratch(&levels) == (int64_t)(arena_used(arena) - before));
        const Tensor plain = {DTYPE_F32, levels.shape, levels.data, NULL};
        assert_ptr_equal(operand_values(&plain, arena), plain.data);
        assert_int_equal(operand_values_scratch(&plain), 0);
        for (size_t d = 0; d < sizeof code_dtypes / sizeof *code_dtypes; d++) {
            const Tensor codes = codes_of(arena, &levels, code_dtypes[d]);
            assert_memory_equal(operand_values(&codes, arena), values, sizeof *values * LARGE);
        }
    }
    arena_free(arena);
}

/* Of levels up to 128, 10 and 13, and 12. */
static void test_exact_products(void **state) {
    (void)state;
    const float two[] = {5, 2}, one[] = {12};
    const Scales plain = {.count = 2, .grid = grid_signed(8)};
    const Scales above = {.count = 2, .grid = grid_unsigned(4), .zero = two};
    const Scales below = {.count = 1, .grid = grid_unsigned(4), .zero = one};
    assert_true(scales_level_max(&plain) == 128);
    assert_true(scales_level_max(&above) == 13 && scales_level_max(&below) == 12);
    assert_int_equal(exact_products(&plain, &plain), (1 << 10) - 1); /* 2^10 give 2^24 */
    assert_int_equal(exact_products(&above, &below), (1 << 24) / (13 * 12));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads),          cmocka_unit_test(test_writes),
        cmocka_unit_test(test_operands),       cmocka_unit_test(test_whole),
        cmocka_unit_test(test_exact_products),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
