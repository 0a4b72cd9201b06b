/* Formats that store entries of a codebook: nearest entries, any part decodes alike, scales in any
 * format, and the same codes and scales as bitsandbytes (golden/make_codebook.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <unistd.h>

#include "core/codebook.h"
#include "core/kernels/operand.h"
#include "tests/golden.h"
#include "tests/storages.h"

static Arena *arena;

static int set_up(void **state) {
    (void)state;
    arena = arena_new("test");
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    arena_free(arena);
    return 0;
}

static int code_of(const Tensor *t, int64_t element) {
    const uint8_t *codes = t->data;
    if (dtype_codec(t->dtype)->code_bits == 8) return codes[element];
    return codes[element / 2] >> (element % 2 * 4) & 15;
}

static void an_entry_is_the_nearest(void **state) {
    (void)state;
    static const float entries[16] = {-1,    -0.5f, -0.25f, -0.1f, 0,    0.1f,  0.125f, 0.25f,
                                      0.26f, 0.5f,  0.6f,   0.7f,  0.8f, 0.81f, 0.9f,   1};
    const Codebook book = {4, entries, NULL, NULL};
    for (int i = 0; i < 16; i++) assert_int_equal(codebook_nearest(&book, entries[i]), i);
    for (int i = 0; i < 15; i++) { /* on the middle: the lower one */
        float middle = (entries[i] + entries[i + 1]) / 2;
        assert_int_equal(codebook_nearest(&book, middle), i);
        assert_int_equal(codebook_nearest(&book, nextafterf(middle, 2)), i + 1);
    }
    assert_int_equal(codebook_nearest(&book, -INFINITY), 0);
    assert_int_equal(codebook_nearest(&book, INFINITY), 15);
    assert_int_equal(codebook_nearest(&book, NAN), 0);
}

/* ---- Every row, with scales of every format. ---- */

enum { COUNT = 1403 };

/* All values that codes can stand for under scale 1. */
static int entries_of(Dtype dtype, float entries[256]) {
    const float one = 1;
    const Scales scales = {.row_length = 256, .run_length = 256, .count = 1, .scale = &one};
    int count = 1 << dtype_codec(dtype)->code_bits;
    uint8_t codes[256] = {0};
    for (int i = 0; i < count; i++)
        codes[count == 16 ? i / 2 : i] |= (uint8_t)(count == 16 ? i << (i % 2 * 4) : i);
    dtype_decode(dtype, codes, &scales, 0, count, entries);
    return count;
}

static void entries_ascend_to_one(void **state) {
    (void)state;
    for (int d = 0; d < DTYPE_COUNT; d++) {
        if (dtype_codec((Dtype)d)->stores != CODE_ENTRY) continue;
        float entries[256];
        int count = entries_of((Dtype)d, entries);
        if ((Dtype)d == DTYPE_FP4) continue; /* its codes are numbers of their own */
        assert_true(entries[0] == 0 || (entries[0] >= -1 && entries[0] < -0.99f));
        assert_true(entries[count - 1] == 1);
        for (int i = 1; i < count; i++) assert_true(entries[i] > entries[i - 1]);
    }
}

/* Sign, two bits of exponent, one of mantissa; the largest is 12 twelfths. */
static void fp4_is_a_floating_point_number(void **state) {
    (void)state;
    float entries[256];
    assert_int_equal(entries_of(DTYPE_FP4, entries), 16);
    static const float twelfths[8] = {0, 1 / 16.0f, 8, 12, 4, 6, 2, 3};
    for (int i = 0; i < 16; i++) {
        float expected = twelfths[i % 8] / 12;
        assert_float_equal(entries[i], i < 8 ? expected : -expected, 1e-7f);
    }
    const float tiny[] = {1, 1e-4f, -1e-4f, 0};
    const Tensor t = storages_encode(arena, tiny, SHAPE(4), &(Storage){DTYPE_FP4});
    assert_int_equal(code_of(&t, 1), 8); /* of the two zeros */
    assert_int_equal(code_of(&t, 2), 0);
    assert_int_equal(code_of(&t, 3), 0);
}

