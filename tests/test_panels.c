/* Matrices in panels: the values of the same in rows, and the bits of their products. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/gemm.h"
#include "core/kernels.h"
#include "core/panels.h"
#include "tests/storages.h"

static Arena *arena;
static const char *const isas[] = {"baseline", "avx2", "avx512"};

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

/* A matrix of a kind that can lie in panels: several panels, runs and tiles of words, and of f32 a
 * last panel that is narrow. */
typedef struct Kind {
    Storage storage;
    int64_t rows, columns;
} Kind;

static const Kind kinds[] = {
    {{.dtype = DTYPE_F32}, 16, 5},
    {{.dtype = DTYPE_F32}, 80, 70},
    {{.dtype = DTYPE_F16}, 64, 50},
    {{.dtype = DTYPE_BF16}, 32, 134},
    {{.dtype = DTYPE_NF4, .scale_dtype = DTYPE_F32}, 96, 192},
    {{.dtype = DTYPE_NF4, .block = 24, .scale_dtype = DTYPE_DYNAMIC8}, 64, 264},
    {{.dtype = DTYPE_NF4, .block = 8, .scale_dtype = DTYPE_F16}, 32, 8},
    {{.dtype = DTYPE_NF4, .scale_dtype = DTYPE_F32}, 288, 640}, /* several at once, and one */
    {{.dtype = DTYPE_FP4, .block = 128, .scale_dtype = DTYPE_BF16}, 32, 384},
    {{.dtype = DTYPE_INT4, .scale_dtype = DTYPE_F32}, 64, 72},
    {{.dtype = DTYPE_INT4, .block = 32, .scale_dtype = DTYPE_F16}, 32, 136}, /* its last run: 8 */
};

enum { KINDS = sizeof kinds / sizeof *kinds };

static Tensor rows_of(const Kind *kind) {
    return storages_draw(arena, SHAPE(kind->rows, kind->columns), 3, &kind->storage);
}

static Tensor panels_of(const Kind *kind) {
    Tensor t = rows_of(kind);
    assert_true(panels_fit(&t));
    panels_lay(&t, arena);
    assert_int_equal(t.layout, LAYOUT_PANELS);
    return t;
}

static void fail_at(const Kind *kind, const char *what, int64_t at) {
    fail_msg("%s, block %ld: %s, %ld", dtype_name(kind->storage.dtype), (long)kind->storage.block,
             what, (long)at);
}

/* From anywhere on, any number. */
static void values_stay(void **state) {
    (void)state;
    for (const Kind *kind = kinds; kind < kinds + KINDS; kind++) {
        Tensor rows = rows_of(kind), panels = panels_of(kind);
        int64_t count = tensor_count(&rows);
        float *expected = arena_new_array(arena, float, count);
        float *values = arena_new_array(arena, float, count);
        tensor_decode(&rows, expected);
        for (int64_t first = 0; first < count; first += 1 + first / 3)
            for (int64_t some = 1; first + some <= count; some += 1 + some / 2) {
                tensor_decode_part(&panels, first, some, values);
                if (memcmp(values, expected + first, sizeof *values * (size_t)some) != 0)
                    fail_at(kind, "other values from", first);
            }
        tensor_decode(&panels, values);
        assert_memory_equal(values, expected, sizeof *values * (size_t)count);
    }
}

/* y = x W^T, which they are made for, and dx = dy W; anew, and added to what is there. */
static void check_products(const Kind *kind, const Tensor *rows, const Tensor *panels, int64_t m) {
    for (int is_back = 0; is_back < 2; is_back++)
        for (int beta = 0; beta < 2; beta++) {
            int64_t k = is_back ? kind->rows : kind->columns,
                    n = is_back ? kind->columns : kind->rows;
            const Storage f32 = {.dtype = DTYPE_F32};
            Matrix x = matrix_of(storages_draw(arena, SHAPE(m, k), 4, &f32));
            const Tensor *weights[] = {rows, panels};
            float *y[2];
            for (int i = 0; i < 2; i++) {
                Matrix w = matrix_of(*weights[i]);
                w.is_transposed = !is_back;
                y[i] = storages_values(arena, m * n, 5);
                gemm(x, w, (float)beta, y[i], n, NULL, arena);
            }
            if (memcmp(y[0], y[1], sizeof(float) * (size_t)(m * n)) != 0)
                fail_at(kind, is_back ? "other dx of rows" : "other y of rows", m);
        }
}

