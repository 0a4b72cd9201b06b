#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "core/dtype.h"
#include "core/random.h"

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void test_rows(void **state) {
    (void)state;
    for (int i = 0; i < DTYPE_COUNT; i++) {
        const Codec *codec = dtype_codec((Dtype)i);
        assert_int_equal(dtype_find(codec->name), i);
        assert_string_equal(dtype_name((Dtype)i), codec->name);
        assert_true(strlen(codec->help) > 0);
        int per_byte = codec->codes_per_byte;
        assert_int_equal(dtype_bytes((Dtype)i, 8),
                         per_byte ? (8 + per_byte - 1) / per_byte : codec->code_bits);
        assert_int_equal(dtype_bytes((Dtype)i, 0), 0);
    }
    assert_int_equal(dtype_find("int9"), -1);
    assert_int_equal(dtype_bytes(DTYPE_INT3, 9), 4); /* 27 bits */
    assert_int_equal(dtype_bytes(DTYPE_TERNARY, 1), 1);
    assert_int_equal(dtype_bytes(DTYPE_TERNARY, 15), 3);
    assert_int_equal(dtype_bytes(DTYPE_TERNARY, 16), 4);
    assert_int_equal(dtype_bytes(DTYPE_BINARY, 17), 3);
    for (int bits = 2; bits <= 8; bits++)
        assert_int_equal(dtype_codec(dtype_integer(bits))->code_bits, bits);
}

static void test_grids(void **state) {
    (void)state;
    assert_int_equal(grid_low(grid_signed(4)), -8);
    assert_int_equal(grid_high(grid_signed(4)), 7);
    assert_int_equal(grid_low(grid_unsigned(4)), 0);
    assert_int_equal(grid_high(grid_unsigned(4)), 15);
    assert_int_equal(grid_low(grid_odd(2)), -3); /* -3 -1 1 3 */
    assert_int_equal(grid_high(grid_odd(2)), 3);
    assert_int_equal(grid_low(grid_odd(1)), -1);
    assert_int_equal(grid_high(grid_odd(1)), 1);
    assert_int_equal(grid_low(grid_ternary()), -1);
    assert_int_equal(grid_high(grid_ternary()), 1);
    assert_int_equal(grid_of(2, -1, 1).unused, 1);
    assert_int_equal(grid_of(2, -2, 1).unused, 0);
    assert_int_equal(grid_of(2, -1, 2).unused, 0);
    assert_int_equal(grid_of(1, -1, 1).unused, 0);
    assert_int_equal(dtype_packed(grid_ternary()), DTYPE_TERNARY);
    assert_int_equal(dtype_packed(grid_odd(1)), DTYPE_BINARY);
    assert_int_equal(dtype_packed(grid_odd(2)), DTYPE_INT2);
}

/* ---- f16 and bf16 ---- */

/* The definition of the format (IEEE 754-2019, 3.4), in double, without bit tricks. */
static double f16_value(uint16_t code) {
    int exponent = code >> 10 & 31, fraction = code & 1023;
    double magnitude = exponent == 31  ? (fraction ? NAN : INFINITY)
                       : exponent == 0 ? ldexp(fraction, -24)
                                       : ldexp(1024 + fraction, exponent - 25);
    return code & 0x8000 ? -magnitude : magnitude;
}

static void test_f16_decodes_all_patterns(void **state) {
    (void)state;
    for (uint32_t code = 0; code < 65536; code++) {
        uint16_t stored = (uint16_t)code;
        float x;
        dtype_decode(DTYPE_F16, &stored, NULL, 0, 1, &x);
        double expected = f16_value(stored);
        if (isnan(expected))
            assert_true(isnan(x));
        else
            assert_int_equal(bits_of(x), bits_of((float)expected));
    }
}

static void round_trip_all_patterns(Dtype dtype) {
    static uint16_t codes[65536], again[65536];
    static float values[65536];
    for (uint32_t i = 0; i < 65536; i++) codes[i] = (uint16_t)i;
    const Codec *codec = dtype_codec(dtype);
    codec->decode(codes, NULL, 0, 65536, values);
    codec->encode(values, 65536, NULL, again);
    for (uint32_t i = 0; i < 65536; i++) {
        if (isnan(values[i])) {
            float x;
            codec->decode(again, NULL, i, 1, &x);
            assert_true(isnan(x));
        } else {
            assert_int_equal(again[i], codes[i]);
        }
    }
}

static void test_half_formats_round_trip(void **state) {
    (void)state;
    round_trip_all_patterns(DTYPE_F16);
    round_trip_all_patterns(DTYPE_BF16);
}