/* A scale as it is kept is `fitted`, rounded once in numbers, and nearly it in codes. */
static void check_scales(const Tensor *t, const float *x, const Storage *storage) {
    const Codec *codec = dtype_codec(storage->dtype);
    const Scales *s = t->scales;
    int64_t block = storage->block ? storage->block : codec->block;
    float largest = 0;
    assert_int_equal(s->count, (COUNT + block - 1) / block);
    assert_int_equal(s->dtype, storage->scale_dtype);
    for (int64_t i = 0; i < s->count; i++) {
        int64_t some = COUNT - i * block < block ? COUNT - i * block : block;
        largest = fmaxf(largest, codec->fit(x + i * block, some, block));
    }
    for (int64_t i = 0; i < s->count; i++) {
        int64_t some = COUNT - i * block < block ? COUNT - i * block : block;
        float fitted = codec->fit(x + i * block, some, block), kept = scales_read(s, i);
        if (dtype_codec(storage->scale_dtype)->stores == CODE_NUMBER)
            assert_true(kept == dtype_round(storage->scale_dtype, fitted));
        else
            assert_true(fabsf(kept - fitted) <= 0.08f * largest);
    }
}

/* No entry is nearer under the scale as fitted, but for what a table of 2^16 places loses. */
static void check_nearest(const Tensor *t, const float *x, int64_t block) {
    const Codec *codec = dtype_codec(t->dtype);
    float entries[256];
    int count = entries_of(t->dtype, entries);
    for (int64_t i = 0; i < COUNT; i++) {
        int64_t first = i / block * block, some = COUNT - first < block ? COUNT - first : block;
        float scale = codec->fit(x + first, some, block), best = INFINITY;
        for (int c = 0; c < count; c++) best = fminf(best, fabsf(x[i] - scale * entries[c]));
        float error = fabsf(x[i] - scale * entries[code_of(t, i)]);
        if (error > best + scale * 4e-5f)
            fail_msg("%s, element %ld: %g became %g", codec->name, (long)i, (double)x[i],
                     (double)(scale * entries[code_of(t, i)]));
    }
}

/* Whatever part is asked for; one element at a time with its scale and entry. */
static void check_parts(const Tensor *t) {
    static float all[COUNT], part[COUNT + 1];
    float entries[256];
    entries_of(t->dtype, entries);
    tensor_decode(t, all);
    for (int64_t i = 0; i < COUNT; i++) {
        int64_t number;
        scales_run(t->scales, i, &number);
        assert_true(all[i] == scales_read(t->scales, number) * entries[code_of(t, i)]);
    }
    for (int64_t first = 0; first < COUNT; first += first < 70 ? 1 : 97)
        for (int64_t count = COUNT - first; count > 0; count = count * 2 / 3) {
            part[count] = 99;
            operand_read(t, first, count, part);
            assert_memory_equal(part, all + first, sizeof *part * (size_t)count);
            assert_true(part[count] == 99);
            operand_read_values(t, first, count, part);
            assert_memory_equal(part, all + first, sizeof *part * (size_t)count);
        }
}

static void rows_store_and_read_back(void **state) {
    (void)state;
    Storages storages = storages_make();
    const float *x = storages_values(arena, COUNT, 1);
    for (int d = 0; d < DTYPE_COUNT; d++) /* blocks that are staged in parts */
        if (dtype_codec((Dtype)d)->stores == CODE_ENTRY)
            storages.all[storages.count++] = (Storage){.dtype = (Dtype)d, .block = 1200};
    int codebooks = 0;
    for (int i = 0; i < storages.count; i++) {
        const Storage *storage = &storages.all[i];
        const Codec *codec = dtype_codec(storage->dtype);
        const Tensor t =
            storages_encode(arena, x, SHAPE(23, 61), storage); /* blocks run over rows */
        assert_false(tensor_holds_levels(&t));
        if (codec->stores == CODE_NUMBER) {
            assert_null(t.scales);
            continue;
        }
        codebooks++;
        int64_t block = storage->block ? storage->block : codec->block;
        check_scales(&t, x, storage);
        check_nearest(&t, x, block);
        check_parts(&t);
    }
    assert_true(codebooks > 0);
}

