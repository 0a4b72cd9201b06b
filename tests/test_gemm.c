#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/gemm.h"
#include "core/kernels.h"
#include "core/parallel.h"
#include "core/random.h"
#include "tests/repeats.h"

typedef struct Sizes {
    int64_t m, n, k;
} Sizes;

static uint64_t drawn;

static int64_t draw(int64_t low, int64_t high) {
    RandomKey key = {11, RANDOM_TEST, 0};
    return low + (int64_t)random_below(key, drawn++, (uint64_t)(high - low + 1));
}

static float *draw_values(Arena *arena, int64_t count) {
    float *values = arena_alloc(arena, (size_t)count * sizeof *values);
    random_fill_uniform((RandomKey){11, RANDOM_TEST, ++drawn}, -1, 1, count, values);
    return values;
}

/* op(matrix) is rows x cols; stored the other way round if transposed, with rows further apart than
 * they are long if strided. */
static Matrix matrix_draw(Arena *arena, int64_t rows, int64_t cols, bool is_transposed,
                          bool is_strided) {
    int64_t r = is_transposed ? cols : rows, c = is_transposed ? rows : cols;
    int64_t stride = is_strided ? c + draw(1, 9) : c;
    Matrix m = matrix_of((Tensor){DTYPE_F32, SHAPE(r, c), draw_values(arena, r * stride), NULL});
    m.row_stride = stride;
    return is_transposed ? matrix_transposed(m) : m;
}

static void assert_close(const float *got, const float *expected, int64_t count, int64_t terms) {
    double tolerance = 1e-6 * (2 + sqrt((double)terms) + 1e-2 * (double)terms);
    for (int64_t i = 0; i < count; i++)
        if (!(fabs((double)got[i] - (double)expected[i]) <= tolerance))
            fail_msg("element %lld: %g instead of %g", (long long)i, (double)got[i],
                     (double)expected[i]);
}

static Sizes sizes_draw(int i) {
    if (i % 8 == 7) return (Sizes){draw(100, 300), draw(200, 600), draw(1, 40)};
    return (Sizes){draw(1, 70), draw(1, 70), draw(1, 200)};
}

static void test_random_shapes(void **state) {
    (void)state;
    Arena *scratch = arena_new("scratch");
    for (int i = 0; i < repeats(120, 8); i++) {
        Arena *arena = arena_new("case");
        Sizes s = sizes_draw(i);
        Matrix a = matrix_draw(arena, s.m, s.k, draw(0, 1), draw(0, 1));
        Matrix b = matrix_draw(arena, s.k, s.n, draw(0, 1), draw(0, 1));
        int64_t stride = s.n + draw(0, 5), count = s.m * stride;
        float *got = draw_values(arena, count), *expected = arena_new_array(arena, float, count);
        memcpy(expected, got, (size_t)count * sizeof *got);
        float beta = (float)draw(0, 2) * 0.5f;
        Epilogue epilogue = {draw_values(arena, s.n)};
        const Epilogue *chosen = beta == 0 && draw(0, 1) ? &epilogue : NULL;
        gemm(a, b, beta, got, stride, chosen, scratch);
        gemm_reference(a, b, beta, expected, stride, chosen);
        assert_close(got, expected, count, s.k);
        assert_int_equal(arena_used(scratch), 0);
        arena_free(arena);
    }
    arena_free(scratch);
}

/* Part of a matrix, in place: rows (stored) from `row` on, columns from `column` on. */
static Matrix part_of(Matrix whole, int64_t row, int64_t rows, int64_t column, int64_t cols) {
    whole.tensor.data = tensor_f32(&whole.tensor) + row * whole.row_stride + column;
    whole.rows = rows, whole.cols = cols;
    return whole;
}

/* Which rows and columns share a product changes no bit of them: a batch of one gives what the
 * batch gave. */