/* Between every two neighbours: just below the middle, the middle (to the even one), just above. */
static void check_rounding(Dtype dtype, uint16_t infinity) {
    const Codec *codec = dtype_codec(dtype);
    for (uint16_t code = 0; code + 1 < infinity; code++) {
        uint16_t pair[2] = {code, (uint16_t)(code + 1)}, got;
        float x[2];
        codec->decode(pair, NULL, 0, 2, x);
        float middle = (float)(((double)x[0] + (double)x[1]) / 2);
        float points[3] = {nextafterf(middle, 0), middle, nextafterf(middle, INFINITY)};
        uint16_t expected[3] = {code, (uint16_t)(code + (code & 1)), (uint16_t)(code + 1)};
        for (int i = 0; i < 3; i++)
            for (int is_negative = 0; is_negative < 2; is_negative++) {
                float point = is_negative ? -points[i] : points[i];
                codec->encode(&point, 1, NULL, &got);
                assert_int_equal(got, expected[i] | (is_negative ? 0x8000 : 0));
            }
    }
}

static void test_half_formats_round_to_even(void **state) {
    (void)state;
    check_rounding(DTYPE_F16, 0x7c00);
    check_rounding(DTYPE_BF16, 0x7f80);
}

static void test_half_formats_overflow(void **state) {
    (void)state;
    assert_true(isinf(dtype_round(DTYPE_F16, 65520.0f)));
    assert_float_equal(dtype_round(DTYPE_F16, 65519.996f), 65504.0f, 0);
    assert_true(isinf(dtype_round(DTYPE_F16, 1e30f)));
    assert_true(dtype_round(DTYPE_F16, -INFINITY) == -INFINITY);
    assert_true(isinf(dtype_round(DTYPE_BF16, float_of(0x7f7fffff))));
    assert_true(isnan(dtype_round(DTYPE_F16, NAN)));
    assert_true(isnan(dtype_round(DTYPE_BF16, float_of(0x7f800001)))); /* payload in the low half */
    assert_true(isnan(dtype_round(DTYPE_F16, float_of(0x7f800001))));
    assert_float_equal(dtype_round(DTYPE_F32, 0.1f), 0.1f, 0);
}

/* ---- Integers ---- */

typedef struct Layout {
    int64_t count, row, run;
} Layout;

static const Layout layouts[] = {{1, 1, 1},     {77, 77, 77},   {600, 30, 30},     {1000, 100, 32},
                                 {1537, 29, 7}, {4096, 64, 16}, {2000, 2000, 2000}};

enum { LAYOUT_COUNT = sizeof layouts / sizeof layouts[0] };

static Scales scales_draw(Arena *arena, Layout layout, Grid grid, uint64_t seed) {
    Scales s = {layout.row, layout.run, scales_count(layout.count, layout.row, layout.run),
                DTYPE_F32,  grid,       NULL,
                NULL};
    float *scale = arena_new_array(arena, float, s.count);
    float *zero = arena_new_array(arena, float, s.count);
    random_fill_uniform((RandomKey){seed, RANDOM_TEST, 0}, 0.01f, 0.5f, s.count, scale);
    for (int64_t i = 0; i < s.count; i++)
        zero[i] =
            (float)random_below((RandomKey){seed, RANDOM_TEST, 1}, (uint64_t)i, 1u << grid.bits);
    s.scale = scale;
    if (seed % 2) s.zero = zero;
    return s;
}

static void test_scale_numbers(void **state) {
    (void)state;
    assert_int_equal(scales_count(10, 4, 3), 3 * 2); /* of a file, whose rows may not fit */
    for (int l = 0; l < LAYOUT_COUNT; l++) {
        Layout y = layouts[l];
        Arena *arena = arena_new("case");
        Scales s = scales_draw(arena, y, grid_signed(4), 2);
        for (int64_t i = 0; i < y.count; i++) {
            int64_t scale, run = scales_run(&s, i, &scale), last;
            int64_t per_row = (y.row + y.run - 1) / y.run;
            assert_int_equal(scale, i / y.row * per_row + i % y.row / y.run);
            assert_true(run >= 1);
            scales_run(&s, i + run - 1, &last);
            assert_int_equal(last, scale);
        }
        arena_free(arena);
    }
}

/* What the header says, one element at a time, with the C library's own rounding. */
static float level_expected(float x, const Scales *s, int64_t i) {
    int64_t scale;
    scales_run(s, i, &scale);
    float zero = s->zero ? s->zero[scale] : 0, u = x * (1.0f / s->scale[scale]);
    float low = (float)grid_low(s->grid) - zero, high = (float)grid_high(s->grid) - zero;
    if (s->grid.step == 1) return fminf(fmaxf(nearbyintf(u), low), high) + 0.0f;
    float code = nearbyintf((u - low) / (float)s->grid.step);
    code = fminf(fmaxf(code, 0), (float)((1 << s->grid.bits) - 1 - s->grid.unused));
    return low + (float)s->grid.step * code;
}