/* Codes do not depend on what lay there before. */
static void codes_are_written_whole(void **state) {
    (void)state;
    const float *x = storages_values(arena, COUNT, 3);
    for (int d = 0; d < DTYPE_COUNT; d++) {
        const Codec *codec = dtype_codec((Dtype)d);
        if (codec->stores != CODE_ENTRY) continue;
        const Tensor t = storages_encode(arena, x, SHAPE(COUNT), &(Storage){.dtype = (Dtype)d});
        size_t bytes = dtype_bytes((Dtype)d, COUNT);
        uint8_t *again = arena_zalloc(arena, bytes);
        memset(again, 0xff, bytes);
        codec->encode(x, COUNT, t.scales, again);
        assert_memory_equal(again, t.data, bytes);
    }
}

static int nf4_code(const float *x, int64_t count, int64_t block, int64_t element) {
    const Storage storage = {.dtype = DTYPE_NF4, .block = block};
    const Tensor t = storages_encode(arena, x, SHAPE(count), &storage);
    return code_of(&t, element);
}

/* Whole blocks are multiplied by the reciprocal of their scale, a shorter one is divided: where the
 * two differ, one is above the middle of entries 8 and 9. Its scale is never 0. */
static void nf4_divides_short_blocks(void **state) {
    (void)state;
    enum { BLOCK = 64, SHORT = 10, LONG = 1200, LATE = 600 };
    static float x[LONG];
    float entries[256];
    int differ = 0;
    entries_of(DTYPE_NF4, entries);
    float middle = (entries[8] + entries[9]) / 2;
    for (int i = 0; i < 500; i++) {
        float scale = 1 + (float)i / 499, near = middle * scale;
        float product = near * (1 / scale), quotient = near / scale;
        if ((product > middle) == (quotient > middle)) continue;
        differ++;
        memset(x, 0, sizeof x);
        x[0] = scale, x[1] = x[LATE] = near;
        assert_int_equal(nf4_code(x, BLOCK, BLOCK, 1), 8 + (product > middle));
        assert_int_equal(nf4_code(x, LONG, LONG, LATE), 8 + (product > middle));
        assert_int_equal(nf4_code(x, SHORT, BLOCK, 1), 8 + (quotient > middle));
    }
    assert_true(differ > 10);
    memset(x, 0, sizeof x);
    const Tensor t = storages_encode(arena, x, SHAPE(BLOCK + SHORT), &(Storage){DTYPE_NF4});
    assert_true(t.scales->scale[0] == 0 && t.scales->scale[1] == 1e-38f);
    assert_int_equal(code_of(&t, 0), 7);
    assert_int_equal(code_of(&t, BLOCK), 7);
}

/* The signed dynamic map: of decade d 2^(d + 6) middles of equal parts of 10^d [0.1, 1], either
 * sign. */
static void dynamic8_is_the_formula(void **state) {
    (void)state;
    float entries[256];
    int at = 128;
    entries_of(DTYPE_DYNAMIC8, entries);
    for (int d = -6; d <= 0; d++)
        for (int parts = 1 << (d + 6), i = 0; i < parts; i++, at++) {
            double expected = pow(10, d) * (0.1 + 0.9 * (i + 0.5) / parts);
            assert_true(fabs((double)entries[at] - expected) <= 3e-7 * expected);
            assert_true(entries[254 - at] == -entries[at]);
        }
    assert_int_equal(at, 255);
    assert_true(entries[127] == 0);
}

/* The unsigned one has twice as many, all above 0. */
static void udynamic8_is_the_formula(void **state) {
    (void)state;
    float entries[256];
    int at = 1;
    entries_of(DTYPE_UDYNAMIC8, entries);
    for (int d = -6; d <= 0; d++)
        for (int parts = 1 << (d + 7), i = 0; i < parts; i++, at++) {
            double expected = pow(10, d) * (0.1 + 0.9 * (i + 0.5) / parts);
            assert_true(fabs((double)entries[at] - expected) <= 3e-7 * expected);
        }
    assert_int_equal(at, 255);
    assert_true(entries[0] == 0 && entries[255] == 1);
}