static void test_company_changes_no_bit(void **state) {
    (void)state;
    Arena *scratch = arena_new("scratch");
    for (int i = 0; i < repeats(120, 8); i++) {
        Arena *arena = arena_new("case");
        Sizes s = {draw(1, 150), draw(1, 150), draw(1, 300)};
        bool a_turned = draw(0, 1), b_turned = draw(0, 1);
        Matrix a = matrix_draw(arena, s.m, s.k, a_turned, false);
        Matrix b = matrix_draw(arena, s.k, s.n, b_turned, false);
        float *all = draw_values(arena, s.m * s.n), *some = draw_values(arena, s.m * s.n);
        float beta = (float)draw(0, 1);
        int64_t row = draw(0, s.m - 1), column = draw(0, s.n - 1);
        int64_t m = draw(1, s.m - row), n = draw(1, s.n - column);
        for (int64_t r = 0; r < m; r++)
            memcpy(some + r * n, all + (row + r) * s.n + column, (size_t)n * sizeof *some);
        Epilogue epilogue = {draw_values(arena, s.n)}, its = {epilogue.bias + column};
        bool has_bias = beta == 0 && draw(0, 1);
        gemm(a, b, beta, all, s.n, has_bias ? &epilogue : NULL, scratch);
        a = a_turned ? part_of(a, 0, s.k, row, m) : part_of(a, row, m, 0, s.k);
        b = b_turned ? part_of(b, column, n, 0, s.k) : part_of(b, 0, s.k, column, n);
        gemm(a, b, beta, some, n, has_bias ? &its : NULL, scratch);
        for (int64_t r = 0; r < m; r++)
            assert_memory_equal(some + r * n, all + (row + r) * s.n + column,
                                (size_t)n * sizeof *some);
        arena_free(arena);
    }
    arena_free(scratch);
}

/* What a block's taker leaves in a matrix, and how often each element came. */
typedef struct Taken {
    float *c;
    int *times;
    int64_t rows, columns;
} Taken;

static void take(void *context, const GemmBlock *block) {
    Taken *t = context;
    assert_true(block->row % GEMM_BLOCK == 0 && block->column % GEMM_BLOCK == 0);
    assert_true(block->rows <= GEMM_BLOCK && block->row + block->rows <= t->rows);
    assert_true(block->columns <= GEMM_BLOCK && block->column + block->columns <= t->columns);
    for (int64_t i = 0; i < block->rows; i++)
        for (int64_t j = 0; j < block->columns; j++) {
            int64_t at = (block->row + i) * t->columns + block->column + j;
            t->c[at] = block->values[i * GEMM_BLOCK + j];
            t->times[at]++;
            block->values[i * GEMM_BLOCK + j] = NAN; /* the taker's to change */
        }
}

/* Blocks that are taken are those that would have been written. */
static void test_blocks_are_taken_once(void **state) {
    (void)state;
    Arena *scratch = arena_new("scratch");
    for (int i = 0; i < repeats(60, 8); i++) {
        Arena *arena = arena_new("case");
        Sizes s = sizes_draw(i);
        Matrix a = matrix_draw(arena, s.m, s.k, draw(0, 1), false);
        Matrix b = matrix_draw(arena, s.k, s.n, draw(0, 1), false);
        float *written = draw_values(arena, s.m * s.n);
        Taken taken = {.c = draw_values(arena, s.m * s.n),
                       .times = arena_new_array(arena, int, s.m *s.n),
                       .rows = s.m,
                       .columns = s.n};
        Epilogue epilogue = {.bias = draw(0, 1) ? draw_values(arena, s.n) : NULL};
        gemm(a, b, 0, written, s.n, &epilogue, scratch);
        epilogue.take = take;
        epilogue.context = &taken;
        gemm_tensor(a, b, 0, NULL, &epilogue, scratch);
        assert_memory_equal(written, taken.c, (size_t)(s.m * s.n) * sizeof *written);
        for (int64_t j = 0; j < s.m * s.n; j++) assert_int_equal(taken.times[j], 1);
        assert_int_equal(arena_used(scratch), 0);
        arena_free(arena);
    }
    arena_free(scratch);
}

static void test_no_rows_or_columns(void **state) {
    (void)state;
    Arena *arena = arena_new("case");
    Matrix a = matrix_draw(arena, 40, 5, false, false), b = matrix_draw(arena, 7, 5, false, false);
    float c[1] = {3};
    Matrix none = a;
    none.rows = 0;
    gemm(none, matrix_transposed(b), 0, c, 7, NULL, arena);
    gemm(a, matrix_transposed(none), 0, c, 0, NULL, arena);
    assert_true(c[0] == 3);
    assert_int_equal(gemm_scratch(a, matrix_transposed(none), 0), 0);
    arena_free(arena);
}

static void test_beta_zero_reads_nothing(void **state) {
    (void)state;
    Arena *arena = arena_new("case");
    Matrix a = matrix_draw(arena, 9, 5, false, false), b = matrix_draw(arena, 5, 7, false, false);
    float c[9 * 7];
    for (int i = 0; i < 9 * 7; i++) c[i] = NAN;
    gemm(a, b, 0, c, 7, NULL, arena);
    for (int i = 0; i < 9 * 7; i++) assert_true(isfinite(c[i]));
    arena_free(arena);
}