/* Of the stream of bits, or of five codes a byte. */
static int64_t code_at(const uint8_t *codes, Grid grid, int64_t i) {
    static const int powers[] = {1, 3, 9, 27, 81};
    int64_t code = 0;
    if (grid.unused) return codes[i / 5] / powers[i % 5] % 3;
    for (int b = 0; b < grid.bits; b++) {
        int64_t bit = i * grid.bits + b;
        code |= (int64_t)(codes[bit / 8] >> (bit % 8) & 1) << b;
    }
    return code;
}

static void check_quantizer(Layout layout, Grid grid, uint64_t seed) {
    Arena *arena = arena_new("case");
    Scales s = scales_draw(arena, layout, grid, seed);
    int64_t count = layout.count;
    float *x = arena_new_array(arena, float, count), *levels = arena_new_array(arena, float, count);
    float *again = arena_new_array(arena, float, count);
    random_fill_normal((RandomKey){seed, RANDOM_TEST, 2}, 2.0f, count, x);
    quantize_levels(x, &s, 0, count, levels);
    for (int64_t i = 0; i < count; i++)
        assert_int_equal(bits_of(levels[i]), bits_of(level_expected(x[i], &s, i)));
    for (int64_t first = 1; first < count; first *= 3) { /* any part gives the same levels */
        quantize_levels(x + first, &s, first, count - first, again);
        assert_memory_equal(again, levels + first, (size_t)(count - first) * sizeof *levels);
    }

    Dtype dtype = dtype_packed(grid);
    size_t bytes = dtype_bytes(dtype, count);
    uint8_t *codes = arena_zalloc(arena, bytes + 1), *encoded = arena_zalloc(arena, bytes + 1);
    codes[bytes] = encoded[bytes] = 0xa5; /* nothing is written past the end */
    dtype_codec(dtype)->write_levels(levels, &s, 0, count, codes);
    dtype_codec(dtype)->read_levels(codes, &s, 0, count, again);
    assert_int_equal(dtype_find_unfit(dtype, codes, count), -1);
    assert_memory_equal(again, levels, (size_t)count * sizeof *levels);
    dtype_encode(dtype, x, count, &s, encoded);
    assert_memory_equal(encoded, codes, bytes);
    assert_true(codes[bytes] == 0xa5 && encoded[bytes] == 0xa5);
    for (int64_t i = 0; i < count; i++) { /* the stream of codes, as documented */
        int64_t scale, code = code_at(codes, grid, i);
        scales_run(&s, i, &scale);
        float zero = s.zero ? s.zero[scale] : 0;
        assert_float_equal((float)(grid.base + grid.step * (int)code) - zero, levels[i], 0);
    }
    for (int64_t first = 0; first < count; first = first * 2 + 1) { /* decode from anywhere */
        dtype_decode(dtype, codes, &s, first, count - first, again);
        for (int64_t i = first; i < count; i++) {
            int64_t scale;
            scales_run(&s, i, &scale);
            assert_int_equal(bits_of(again[i - first]), bits_of(s.scale[scale] * levels[i]));
        }
    }
    arena_free(arena);
}

/* A code a byte: of levels or of values, from and to anywhere. */
static void check_bytes(Layout layout, Grid grid, uint64_t seed) {
    Arena *arena = arena_new("case");
    Scales s = scales_draw(arena, layout, grid, seed);
    int64_t count = layout.count;
    float *x = arena_new_array(arena, float, count), *levels = arena_new_array(arena, float, count);
    float *values = arena_new_array(arena, float, count);
    uint8_t *codes = arena_zalloc(arena, (size_t)count), *part = arena_zalloc(arena, (size_t)count);
    random_fill_normal((RandomKey){seed, RANDOM_TEST, 2}, 2.0f, count, x);
    quantize_levels(x, &s, 0, count, levels);
    levels_decode(levels, &s, 0, count, values);
    levels_to_bytes(levels, &s, 0, count, codes);
    dtype_encode(DTYPE_BYTE, x, count, &s, part);
    assert_memory_equal(part, codes, (size_t)count);
    for (int64_t first = 0; first < count; first = first * 2 + 1) {
        int64_t rest = count - first;
        quantize_bytes(x + first, &s, first, rest, part);
        assert_memory_equal(part, codes + first, (size_t)rest);
        dtype_decode(DTYPE_BYTE, codes, &s, first, rest, levels);
        assert_memory_equal(levels, values + first, (size_t)rest * sizeof *levels);
    }
    arena_free(arena);
}

