/* Products and convolutions of numbers stored in any way the rows of core/dtype.def have, with
 * scales in any way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/conv.h"
#include "core/gemm.h"
#include "core/kernels.h"
#include "core/parallel.h"
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

static Tensor drawn(Shape shape, uint64_t seed, const Storage *storage) {
    return storages_draw(arena, shape, seed, storage);
}

static Tensor plain_of(const Tensor *stored) {
    return storages_plain(arena, stored);
}

typedef struct Sizes {
    int64_t m, n, k;
} Sizes;

/* As `a`, as `b` and as both (of_which 1, 2, 3), either way round: near the reference, and the bits
 * of the decoded values. */
static void check_gemm(Sizes s, const Storage *storage, int turned, int of_which) {
    Shape a_shape = turned & 1 ? SHAPE(s.k, s.m) : SHAPE(s.m, s.k);
    Shape b_shape = turned & 2 ? SHAPE(s.n, s.k) : SHAPE(s.k, s.n);
    const Storage f32 = {.dtype = DTYPE_F32};
    Tensor t[2] = {drawn(a_shape, 1, of_which & 1 ? storage : &f32),
                   drawn(b_shape, 2, of_which & 2 ? storage : &f32)};
    Matrix a[2], b[2];
    for (int is_decoded = 0; is_decoded < 2; is_decoded++) {
        a[is_decoded] = matrix_of(is_decoded ? plain_of(&t[0]) : t[0]);
        b[is_decoded] = matrix_of(is_decoded ? plain_of(&t[1]) : t[1]);
        a[is_decoded].is_transposed = turned & 1, b[is_decoded].is_transposed = turned & 2;
    }
    int64_t count = s.m * s.n;
    float *y[3];
    for (int i = 0; i < 3; i++) y[i] = arena_new_array(arena, float, count);
    gemm(a[0], b[0], 0, y[0], s.n, NULL, arena);
    gemm(a[1], b[1], 0, y[1], s.n, NULL, arena);
    gemm_reference(a[1], b[1], 0, y[2], s.n, NULL);
    assert_memory_equal(y[0], y[1], sizeof(float) * (size_t)count);
    for (int64_t i = 0; i < count; i++)
        if (!(fabsf(y[0][i] - y[2][i]) <= 1e-4f * (float)s.k))
            fail_msg("%s: %g instead of %g", dtype_name(storage->dtype), (double)y[0][i],
                     (double)y[2][i]);
}

/* `ways`: bits of the ways round. */
static void check_sizes(const Sizes *sizes, size_t count, int ways) {
    const Storages storages = storages_make();
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        Error err = {0};
        setenv("NIBBLE_ISA", isas[i], 1);
        if (!kernels_init(&err)) continue;
        for (int j = 0; j < storages.count; j++)
            for (size_t k = 0; k < count; k++)
                for (int turned = 0; turned < 4; turned++)
                    for (int of_which = 1; of_which < 4; of_which++)
                        if (ways >> turned & 1)
                            check_gemm(sizes[k], &storages.all[j], turned, of_which);
    }
    unsetenv("NIBBLE_ISA");
    Error err = {0};
    assert_true(kernels_init(&err));
}

static void products_read_any_storage(void **state) {
    (void)state;
    static const Sizes sizes[] = {{3, 4, 5}, {40, 33, 70}, {7, 130, 61}, {150, 9, 129}};
    check_sizes(sizes, sizeof sizes / sizeof *sizes, 15);
}

/* Codes are decoded as they are multiplied: of rows with several runs of columns, and with more
 * than are turned at a time; of the last block, a few rows. */
static void products_of_few_rows(void **state) {
    (void)state;
    static const Sizes sizes[] = {{1, 40, 264}, {2, 3, 4416}, {3, 70, 72}, {4, 33, 136}};
    check_sizes(sizes, sizeof sizes / sizeof *sizes, 1 << 2);
}

/* Deeper than what is made at a time, of both ways of a layer and few and many rows. */
static void deep_products(void **state) {
    (void)state;
    static const Sizes sizes[] = {{5, 120, 1088}, {40, 33, 2184}, {520, 8, 2056}};
    static const Storage storages[] = {{.dtype = DTYPE_F16},
                                       {.dtype = DTYPE_NF4, .scale_dtype = DTYPE_F32},
                                       {.dtype = DTYPE_FP4, .scale_dtype = DTYPE_DYNAMIC8}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t j = 0; j < sizeof storages / sizeof *storages; j++)
            for (int turned = 0; turned < 4; turned++)
                check_gemm(sizes[i], &storages[j], turned, 2);
}

/* Levels of 4 bits in groups that begin anew in each row, the last one short: with scales of f32,
 * and of other storages. */