/* ---- Levels ---- */

static const Scales *scales_draw(Arena *arena, int64_t count, int64_t row, int64_t run, Grid grid) {
    Scales *s = arena_new_array(arena, Scales, 1);
    *s = (Scales){row, run, scales_count(count, row, run), DTYPE_F32, grid, NULL, NULL};
    float *scale = arena_new_array(arena, float, s->count);
    random_fill_uniform((RandomKey){11, RANDOM_TEST, ++drawn}, 0.001f, 0.1f, s->count, scale);
    s->scale = scale;
    if (draw(0, 1)) return s;
    float *zero = arena_new_array(arena, float, s->count);
    for (int64_t i = 0; i < s->count; i++) zero[i] = (float)draw(0, (1 << grid.bits) - 1);
    s->zero = zero;
    return s;
}

static Tensor levels_draw(Arena *arena, Shape shape, const Scales *scales, bool is_extreme) {
    Tensor t = tensor_new(arena, DTYPE_F32, shape);
    int last = grid_last_code(scales->grid);
    for (int64_t i = 0; i < tensor_count(&t); i++) {
        int64_t scale, code = is_extreme ? (scales->grid.base < 0 ? 0 : last) : draw(0, last);
        scales_run(scales, i, &scale);
        float zero = scales->zero ? scales->zero[scale] : 0;
        tensor_f32(&t)[i] = (float)(scales->grid.base + scales->grid.step * (int)code) - zero;
    }
    t.scales = scales;
    return t;
}

/* Of so many bits, or of fewer than two. */
static Grid weight_grid(int bits) {
    const Grid grids[] = {grid_odd(bits), grid_ternary(), grid_odd(1)};
    int which = (int)draw(0, 11);
    return which < 3 ? grids[which] : grid_signed(bits);
}

static Tensor packed_of(Arena *arena, const Tensor *levels) {
    int64_t count = tensor_count(levels);
    int bits = levels->scales->grid.bits;
    const Dtype dtypes[] = {dtype_packed(levels->scales->grid), DTYPE_BYTE, DTYPE_NIBBLE};
    Dtype dtype = dtypes[draw(0, bits > 4 ? 1 : 2)];
    Tensor t = tensor_zeros(arena, dtype, levels->shape);
    t.scales = levels->scales;
    if (dtype == DTYPE_BYTE)
        levels_to_bytes(tensor_f32(levels), levels->scales, 0, count, t.data);
    else if (dtype == DTYPE_NIBBLE)
        levels_to_nibbles(tensor_f32(levels), levels->scales, 0, count, t.data);
    else
        dtype_codec(dtype)->write_levels(tensor_f32(levels), levels->scales, 0, count, t.data);
    return t;
}

/* x [m, k] by W^T, W [n, k], as in linear layers; scales per tensor, token or channel. */
static void check_levels(Sizes s, int a_bits, int b_bits, bool is_extreme, Arena *arena,
                         Arena *scratch) {
    int64_t a_row = draw(0, 1) ? s.k : s.m * s.k, b_row = draw(0, 1) ? s.k : s.n * s.k;
    Grid a_grid = draw(0, 1) ? grid_unsigned(a_bits) : grid_signed(a_bits);
    Grid b_grid = is_extreme ? grid_signed(b_bits) : weight_grid(b_bits);
    const Scales *as = scales_draw(arena, s.m * s.k, a_row, a_row, a_grid);
    const Scales *bs = scales_draw(arena, s.n * s.k, b_row, b_row, b_grid);
    Tensor a = levels_draw(arena, SHAPE(s.m, s.k), as, is_extreme);
    Tensor b = levels_draw(arena, SHAPE(s.n, s.k), bs, is_extreme);
    Epilogue epilogue = {draw(0, 1) ? draw_values(arena, s.n) : NULL};
    float *got = draw_values(arena, s.m * s.n), *expected = draw_values(arena, s.m * s.n);
    size_t bytes = (size_t)(s.m * s.n) * sizeof *got;
    gemm_integer_reference(matrix_of(a), matrix_transposed(matrix_of(b)), expected, s.n, &epilogue);
    gemm(matrix_of(a), matrix_transposed(matrix_of(b)), 0, got, s.n, &epilogue, scratch);
    assert_memory_equal(got, expected, bytes);

    Tensor ap = packed_of(arena, &a), bp = packed_of(arena, &b);
    gemm(matrix_of(ap), matrix_transposed(matrix_of(bp)), 0, got, s.n, &epilogue, scratch);
    assert_memory_equal(got, expected, bytes);

    kernels_use_reference(true);
    gemm(matrix_of(ap), matrix_transposed(matrix_of(b)), 0, got, s.n, &epilogue, scratch);
    kernels_use_reference(false);
    assert_memory_equal(got, expected, bytes);

    int *times = arena_new_array(arena, int, s.m *s.n);
    Taken taken = {.c = got, .times = times, .rows = s.m, .columns = s.n};
    epilogue.take = take;
    epilogue.context = &taken;
    for (int i = 0; i < 2; i++) {
        kernels_use_reference(i);
        gemm_tensor(matrix_of(ap), matrix_transposed(matrix_of(bp)), 0, NULL, &epilogue, scratch);
        kernels_use_reference(false);
        assert_memory_equal(got, expected, bytes);
    }
    for (int64_t i = 0; i < s.m * s.n; i++) assert_int_equal(times[i], 2);
}