/* Two codes a byte: from and to anywhere, whatever the runs of scales. */
static void check_nibbles(Layout layout, Grid grid, uint64_t seed) {
    Arena *arena = arena_new("case");
    Scales s = scales_draw(arena, layout, grid, seed);
    int64_t count = layout.count;
    size_t bytes = dtype_bytes(DTYPE_NIBBLE, count);
    float *x = arena_new_array(arena, float, count), *levels = arena_new_array(arena, float, count);
    float *again = arena_new_array(arena, float, count);
    uint8_t *codes = arena_zalloc(arena, bytes + 1), *whole = arena_zalloc(arena, bytes + 1);
    uint8_t *each = arena_zalloc(arena, (size_t)count);
    random_fill_normal((RandomKey){seed, RANDOM_TEST, 2}, 2.0f, count, x);
    quantize_levels(x, &s, 0, count, levels);
    levels_to_bytes(levels, &s, 0, count, each);
    memset(whole, 0xff, bytes);
    memset(codes, 0xff, bytes);
    codes[bytes] = whole[bytes] = 0xa5; /* nothing is written past the end */
    dtype_encode(DTYPE_NIBBLE, x, count, &s, whole);
    for (int64_t i = 0; i < count; i++)
        assert_int_equal(whole[i / 2] >> (i % 2 ? 4 : 0) & 15, each[i]);
    assert_true(count % 2 == 0 || whole[bytes - 1] >> 4 == 0);
    for (int64_t first = 0, part = 1; first < count; first += part, part = part * 2 + 1) {
        if (part > count - first) part = count - first;
        levels_to_nibbles(levels + first, &s, first, part, codes);
    }
    assert_memory_equal(codes, whole, bytes);
    assert_true(codes[bytes] == 0xa5 && whole[bytes] == 0xa5);
    for (int64_t first = 0; first < count; first = first * 2 + 1) {
        levels_from_nibbles(codes, &s, first, count - first, again);
        assert_memory_equal(again, levels + first, (size_t)(count - first) * sizeof *again);
        levels_decode(again, &s, first, count - first, again);
        dtype_decode(DTYPE_NIBBLE, codes, &s, first, count - first, x);
        assert_memory_equal(again, x, (size_t)(count - first) * sizeof *again);
    }
    arena_free(arena);
}

static void test_nibbles(void **state) {
    (void)state;
    uint64_t seed = 1;
    for (int l = 0; l < LAYOUT_COUNT; l++)
        for (int bits = 2; bits <= 4; bits++) {
            check_nibbles(layouts[l], grid_signed(bits), seed++);
            check_nibbles(layouts[l], grid_unsigned(bits), seed++);
            check_nibbles(layouts[l], grid_odd(bits), seed++);
        }
}

static void test_integer_formats(void **state) {
    (void)state;
    uint64_t seed = 1;
    for (int l = 0; l < LAYOUT_COUNT; l++)
        for (int bits = 2; bits <= 8; bits++) {
            const Grid grids[] = {grid_signed(bits), grid_unsigned(bits), grid_odd(bits)};
            for (int g = 0; g < 3; g++, seed++) {
                check_quantizer(layouts[l], grids[g], seed);
                check_bytes(layouts[l], grids[g], seed);
            }
        }
    for (int l = 0; l < LAYOUT_COUNT; l++)
        for (int i = 0; i < 4; i++, seed++) {
            Grid grid = i < 2 ? grid_ternary() : grid_odd(1);
            check_quantizer(layouts[l], grid, seed);
            check_bytes(layouts[l], grid, seed);
            check_nibbles(layouts[l], grid, seed);
        }
}

/* Each byte of five codes, and those that five codes do not make. */
static void test_ternary_bytes(void **state) {
    (void)state;
    const float scale = 1;
    Scales s = {5, 5, 1, DTYPE_F32, grid_ternary(), &scale};
    for (int byte = 0; byte < 256; byte++) {
        uint8_t codes[2] = {(uint8_t)byte, 0xa5}, again[2] = {0, 0xa5};
        float levels[5];
        assert_int_equal(dtype_find_unfit(DTYPE_TERNARY, codes, 5), byte < 243 ? -1 : 0);
        dtype_codec(DTYPE_TERNARY)->read_levels(codes, &s, 0, 5, levels);
        for (int i = 0, rest = byte; i < 5; i++, rest /= 3)
            assert_true(levels[i] == (float)(byte < 243 ? rest % 3 - 1 : -1));
        dtype_codec(DTYPE_TERNARY)->write_levels(levels, &s, 0, 5, again);
        assert_true(byte >= 243 || again[0] == byte);
        assert_int_equal(again[1], 0xa5);
    }
    const uint8_t plane[2] = {242, 243};
    assert_int_equal(dtype_find_unfit(DTYPE_TERNARY, plane, 5), -1); /* one byte is theirs */
    assert_int_equal(dtype_find_unfit(DTYPE_TERNARY, plane, 6), 1);
    assert_int_equal(dtype_find_unfit(DTYPE_BINARY, plane, 16), -1);
}