static void products_have_the_same_bits(void **state) {
    (void)state;
    static const int64_t counts[] = {1, 2, 3, 4, 5, 16, 17, 40};
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        Error err = {0};
        setenv("NIBBLE_ISA", isas[i], 1);
        if (!kernels_init(&err)) continue;
        for (const Kind *kind = kinds; kind < kinds + KINDS; kind++) {
            Tensor rows = rows_of(kind), panels = panels_of(kind);
            for (size_t m = 0; m < sizeof counts / sizeof *counts; m++) {
                ArenaMark mark = arena_mark(arena);
                check_products(kind, &rows, &panels, counts[m]);
                arena_rewind(arena, mark);
            }
        }
    }
    unsetenv("NIBBLE_ISA");
    Error err = {0};
    assert_true(kernels_init(&err));
}

/* A bias is added, and what a caller takes comes whole, where blocks of f32 are read in place. */
static void epilogues_see_all(void **state) {
    (void)state;
    for (const Kind *kind = kinds; kind < kinds + KINDS; kind++) {
        const Storage f32 = {.dtype = DTYPE_F32};
        const Tensor weights[] = {rows_of(kind), panels_of(kind)};
        Matrix x = matrix_of(storages_draw(arena, SHAPE(1, kind->columns), 4, &f32));
        Epilogue epilogue = {.bias = storages_values(arena, kind->rows, 6)};
        float y[2][288];
        for (int i = 0; i < 2; i++)
            gemm(x, matrix_transposed(matrix_of(weights[i])), 0, y[i], kind->rows, &epilogue,
                 arena);
        assert_memory_equal(y[0], y[1], sizeof(float) * (size_t)kind->rows);
    }
}

/* What takes as many bytes for codes takes them; scales are f32. */
static void codes_take_the_same_memory(void **state) {
    (void)state;
    for (const Kind *kind = kinds; kind < kinds + KINDS; kind++) {
        Tensor t = rows_of(kind);
        void *data = t.data;
        panels_lay(&t, arena);
        assert_ptr_equal(t.data, data);
    }
}

/* Rows that fill no panel or no words, scales that change within one, zero points, and levels that
 * are multiplied as such. */
static void others_do_not_fit(void **state) {
    (void)state;
    static const Kind others[] = {
        {{.dtype = DTYPE_F32}, 24, 8},
        {{.dtype = DTYPE_F16}, 48, 8},
        {{.dtype = DTYPE_F16}, 32, 7},
        {{.dtype = DTYPE_NF4, .scale_dtype = DTYPE_F32}, 48, 64},
        {{.dtype = DTYPE_NF4, .scale_dtype = DTYPE_F32}, 32, 68},
        {{.dtype = DTYPE_NF4, .scale_dtype = DTYPE_F32}, 32, 96}, /* blocks run over rows */
        {{.dtype = DTYPE_NF4, .block = 12, .scale_dtype = DTYPE_F32}, 32, 96},
        {{.dtype = DTYPE_INT4, .block = 32, .scale_dtype = DTYPE_F32, .is_affine = true}, 32, 64},
        {{.dtype = DTYPE_INT8, .block = 32, .scale_dtype = DTYPE_F32}, 32, 64},
    };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        Tensor t = rows_of(&others[i]);
        if (panels_fit(&t)) fail_at(&others[i], "fits", (int64_t)i);
    }
    Tensor panels = panels_of(&kinds[0]), vector = rows_of(&kinds[0]);
    assert_false(panels_fit(&panels));
    vector.shape = SHAPE(kinds[0].rows * kinds[0].columns);
    assert_false(panels_fit(&vector));
    Tensor levels = rows_of(&kinds[9]);
    assert_true(tensor_holds_levels(&levels));
    panels_lay(&levels, arena);
    assert_false(tensor_holds_levels(&levels));
}

int main(void) {
    static const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(values_stay),       TEST(products_have_the_same_bits),
        TEST(epilogues_see_all), TEST(codes_take_the_same_memory),
        TEST(others_do_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