static void test_levels_equal_integers(void **state) {
    (void)state;
    Arena *scratch = arena_new("scratch");
    for (int a_bits = 2; a_bits <= 8; a_bits += BITS_STEP)
        for (int b_bits = 2; b_bits <= 8; b_bits += BITS_STEP) {
            Arena *arena = arena_new("case");
            Sizes s = {draw(1, 40), draw(1, 40), draw(1, 300)};
            check_levels(s, a_bits, b_bits, false, arena, scratch);
            arena_free(arena);
        }
    arena_free(scratch);
}

/* 8 by 8 bits may be summed exactly in f32 up to 514 products; these need several such sums. */
static void test_levels_beyond_f32(void **state) {
    (void)state;
    Arena *scratch = arena_new("scratch");
    for (int i = 0; i < repeats(16, 2); i++) {
        Arena *arena = arena_new("case");
        Sizes s = {draw(1, 70), draw(1, 40), draw(500, 4000)};
        check_levels(s, 8, 8, i % 2, arena, scratch);
        arena_free(arena);
    }
    arena_free(scratch);
}

/* Scales that the product cannot take out of the sum: per group, or along k. */
static void test_levels_that_must_be_decoded(void **state) {
    (void)state;
    Arena *arena = arena_new("case"), *scratch = arena_new("scratch");
    int64_t m = 13, n = 21, k = 70;
    const Scales *groups = scales_draw(arena, n * k, k, 32, grid_signed(4));
    const Scales *rows = scales_draw(arena, n * k, k, k, grid_signed(4));
    const Scales *tokens = scales_draw(arena, m * k, k, k, grid_unsigned(8));
    float *got = draw_values(arena, m * k), *expected = draw_values(arena, m * k);
    Matrix a = matrix_of(levels_draw(arena, SHAPE(m, k), tokens, false));
    Matrix b = matrix_of(levels_draw(arena, SHAPE(n, k), groups, false));
    b.tensor = packed_of(arena, &b.tensor);
    gemm(a, matrix_transposed(b), 0, got, n, NULL, scratch);
    gemm_reference(a, matrix_transposed(b), 0, expected, n, NULL);
    for (int64_t i = 0; i < m * n; i++)
        assert_float_equal(got[i], expected[i], 1e-4f * (1 + fabsf(expected[i])));

    Matrix dy =
        matrix_draw(arena, m, n, false, false); /* dx = dy W: W's scales lie along n, summed */
    Matrix w = matrix_of(levels_draw(arena, SHAPE(n, k), rows, false));
    gemm(dy, w, 0, got, k, NULL, scratch);
    gemm_reference(dy, w, 0, expected, k, NULL);
    assert_close(got, expected, m * k, n);
    arena_free(arena);
    arena_free(scratch);
}

static void test_half_precision(void **state) {
    (void)state;
    static const Dtype dtypes[] = {DTYPE_F16, DTYPE_BF16};
    Arena *arena = arena_new("case"), *scratch = arena_new("scratch");
    for (int i = 0; i < 2; i++) {
        Matrix a = matrix_draw(arena, 33, 50, false, false);
        Matrix b = matrix_draw(arena, 50, 20, true, false), half = b;
        half.tensor = tensor_new(arena, dtypes[i], b.tensor.shape);
        dtype_encode(dtypes[i], b.tensor.data, 50 * 20, NULL, half.tensor.data);
        float *got = draw_values(arena, 33 * 20), *expected = draw_values(arena, 33 * 20);
        gemm(a, half, 0, got, 20, NULL, scratch);
        gemm_reference(a, half, 0, expected, 20, NULL);
        assert_close(got, expected, 33 * 20, 50);
    }
    arena_free(arena);
    arena_free(scratch);
}