static void products_of_groups(void **state) {
    (void)state;
    enum { M = 20, N = 40, K = 72 };
    for (int stored = 0; stored < 2; stored++) {
        for (int64_t group = 8; group <= 80; group += 12) {
            const Storage storage = {
                .dtype = DTYPE_INT4, .block = group, .scale_dtype = stored ? DTYPE_F16 : DTYPE_F32};
            const Tensor w = drawn(SHAPE(N, K), 2, &storage), plain = plain_of(&w);
            for (int turned = 0; turned < 2; turned++) {
                int64_t k = turned ? K : N, n = turned ? N : K;
                const Matrix a = matrix_of(drawn(SHAPE(M, k), 1, &(Storage){.dtype = DTYPE_F32}));
                Matrix b = matrix_of(w), p = matrix_of(plain);
                b.is_transposed = p.is_transposed = turned;
                float y[M * K], expected[M * K];
                gemm(a, b, 0, y, n, NULL, arena);
                gemm(a, p, 0, expected, n, NULL, arena);
                assert_memory_equal(y, expected, sizeof(float) * (size_t)(M * n));
            }
        }
    }
}

/* Levels of 4 bits, under one scale. */
static Tensor levels_drawn(Shape shape) {
    Tensor t = drawn(shape, 5, &(Storage){.dtype = DTYPE_F32});
    float *scale = arena_new_array(arena, float, 1);
    Scales *scales = arena_new_array(arena, Scales, 1);
    *scale = 0.25f;
    int64_t count = shape_count(shape);
    *scales = (Scales){count, count, 1, DTYPE_F32, grid_signed(4), scale};
    quantize_levels(t.data, scales, 0, count, t.data);
    t.scales = scales;
    return t;
}

/* Activations on a grid, and a weight that is none: values are multiplied. */
static void products_of_levels_and_stored_values(void **state) {
    (void)state;
    const Storages storages = storages_make();
    const Tensor x = levels_drawn(SHAPE(5, 8)), plain_x = plain_of(&x);
    for (int j = 0; j < storages.count; j++) {
        const Tensor w = drawn(SHAPE(3, 8), 2, &storages.all[j]), plain_w = plain_of(&w);
        float y[15], expected[15];
        gemm(matrix_of(x), matrix_transposed(matrix_of(w)), 0, y, 3, NULL, arena);
        gemm_reference(matrix_of(plain_x), matrix_transposed(matrix_of(plain_w)), 0, expected, 3,
                       NULL);
        for (int i = 0; i < 15; i++) assert_true(fabsf(y[i] - expected[i]) < 1e-4f);
    }
}

/* Scales of levels may lie in any dtype, with scales of their own: what they mean is multiplied. */
static void levels_have_stored_scales(void **state) {
    (void)state;
    enum { OUT = 6, IN = 40, GROUP = 8, GROUPS = OUT * IN / GROUP };
    const Storages storages = storages_make();
    for (int j = 0; j < storages.count; j++) {
        float *scale = storages_values(arena, GROUPS, 6), x[3 * IN], y[3 * OUT], expected[3 * OUT];
        for (int i = 0; i < GROUPS; i++) scale[i] = 1.0f / 16 + fabsf(scale[i]);
        const Tensor plane = storages_encode(arena, scale, SHAPE(GROUPS), &storages.all[j]);
        tensor_decode(&plane, scale);
        Scales plain = {IN, GROUP, GROUPS, DTYPE_F32, grid_signed(4), scale};
        Scales stored = {.row_length = IN,
                         .run_length = GROUP,
                         .count = GROUPS,
                         .dtype = plane.dtype,
                         .grid = plain.grid,
                         .stored = &plane};
        Tensor w = tensor_zeros(arena, DTYPE_INT4, SHAPE(OUT, IN)), v = w;
        w.scales = &plain, v.scales = &stored;
        dtype_encode(DTYPE_INT4, storages_values(arena, OUT * IN, 7), OUT * IN, &plain, w.data);
        v.data = tensor_zeros(arena, DTYPE_INT4, w.shape).data;
        dtype_encode(DTYPE_INT4, storages_values(arena, OUT * IN, 7), OUT * IN, &stored, v.data);
        assert_memory_equal(v.data, w.data, dtype_bytes(DTYPE_INT4, OUT * IN));
        random_fill_uniform((RandomKey){.stream = RANDOM_TEST}, -1, 1, 3 * IN, x);
        const Matrix a = matrix_of((Tensor){DTYPE_F32, SHAPE(3, IN), x, NULL});
        gemm(a, matrix_transposed(matrix_of(w)), 0, expected, OUT, NULL, arena);
        gemm(a, matrix_transposed(matrix_of(v)), 0, y, OUT, NULL, arena);
        assert_memory_equal(y, expected, sizeof y);
    }
}

