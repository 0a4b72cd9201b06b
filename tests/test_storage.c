/* Tensors made out of values: levels under scales of groups, values that come in parts, the bytes
 * that they take. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "core/gemm.h"
#include "core/parallel.h"
#include "tests/storages.h"

static Arena *arena;

static int set_up(void **state) {
    (void)state;
    arena = arena_new("test");
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    Error err = {0};
    assert_true(parallel_init(2, &err));
    arena_free(arena);
    return 0;
}

enum { ROWS = 37, COLS = 90, COUNT = ROWS * COLS };

static const Storage level_forms[] = {
    {.dtype = DTYPE_INT4, .block = 32, .scale_dtype = DTYPE_F16},
    {.dtype = DTYPE_INT4, .block = 32, .scale_dtype = DTYPE_F16, .is_affine = true},
    {.dtype = DTYPE_INT8, .scale_dtype = DTYPE_F32},
    {.dtype = DTYPE_INT8, .block = 7, .scale_dtype = DTYPE_BF16, .is_affine = true},
    {.dtype = DTYPE_INT3, .block = 45, .scale_dtype = DTYPE_F32},
};
enum { LEVEL_FORMS = sizeof level_forms / sizeof *level_forms };

/* One group by the formula, in the plainest way. */
static void group_expect(const Storage *form, const float *x, int64_t count, float *values) {
    int codes = 1 << dtype_codec(form->dtype)->code_bits;
    float low = 0, high = 0;
    for (int64_t i = 0; i < count; i++) low = fminf(low, x[i]), high = fmaxf(high, x[i]);
    float span = form->is_affine ? high - low : fmaxf(-low, high);
    float scale =
        dtype_round(form->scale_dtype, span / (float)(form->is_affine ? codes - 1 : codes / 2 - 1));
    float zero = form->is_affine ? fminf(rintf(-low / scale), (float)(codes - 1)) : 0;
    float least = form->is_affine ? -zero : (float)(-codes / 2);
    float most = least + (float)(codes - 1);
    for (int64_t i = 0; i < count; i++) {
        float level = scale > 0 ? rintf(x[i] * (1 / scale)) : 0;
        values[i] = scale * fminf(fmaxf(level, least), most);
    }
}

static void levels_are_the_formula(void **state) {
    (void)state;
    const float *x = storages_values(arena, COUNT, 6);
    float expected[COUNT], found[COUNT];
    for (int f = 0; f < LEVEL_FORMS; f++) {
        const Storage *form = &level_forms[f];
        int64_t block = form->block ? form->block : COLS;
        for (int64_t r = 0; r < ROWS; r++)
            for (int64_t c = 0; c < COLS; c += block)
                group_expect(form, x + r * COLS + c, COLS - c < block ? COLS - c : block,
                             expected + r * COLS + c);
        const Tensor t = storages_encode(arena, x, SHAPE(ROWS, COLS), form);
        tensor_decode(&t, found);
        for (int i = 0; i < COUNT; i++)
            if (!(found[i] == expected[i]))
                fail_msg("form %d, element %d: %g is kept as %g instead of %g", f, i, (double)x[i],
                         (double)found[i], (double)expected[i]);
    }
}

/* Levels times values: the product of the decoded values, to the bit. */
static void products_read_levels_of_groups(void **state) {
    (void)state;
    enum { M = 9 };
    Tensor x = storages_draw(arena, SHAPE(M, COLS), 1, &(Storage){.dtype = DTYPE_F32});
    Tensor dy = storages_draw(arena, SHAPE(M, ROWS), 2, &(Storage){.dtype = DTYPE_F32});
    for (int f = 0; f < LEVEL_FORMS; f++) {
        Tensor w = storages_draw(arena, SHAPE(ROWS, COLS), 3, &level_forms[f]);
        Tensor plain = storages_plain(arena, &w);
        float y[2][M * ROWS], dx[2][M * COLS];
        gemm(matrix_of(x), matrix_transposed(matrix_of(w)), 0, y[0], ROWS, NULL, arena);
        gemm(matrix_of(x), matrix_transposed(matrix_of(plain)), 0, y[1], ROWS, NULL, arena);
        assert_memory_equal(y[0], y[1], sizeof y[0]);
        gemm(matrix_of(dy), matrix_of(w), 0, dx[0], COLS, NULL, arena);
        gemm(matrix_of(dy), matrix_of(plain), 0, dx[1], COLS, NULL, arena);
        assert_memory_equal(dx[0], dx[1], sizeof dx[0]);
    }
}