/* Into half precision: the f32 product, rounded once. */
static void test_half_results(void **state) {
    (void)state;
    Arena *scratch = arena_new("scratch");
    for (int i = 0; i < repeats(32, 8); i++) {
        Arena *arena = arena_new("case");
        Sizes s = sizes_draw(i);
        int64_t count = s.m * s.n;
        Matrix a = matrix_draw(arena, s.m, s.k, draw(0, 1), draw(0, 1));
        Matrix b = matrix_draw(arena, s.k, s.n, draw(0, 1), draw(0, 1));
        Tensor got = tensor_new(arena, i % 2 ? DTYPE_F16 : DTYPE_BF16, SHAPE(s.m, s.n));
        Tensor expected = tensor_new(arena, got.dtype, got.shape);
        float *sum = draw_values(arena, count), beta = (float)draw(0, 1);
        dtype_encode(got.dtype, sum, count, NULL, got.data);
        dtype_decode(got.dtype, got.data, NULL, 0, count, sum);
        Epilogue epilogue = {draw_values(arena, s.n)};
        const Epilogue *chosen = beta == 0 ? &epilogue : NULL;
        gemm(a, b, beta, sum, s.n, chosen, scratch);
        dtype_encode(got.dtype, sum, count, NULL, expected.data);
        gemm_tensor(a, b, beta, &got, chosen, scratch);
        assert_memory_equal(got.data, expected.data, dtype_bytes(got.dtype, count));
        assert_int_equal(arena_used(scratch), 0);
        arena_free(arena);
    }
    arena_free(scratch);
}

/* Every storage, both transpositions, several tiles: as if the operand had been decoded first. */
static void test_any_dtype_either_way(void **state) {
    (void)state;
    Arena *scratch = arena_new("scratch");
    for (int i = 0; i < repeats(60, 12); i++) {
        Arena *arena = arena_new("case");
        Sizes s = {draw(1, 150), draw(1, 300), draw(1, 300)};
        bool is_transposed = i % 2;
        int64_t rows = is_transposed ? s.n : s.k, cols = is_transposed ? s.k : s.n;
        const Scales *scales = scales_draw(arena, rows * cols, cols, 1 + draw(0, cols - 1),
                                           grid_signed((int)draw(2, 8)));
        Tensor levels = levels_draw(arena, SHAPE(rows, cols), scales, false), stored = levels;
        if (i % 3 == 1) stored = packed_of(arena, &levels);
        if (i % 3 == 2) {
            stored = tensor_new(arena, i % 4 ? DTYPE_F16 : DTYPE_BF16, levels.shape);
            dtype_encode(stored.dtype, draw_values(arena, rows * cols), rows * cols, NULL,
                         stored.data);
        }
        Tensor plain = tensor_new(arena, DTYPE_F32, stored.shape);
        tensor_decode(&stored, plain.data);
        Matrix a = matrix_draw(arena, s.m, s.k, draw(0, 1), false);
        Matrix b = matrix_of(stored), p = matrix_of(plain);
        b.is_transposed = p.is_transposed = is_transposed;
        float *got = draw_values(arena, s.m * s.n), *expected = draw_values(arena, s.m * s.n);
        memcpy(expected, got, sizeof *got * (size_t)(s.m * s.n));
        float beta = (float)draw(0, 1);
        gemm(a, b, beta, got, s.n, NULL, scratch);
        gemm_reference(a, p, beta, expected, s.n, NULL);
        for (int64_t j = 0; j < s.m * s.n; j++)
            assert_true(fabsf(got[j] - expected[j]) <= 2e-4f * (1 + fabsf(expected[j])));
        arena_free(arena);
    }
    arena_free(scratch);
}