/* Both ways of a linear layer, for a weight of 1024 x 2048. */
static void products_decode_tiles(void **state) {
    (void)state;
    const Storages storages = storages_make();
    for (int j = 0; j < storages.count; j++) {
        if (storages.all[j].dtype == DTYPE_F32) continue;
        enum { OUT = 1024, IN = 2048, BATCH = 4 };
        Scales scales = {.row_length = OUT * IN, .run_length = 64, .count = OUT * IN / 64};
        bool has_scales = dtype_codec(storages.all[j].dtype)->stores == CODE_ENTRY;
        Matrix w = matrix_of((Tensor){.dtype = storages.all[j].dtype,
                                      .shape = SHAPE(OUT, IN),
                                      .scales = has_scales ? &scales : NULL});
        Matrix x = matrix_of((Tensor){.dtype = DTYPE_F32, .shape = SHAPE(BATCH, IN)});
        Matrix dy = matrix_of((Tensor){.dtype = DTYPE_F32, .shape = SHAPE(BATCH, OUT)});
        int64_t whole = (int64_t)sizeof(float) * OUT * IN, threads = parallel_threads();
        assert_true(gemm_scratch(x, matrix_transposed(w), 0) < threads * whole / 4);
        assert_true(gemm_scratch(dy, w, 0) < threads * whole / 4);
    }
}

static void check_conv(const ConvGeometry *g, const Tensor *x, const Tensor *w) {
    const Tensor plain_x = plain_of(x), plain_w = plain_of(w);
    const Tensor *xs[] = {x, &plain_x}, *ws[] = {w, &plain_w};
    int64_t y_count = g->batch * g->out_h * g->out_w * g->out_c;
    float *y[2], *dx[2], *dw[2], *dy = storages_values(arena, y_count, 7);
    float *expected = arena_new_array(arena, float, y_count);
    for (int i = 0; i < 2; i++) {
        y[i] = arena_new_array(arena, float, y_count);
        dx[i] = arena_new_array(arena, float, tensor_count(x));
        dw[i] = arena_new_array(arena, float, tensor_count(w));
        conv_forward(g, xs[i], ws[i], NULL, TENSOR_F32(y[i]), (ConvWritten){0}, arena);
        conv_backward_input(g, TENSOR_F32(dy), ws[i], 0, TENSOR_F32(dx[i]), arena);
        conv_backward_weight(g, xs[i], TENSOR_F32(dy), 0, dw[i], arena);
    }
    conv_forward_reference(g, x, w, NULL, expected);
    for (int64_t i = 0; i < y_count; i++) assert_true(fabsf(y[0][i] - expected[i]) < 1e-2f);
    if (!x->scales || !tensor_holds_levels(x)) /* else it is scaled at the end */
        assert_memory_equal(y[0], y[1], sizeof(float) * (size_t)y_count);
    assert_memory_equal(dx[0], dx[1], sizeof(float) * (size_t)tensor_count(x));
    for (int64_t i = 0; i < tensor_count(w); i++) assert_true(fabsf(dw[0][i] - dw[1][i]) < 1e-2f);
}

static void convolutions_read_any_storage(void **state) {
    (void)state;
    const Storages storages = storages_make();
    for (int j = 0; j < storages.count; j++)
        for (int64_t channels = 1; channels < 8; channels += 4) { /* one scale, and several */
            const ConvGeometry g = {.batch = 2,
                                    .in_h = 5,
                                    .in_w = 4,
                                    .in_c = channels,
                                    .out_h = 5,
                                    .out_w = 4,
                                    .out_c = 3,
                                    .kernel_h = 3,
                                    .kernel_w = 3,
                                    .stride_h = 1,
                                    .stride_w = 1,
                                    .dilation_h = 1,
                                    .dilation_w = 1,
                                    .pad_top = 1,
                                    .pad_left = 1,
                                    .groups = 1};
            const Tensor x = drawn(SHAPE(2, 5, 4, channels), 3, &storages.all[j]);
            const Tensor w = drawn(SHAPE(3, 3, 3, channels), 4, &storages.all[j]);
            const Tensor levels = levels_drawn(x.shape);
            check_conv(&g, &x, &w);
            check_conv(&g, &levels, &w);
        }
}

int main(void) {
    static const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(products_read_any_storage),
        TEST(products_of_few_rows),
        TEST(deep_products),
        TEST(products_of_groups),
        TEST(products_of_levels_and_stored_values),
        TEST(levels_have_stored_scales),
        TEST(products_decode_tiles),
        TEST(convolutions_read_any_storage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