static void bytes_are_foretold(void **state) {
    (void)state;
    const float *x = storages_values(arena, COUNT, 7);
    Storages all = storages_make();
    for (int i = 0; i < LEVEL_FORMS; i++) all.all[all.count++] = level_forms[i];
    assert_true(all.count <= STORAGES_MAX);
    for (int i = 0; i < all.count; i++) {
        const Tensor t = storages_encode(arena, x, SHAPE(ROWS, COLS), &all.all[i]);
        assert_int_equal(storage_bytes(&all.all[i], SHAPE(ROWS, COLS)), tensor_bytes(&t));
    }
    /* QLoRA's: 4 bits, 8 for 64, 32 for 64 x 256 */
    const Storage qlora = {.dtype = DTYPE_NF4, .scale_dtype = DTYPE_DYNAMIC8};
    double bits = 8.0 * (double)storage_bytes(&qlora, SHAPE(4096, 4096)) / (4096.0 * 4096);
    assert_true(bits > 4.125 && bits < 4.13);
}

/* ---- In parts ---- */

enum { LARGE_ROWS = 700, LARGE_COLS = 333, LARGE = LARGE_ROWS * LARGE_COLS };

typedef struct Source {
    const float *values;
    int64_t bad; /* reading it fails */
} Source;

static bool read_some(void *context, int64_t first, int64_t count, float *values, Error *err) {
    const Source *s = context;
    assert_true(first >= 0 && count > 0 && first + count <= LARGE);
    if (s->bad >= first && s->bad < first + count)
        return FAIL(err, ERROR_SYSTEM, "part %ld is gone", (long)first);
    memcpy(values, s->values + first, sizeof *values * (size_t)count);
    return true;
}

static void encode_large(const Source *s, const Storage *form, Tensor *out) {
    Error err = {0};
    ValueSource source = {read_some, (void *)(uintptr_t)s};
    if (!tensor_encode_from(arena, &source, SHAPE(LARGE_ROWS, LARGE_COLS), form, out, &err))
        fail_msg("%s", err.message);
}

static void expect_same(const Tensor *a, const Tensor *b) {
    assert_memory_equal(a->data, b->data, dtype_bytes(a->dtype, tensor_count(a)));
    if (!a->scales) return;
    assert_true(a->scales->offset == b->scales->offset);
    if (a->scales->zero)
        assert_memory_equal(a->scales->zero, b->scales->zero,
                            sizeof(float) * (size_t)a->scales->count);
    expect_same(a->scales->stored, b->scales->stored);
}

static void threads_change_no_bit(void **state) {
    (void)state;
    const Source source = {storages_values(arena, LARGE, 8), -1};
    Storages all = storages_make();
    for (int i = 0; i < LEVEL_FORMS; i++) all.all[all.count++] = level_forms[i];
    for (int i = 0; i < all.count; i++) {
        Tensor by[3];
        Error err = {0};
        for (int threads = 1; threads <= 3; threads++) {
            assert_true(parallel_init(threads, &err));
            encode_large(&source, &all.all[i], &by[threads - 1]);
        }
        expect_same(&by[0], &by[1]);
        expect_same(&by[0], &by[2]);
        if (all.all[i].dtype == DTYPE_UDYNAMIC8) continue; /* of magnitudes */
        float *kept = arena_new_array(arena, float, LARGE), worst = 0, largest = 0;
        tensor_decode(&by[0], kept);
        for (int64_t k = 0; k < LARGE; k++) {
            worst = fmaxf(worst, fabsf(kept[k] - source.values[k]));
            largest = fmaxf(largest, fabsf(source.values[k]));
        }
        assert_true(worst < 0.25f * largest);
    }
}

/* Of many things that are wrong the first is told. */
static void the_first_fault_is_told(void **state) {
    (void)state;
    float *x = storages_values(arena, LARGE, 9);
    x[200000] = NAN;
    x[100001] = INFINITY;
    const Source bad_values = {x, 210000}, gone = {x, 70000};
    const Storage forms[] = {{.dtype = DTYPE_F16}, {.dtype = DTYPE_NF4}, level_forms[1]};
    for (int f = 0; f < 3; f++) {
        Tensor t;
        Error err = {0};
        ValueSource source = {read_some, (void *)(uintptr_t)&bad_values};
        assert_false(
            tensor_encode_from(arena, &source, SHAPE(LARGE_ROWS, LARGE_COLS), &forms[f], &t, &err));
        assert_int_equal(err.code, ERROR_NUMERIC);
        if (!strstr(err.message, "element 100001 is inf: only finite"))
            fail_msg("it says: %s", err.message);
        source.context = (void *)(uintptr_t)&gone;
        err = (Error){0};
        assert_false(
            tensor_encode_from(arena, &source, SHAPE(LARGE_ROWS, LARGE_COLS), &forms[f], &t, &err));
        assert_int_equal(err.code, ERROR_SYSTEM);
        assert_non_null(strstr(err.message, "is gone"));
    }
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(levels_are_the_formula, set_up, tear_down),
        cmocka_unit_test_setup_teardown(products_read_levels_of_groups, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bytes_are_foretold, set_up, tear_down),
        cmocka_unit_test_setup_teardown(threads_change_no_bit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_first_fault_is_told, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