/* What nibble plan counts is what is taken. */
static void test_scratch_is_foretold(void **state) {
    (void)state;
    static const Dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BYTE};
    for (int i = 0; i < repeats(90, 9); i++) {
        Arena *arena = arena_new("case"), *scratch = arena_new("scratch");
        Sizes s = {draw(1, 200), draw(1, 200), draw(1, i % 3 ? 300 : 3000)};
        Matrix sides[2] = {matrix_of((Tensor){.shape = SHAPE(s.m, s.k)}),
                           matrix_of((Tensor){.shape = SHAPE(s.n, s.k)})};
        for (int j = 0; j < 2; j++) {
            Shape shape = sides[j].tensor.shape;
            Dtype dtype = dtypes[draw(0, 2)];
            Tensor t = tensor_zeros(arena, dtype, shape);
            if (dtype == DTYPE_BYTE)
                t.scales = scales_draw(arena, shape_count(shape), s.k, s.k, grid_signed(8));
            sides[j].tensor = t;
        }
        Matrix a = sides[0], b = matrix_transposed(sides[1]);
        if (i % 3 == 1) /* dy W */
            a = matrix_of(tensor_zeros(arena, DTYPE_F32, SHAPE(s.m, s.n))), b = sides[1];
        if (i % 3 == 2) /* dy^T x */
            a = matrix_transposed(matrix_of(tensor_zeros(arena, DTYPE_F32, SHAPE(s.k, s.m)))),
            b = matrix_of(tensor_zeros(arena, dtypes[draw(0, 1)], SHAPE(s.k, s.n)));
        int64_t columns = i % 3 == 1 ? s.k : s.n;
        gemm(a, b, 0, draw_values(arena, s.m * columns), columns, NULL, scratch);
        int64_t foretold = gemm_scratch(a, b, 0), taken = (int64_t)arena_peak(scratch);
        /* sums in double, where f32 may not hold them */
        int64_t exact = i % 3 ? 0 : parallel_threads() * 1024 * (int)sizeof(double);
        if (foretold != taken && foretold != taken + exact)
            fail_msg("%lld bytes foretold, %lld taken", (long long)foretold, (long long)taken);
        arena_free(arena);
        arena_free(scratch);
    }
}

/* ---- Threads ---- */

static void test_threads_change_no_bit(void **state) {
    (void)state;
    static const Sizes sizes[] = {{1, 1, 1},     {1, 10, 700},    {16, 16, 16},
                                  {31, 10, 128}, {128, 128, 900}, {128, 10, 128},
                                  {300, 70, 30}, {128, 784, 100}, {64, 300, 2000}};
    Arena *scratch = arena_new("scratch");
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        Arena *arena = arena_new("case");
        Sizes s = sizes[i];
        Matrix a = matrix_draw(arena, s.m, s.k, i % 2, false);
        Matrix b = matrix_draw(arena, s.k, s.n, i % 3 == 0, false);
        float *one = arena_new_array(arena, float, s.m *s.n);
        float *some = arena_new_array(arena, float, s.m *s.n);
        for (int threads = 1; threads <= 4; threads++) {
            Error err = {0};
            assert_true(parallel_init(threads, &err));
            gemm(a, b, 0, threads == 1 ? one : some, s.n, NULL, scratch);
            if (threads > 1) assert_memory_equal(one, some, (size_t)(s.m * s.n) * sizeof *one);
        }
        arena_free(arena);
    }
    arena_free(scratch);
}

static int setup(void **state) {
    (void)state;
    Error err = {0};
    return parallel_init(2, &err) ? 0 : -1;
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_random_shapes),
    cmocka_unit_test(test_company_changes_no_bit),
    cmocka_unit_test(test_blocks_are_taken_once),
    cmocka_unit_test(test_no_rows_or_columns),
    cmocka_unit_test(test_beta_zero_reads_nothing),
    cmocka_unit_test(test_levels_equal_integers),
    cmocka_unit_test(test_levels_beyond_f32),
    cmocka_unit_test(test_levels_that_must_be_decoded),
    cmocka_unit_test(test_any_dtype_either_way),
    cmocka_unit_test(test_half_precision),
    cmocka_unit_test(test_half_results),
    cmocka_unit_test(test_scratch_is_foretold),
    cmocka_unit_test(test_threads_change_no_bit),
};

/* All of it with the inner loops of every instruction set that this processor has. */
int main(void) {
    static const char *const isas[] = {"baseline", "avx2", "avx512"};
    int failures = 0;
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        Error err = {0};
        setenv("NIBBLE_ISA", isas[i], 1);
        if (!kernels_init(&err)) continue;
        failures += cmocka_run_group_tests_name(isas[i], tests, setup, NULL);
    }
    return failures;
}