static int code_at_place(const Codebook *book, float unit) {
    float place = floorf((unit + 1) * 32767.5f + 0.5f);
    return codebook_nearest(book, -1 + 2 * place / 65535);
}

/* Values are multiplied by the reciprocal of their scale: sought where dividing gives another code,
 * on the edge of two places that have different ones. */
static void dynamic8_multiplies(void **state) {
    (void)state;
    float entries[256];
    const Codebook book = {8, entries, NULL, NULL};
    entries_of(DTYPE_DYNAMIC8, entries);
    int differ = 0;
    for (int i = 0; i < 100000; i++) {
        float middle = (entries[i % 255] + entries[i % 255 + 1]) / 2, scale = 1 + (float)i / 100000;
        double place = floor(((double)middle + 1) * 32767.5) + i % 2;
        const float x[2] = {scale, scale * (float)((place + 0.5) / 32767.5 - 1)};
        int code = code_at_place(&book, x[1] * (1 / scale));
        if (code == code_at_place(&book, x[1] / scale)) continue;
        const Tensor t = storages_encode(arena, x, SHAPE(2), &(Storage){.dtype = DTYPE_DYNAMIC8});
        assert_int_equal(code_of(&t, 1), code);
        differ++;
    }
    assert_true(differ > 100);
}

/* 4 bits and a scale of 8 for 64 of them, and an f32 for 256 scales: what is saved in memory too.
 */
static void doubly_quantized_scales_are_small(void **state) {
    (void)state;
    enum { LARGE = 1 << 16 };
    const float *x = storages_values(arena, LARGE, 2);
    const Storage twice = {DTYPE_DYNAMIC8, 64, DTYPE_DYNAMIC8, 0};
    const Tensor t = storages_encode(arena, x, SHAPE(LARGE), &twice);
    assert_null(t.scales->scale);
    assert_int_equal(tensor_bytes(&t), LARGE + LARGE / 64 + 4 * (LARGE / 64 / 256) + 4);
    const Storage once = {.dtype = DTYPE_DYNAMIC8, .block = 64};
    const Tensor plain = storages_encode(arena, x, SHAPE(LARGE), &once);
    assert_int_equal(tensor_bytes(&plain), LARGE + 4 * (LARGE / 64));
    assert_memory_equal(plain.data, t.data, LARGE); /* codes are found under scales as fitted */
}

/* ---- bitsandbytes ---- */

static void expect_codes(const GoldenCase *c, const char *name, const Tensor *t) {
    const GoldenTensor *expected = golden_tensor(c, name);
    for (int64_t i = 0; i < shape_count(expected->shape); i++)
        if (code_of(t, i) != (int)expected->values[i])
            fail_msg("%s %s, %s %ld is %d instead of %d", dtype_name(t->dtype), c->name, name,
                     (long)i, code_of(t, i), (int)expected->values[i]);
}

static void expect_bits(const GoldenCase *c, const char *name, const float *values) {
    const GoldenTensor *expected = golden_tensor(c, name);
    for (int64_t i = 0; i < shape_count(expected->shape); i++)
        if (memcmp(&values[i], &expected->values[i], sizeof *values) != 0)
            fail_msg("%s, %s %ld is %.9g instead of %.9g", c->name, name, (long)i,
                     (double)values[i], (double)expected->values[i]);
}

/* The mean differs with the order in which the other program sums; what follows from it does not.
 */
static void check_double(const GoldenCase *c, const Tensor *t, Storage form) {
    const GoldenTensor *x = golden_tensor(c, "x");
    const Tensor once = storages_encode(arena, x->values, x->shape,
                                        &(Storage){.dtype = t->dtype, .block = form.block});
    int64_t count = t->scales->count;
    float *rest = arena_new_array(arena, float, count), offset = golden_number(c, "offset");
    assert_true(fabsf(t->scales->offset - offset) <= 1e-6f * offset);
    for (int64_t i = 0; i < count; i++) rest[i] = once.scales->scale[i] - offset;
    Storage scales = {.dtype = form.scale_dtype, .block = form.scale_block};
    Tensor stored = storages_encode(arena, rest, SHAPE(count), &scales);
    expect_codes(c, "scale_codes", &stored);
    expect_bits(c, "scale_scale", stored.scales->scale);
    Scales theirs = *t->scales;
    theirs.stored = &stored, theirs.offset = offset;
    Tensor read = *t;
    read.scales = &theirs;
    float *y = arena_new_array(arena, float, tensor_count(t));
    tensor_decode(&read, y);
    expect_bits(c, "y", y);
}