/* Every code of every width survives being a value. */
static void test_every_code(void **state) {
    (void)state;
    for (int bits = 2; bits <= 8; bits++) {
        int count = 1 << bits;
        float scale = 0.37f, zero = 3, values[256], levels[256];
        Scales s = {count, count, 1, DTYPE_F32, grid_unsigned(bits), &scale, &zero};
        uint8_t codes[256], again[256];
        for (int i = 0; i < count; i++) levels[i] = (float)i - zero;
        dtype_codec(dtype_integer(s.grid.bits))->write_levels(levels, &s, 0, count, codes);
        dtype_decode(dtype_integer(bits), codes, &s, 0, count, values);
        dtype_encode(dtype_integer(bits), values, count, &s, again);
        assert_memory_equal(again, codes, dtype_bytes(dtype_integer(bits), count));
    }
}

static void test_pack_in_parts(void **state) {
    (void)state;
    enum { COUNT = 1200, PART = 8 * 5 * 7 };
    Arena *arena = arena_new("case");
    for (int bits = 0; bits <= 8; bits++) {
        Grid grid = bits > 1 ? grid_signed(bits) : bits ? grid_odd(1) : grid_ternary();
        Dtype dtype = dtype_packed(grid);
        Scales s = scales_draw(arena, (Layout){COUNT, 50, 20}, grid, 5);
        float levels[COUNT], part[PART];
        uint8_t whole[COUNT], parts[COUNT];
        random_fill_normal((RandomKey){3, RANDOM_TEST, 0}, 2.0f, COUNT, levels);
        quantize_levels(levels, &s, 0, COUNT, levels);
        dtype_codec(dtype)->write_levels(levels, &s, 0, COUNT, whole);
        for (int64_t first = 0; first < COUNT; first += PART) {
            int64_t some = COUNT - first < PART ? COUNT - first : PART;
            dtype_codec(dtype)->write_levels(levels + first, &s, first, some, parts);
            dtype_codec(dtype)->read_levels(whole, &s, first, some, part);
            assert_memory_equal(part, levels + first, (size_t)some * sizeof *part);
        }
        assert_memory_equal(parts, whole, dtype_bytes(dtype, COUNT));
    }
    arena_free(arena);
}

/* Ties go to the even level; a NaN stays visible; infinities and huge values clamp; no -0. */
static void test_quantizer_edges(void **state) {
    (void)state;
    const float scale = 0.5f;
    Scales s = {9, 9, 1, DTYPE_F32, grid_signed(4), &scale, NULL};
    const float x[9] = {0.25f, 0.75f, -0.25f, -0.75f, NAN, INFINITY, -INFINITY, 3e38f, -1e-30f};
    float levels[9];
    quantize_levels(x, &s, 0, 9, levels);
    const float expected[9] = {0, 2, 0, -2, 0, 7, -8, 7, 0};
    for (int i = 0; i < 9; i++) {
        if (i == 4)
            assert_true(isnan(levels[i]));
        else
            assert_int_equal(bits_of(levels[i]), bits_of(expected[i]));
    }
    uint8_t codes[5];
    dtype_codec(dtype_integer(s.grid.bits))
        ->write_levels(levels, &s, 0, 9, codes); /* must not trap on the NaN */
    assert_int_equal(codes[0], 0xa8); /* levels 0 and 2 are codes 8 and 10, the first one low */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_grids),
        cmocka_unit_test(test_f16_decodes_all_patterns),
        cmocka_unit_test(test_half_formats_round_trip),
        cmocka_unit_test(test_half_formats_round_to_even),
        cmocka_unit_test(test_half_formats_overflow),
        cmocka_unit_test(test_scale_numbers),
        cmocka_unit_test(test_integer_formats),
        cmocka_unit_test(test_ternary_bytes),
        cmocka_unit_test(test_nibbles),
        cmocka_unit_test(test_every_code),
        cmocka_unit_test(test_pack_in_parts),
        cmocka_unit_test(test_quantizer_edges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