static void check_golden(Dtype dtype, const GoldenCase *c) {
    bool is_double = !strcmp(c->name, "double");
    const GoldenTensor *x = golden_tensor(c, "x");
    Storage form = {.dtype = dtype, .block = (int64_t)golden_number(c, "block")};
    if (is_double) {
        form.scale_dtype = DTYPE_DYNAMIC8;
        form.scale_block = (int64_t)golden_number(c, "scale_block");
        assert_int_equal(form.scale_block, dtype_codec(DTYPE_DYNAMIC8)->block);
    }
    const Tensor t = storages_encode(arena, x->values, x->shape, &form);
    expect_codes(c, "codes", &t);
    if (is_double) {
        check_double(c, &t, form);
        return;
    }
    assert_int_equal(form.block, dtype_codec(dtype)->block);
    expect_bits(c, "scale", t.scales->scale);
    float *y = arena_new_array(arena, float, tensor_count(&t));
    tensor_decode(&t, y);
    expect_bits(c, "y", y);
}

static void rows_equal_bitsandbytes(void **state) {
    (void)state;
    for (int d = 0; d < DTYPE_COUNT; d++) {
        const char *path =
            arena_format(arena, "tests/golden/codebook_%s.txt", dtype_name((Dtype)d));
        bool is_codebook = dtype_codec((Dtype)d)->stores == CODE_ENTRY;
        assert_int_equal(access(path, R_OK) == 0, is_codebook);
        if (!is_codebook) continue;
        Golden golden = golden_open(path, arena);
        GoldenCase c;
        while (golden_next(&golden, &c)) check_golden((Dtype)d, &c);
        assert_true(golden.cases > 0);
        golden_close(&golden);
    }
}

static void assert_refused(float x, const Storage *storage, const char *reason) {
    enum { SOME = 200 };
    float *values = storages_values(arena, SOME, 4);
    values[130] = x;
    Tensor stored;
    Error err = {0};
    assert_false(tensor_encode(arena, values, SHAPE(SOME), storage, &stored, &err));
    assert_int_equal(err.code, ERROR_NUMERIC);
    if (!strstr(err.message, reason)) fail_msg("it says: %s", err.message);
}

/* One element would take its block with it. */
static void what_cannot_be_stored_is_refused(void **state) {
    (void)state;
    const float bad[] = {NAN, INFINITY, -INFINITY};
    const Storages storages = storages_make();
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < storages.count; j++)
            assert_refused(bad[i], &storages.all[j], "element 130 is");
    assert_refused(1e5f, &(Storage){.dtype = DTYPE_F16}, "element 130 is 100000, which f16");
    assert_refused(1e5f, &(Storage){.dtype = DTYPE_NF4, .block = 8, .scale_dtype = DTYPE_F16},
                   "scales of blocks of 8: element 16 is 100000, which f16 cannot hold");
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_entry_is_the_nearest),
        cmocka_unit_test_setup_teardown(entries_ascend_to_one, set_up, tear_down),
        cmocka_unit_test_setup_teardown(rows_store_and_read_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(codes_are_written_whole, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nf4_divides_short_blocks, set_up, tear_down),
        cmocka_unit_test_setup_teardown(fp4_is_a_floating_point_number, set_up, tear_down),
        cmocka_unit_test_setup_teardown(dynamic8_is_the_formula, set_up, tear_down),
        cmocka_unit_test_setup_teardown(udynamic8_is_the_formula, set_up, tear_down),
        cmocka_unit_test_setup_teardown(dynamic8_multiplies, set_up, tear_down),
        cmocka_unit_test_setup_teardown(doubly_quantized_scales_are_small, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_cannot_be_stored_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(rows_equal_bitsandbytes, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
