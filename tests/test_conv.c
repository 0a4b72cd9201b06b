#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/conv.h"
#include "core/kernels.h"
#include "core/parallel.h"
#include "core/random.h"
#include "tests/repeats.h"

enum { RANDOM_SHAPES = 150 };

/* A convolution with its operands as values and, quantized, as levels. */
typedef struct Case {
    ConvGeometry g;
    int64_t x_count, w_count, y_count, filter;
    Tensor x, w;
    float *bias, *dy;
} Case;

static uint64_t drawn; /* numbers drawn from the test stream so far */

static int64_t draw(int64_t low, int64_t high) {
    RandomKey key = {7, RANDOM_TEST, 0};
    return low + (int64_t)random_below(key, drawn++, (uint64_t)(high - low + 1));
}

static float *draw_values(Arena *arena, int64_t count) {
    float *values = arena_alloc(arena, (size_t)count * sizeof *values);
    random_fill_uniform((RandomKey){7, RANDOM_TEST, ++drawn}, -1, 1, count, values);
    return values;
}

static int64_t out_size(int64_t in, int64_t pad_both, int64_t kernel, int64_t stride,
                        int64_t dilation) {
    int64_t reach = (kernel - 1) * dilation + 1;
    return in + pad_both < reach ? 0 : (in + pad_both - reach) / stride + 1;
}

static void case_fill(Case *c, Arena *arena) {
    const ConvGeometry *g = &c->g;
    c->filter = g->kernel_h * g->kernel_w * g->in_c / g->groups;
    c->x_count = g->batch * g->in_h * g->in_w * g->in_c;
    c->w_count = g->out_c * c->filter;
    c->y_count = g->batch * g->out_h * g->out_w * g->out_c;
    c->x = (Tensor){DTYPE_F32, SHAPE(g->batch, g->in_h, g->in_w, g->in_c),
                    draw_values(arena, c->x_count), NULL};
    c->w = (Tensor){DTYPE_F32, SHAPE(g->out_c, g->kernel_h, g->kernel_w, g->in_c / g->groups),
                    draw_values(arena, c->w_count), NULL};
    c->bias = draw(0, 1) ? draw_values(arena, g->out_c) : NULL;
    c->dy = draw_values(arena, c->y_count);
}

/* kind 0: one group; 1: some groups; 2: depthwise */
static Case case_draw(Arena *arena, int kind) {
    Case c = {0};
    ConvGeometry *g = &c.g;
    do {
        int64_t pad_bottom = draw(0, 3), pad_right = draw(0, 3);
        *g = (ConvGeometry){.batch = draw(1, 4),
                            .in_h = draw(1, 11),
                            .in_w = draw(1, 11),
                            .kernel_h = draw(1, 4),
                            .kernel_w = draw(1, 4),
                            .stride_h = draw(1, 3),
                            .stride_w = draw(1, 3),
                            .dilation_h = draw(1, 3),
                            .dilation_w = draw(1, 3),
                            .pad_top = draw(0, 3),
                            .pad_left = draw(0, 3)};
        g->groups = kind == 0 ? 1 : kind == 1 ? draw(2, 4) : draw(2, 40);
        g->in_c = kind == 2 ? g->groups : g->groups * draw(1, 20);
        g->out_c = kind == 2 ? g->groups : g->groups * draw(1, 36);
        g->out_h =
            out_size(g->in_h, g->pad_top + pad_bottom, g->kernel_h, g->stride_h, g->dilation_h);
        g->out_w =
            out_size(g->in_w, g->pad_left + pad_right, g->kernel_w, g->stride_w, g->dilation_w);
    } while (g->out_h < 1 || g->out_w < 1);
    case_fill(&c, arena);
    return c;
}

/* Within what f32 sums of `terms` products below 1 may lose. */
static void assert_close(const float *got, const float *expected, int64_t count, int64_t terms) {
    double tolerance = 1e-6 * (2 + sqrt((double)terms) + 1e-2 * (double)terms);
    for (int64_t i = 0; i < count; i++)
        if (!(fabs((double)got[i] - (double)expected[i]) <= tolerance))
            fail_msg("element %lld of %lld: %g instead of %g", (long long)i, (long long)count,
                     (double)got[i], (double)expected[i]);
}

static float *copy_of(Arena *arena, const float *values, int64_t count) {
    float *copy = arena_alloc(arena, (size_t)count * sizeof *copy);
    return memcpy(copy, values, (size_t)count * sizeof *copy);
}

static void check_case(const Case *c, Arena *arena, Arena *scratch) {
    const ConvGeometry *g = &c->g;
    float *got = draw_values(arena, c->y_count), *expected = draw_values(arena, c->y_count);
    conv_forward(g, &c->x, &c->w, c->bias, TENSOR_F32(got), (ConvWritten){0}, scratch);
    conv_forward_reference(g, &c->x, &c->w, c->bias, expected);
    assert_close(got, expected, c->y_count, c->filter);

    float beta = (float)draw(0, 2) * 0.5f;
    got = draw_values(arena, c->x_count);
    expected = copy_of(arena, got, c->x_count);
    conv_backward_input(g, TENSOR_F32(c->dy), &c->w, beta, TENSOR_F32(got), scratch);
    conv_backward_input_reference(g, c->dy, &c->w, beta, expected);
    assert_close(got, expected, c->x_count, c->w_count / g->in_c);

    got = draw_values(arena, c->w_count);
    expected = copy_of(arena, got, c->w_count);
    conv_backward_weight(g, &c->x, TENSOR_F32(c->dy), beta, got, scratch);
    conv_backward_weight_reference(g, &c->x, c->dy, beta, expected);
    assert_close(got, expected, c->w_count, g->batch * g->out_h * g->out_w);
    assert_int_equal(arena_used(scratch), 0);
}

static void random_shapes(int kind) {
    Arena *scratch = arena_new("scratch");
    for (int i = 0; i < repeats(RANDOM_SHAPES, 1); i++) {
        Arena *arena = arena_new("case");
        Case c = case_draw(arena, kind);
        check_case(&c, arena, scratch);
        arena_free(arena);
    }
    arena_free(scratch);
}

static void test_random_shapes(void **state) {
    (void)state;
    random_shapes(0);
}

static void test_random_groups(void **state) {
    (void)state;
    random_shapes(1);
}

static void test_random_depthwise(void **state) {
    (void)state;
    random_shapes(2);
}

/* Beta 0 overwrites: what was there may be anything, NaN included. */
static void test_beta_zero_reads_nothing(void **state) {
    (void)state;
    Arena *arena = arena_new("case"), *scratch = arena_new("scratch");
    for (int kind = 0; kind < 3; kind++) {
        Case c = case_draw(arena, kind);
        float *dx = draw_values(arena, c.x_count), *dw = draw_values(arena, c.w_count);
        for (int64_t i = 0; i < c.x_count; i++) dx[i] = NAN;
        for (int64_t i = 0; i < c.w_count; i++) dw[i] = NAN;
        conv_backward_input(&c.g, TENSOR_F32(c.dy), &c.w, 0, TENSOR_F32(dx), scratch);
        conv_backward_weight(&c.g, &c.x, TENSOR_F32(c.dy), 0, dw, scratch);
        for (int64_t i = 0; i < c.x_count; i++) assert_true(isfinite(dx[i]));
        for (int64_t i = 0; i < c.w_count; i++) assert_true(isfinite(dw[i]));
    }
    arena_free(arena);
    arena_free(scratch);
}

/* ---- Levels ---- */

static const Scales *scales_draw(Arena *arena, int64_t count, int64_t row, Grid grid,
                                 bool has_zero) {
    Scales *s = arena_new_array(arena, Scales, 1);
    *s = (Scales){row, row, scales_count(count, row, row), DTYPE_F32, grid, NULL, NULL};
    float *scale = arena_new_array(arena, float, s->count);
    random_fill_uniform((RandomKey){7, RANDOM_TEST, ++drawn}, 0.001f, 0.1f, s->count, scale);
    s->scale = scale;
    if (!has_zero) return s;
    float *zero = arena_new_array(arena, float, s->count);
    for (int64_t i = 0; i < s->count; i++) zero[i] = (float)draw(0, (1 << grid.bits) - 1);
    s->zero = zero;
    return s;
}

/* Every level equally often, the extreme ones included: or only the largest, for the longest sums.
 */
static Tensor levels_draw(Arena *arena, Shape shape, const Scales *scales, bool is_extreme) {
    int64_t count = shape_count(shape);
    Tensor t = tensor_new(arena, DTYPE_F32, shape);
    float *levels = tensor_f32(&t);
    int last = grid_last_code(scales->grid);
    for (int64_t i = 0; i < count; i++) {
        int64_t scale, code = is_extreme ? (scales->grid.base < 0 ? 0 : last) : draw(0, last);
        scales_run(scales, i, &scale);
        float zero = scales->zero ? scales->zero[scale] : 0;
        levels[i] = (float)(scales->grid.base + scales->grid.step * (int)code) - zero;
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

static void check_levels(Case *c, int x_bits, int w_bits, bool is_extreme, Arena *arena,
                         Arena *scratch) {
    const ConvGeometry *g = &c->g;
    bool x_zero = draw(0, 2) == 0, w_zero = draw(0, 2) == 0, per_channel = draw(0, 1);
    Grid x_grid = draw(0, 1) ? grid_unsigned(x_bits) : grid_signed(x_bits);
    Grid w_grid = is_extreme ? grid_signed(w_bits) : weight_grid(w_bits);
    const Scales *xs = scales_draw(arena, c->x_count, c->x_count, x_grid, x_zero);
    const Scales *ws = scales_draw(arena, c->w_count, per_channel ? c->filter : c->w_count, w_grid,
                                   w_zero && w_grid.step == 1);
    Tensor x = levels_draw(arena, c->x.shape, xs, is_extreme);
    Tensor w = levels_draw(arena, c->w.shape, ws, is_extreme);
    float *got = draw_values(arena, c->y_count), *expected = draw_values(arena, c->y_count);
    conv_forward_integer_reference(g, &x, &w, c->bias, expected);
    conv_forward(g, &x, &w, c->bias, TENSOR_F32(got), (ConvWritten){0}, scratch);
    assert_memory_equal(got, expected, (size_t)c->y_count * sizeof *got);

    Tensor x_packed = packed_of(arena, &x), w_packed = packed_of(arena, &w);
    conv_forward(g, &x_packed, &w_packed, c->bias, TENSOR_F32(got), (ConvWritten){0}, scratch);
    assert_memory_equal(got, expected, (size_t)c->y_count * sizeof *got);

    kernels_use_reference(true);
    conv_forward(g, &x_packed, &w, c->bias, TENSOR_F32(got), (ConvWritten){0}, scratch);
    kernels_use_reference(false);
    assert_memory_equal(got, expected, (size_t)c->y_count * sizeof *got);
}

static void test_levels_equal_integers(void **state) {
    (void)state;
    Arena *scratch = arena_new("scratch");
    for (int x_bits = 2; x_bits <= 8; x_bits += BITS_STEP)
        for (int w_bits = 2; w_bits <= 8; w_bits += BITS_STEP)
            for (int kind = 0; kind < 3; kind++) {
                Arena *arena = arena_new("case");
                Case c = case_draw(arena, kind);
                check_levels(&c, x_bits, w_bits, false, arena, scratch);
                arena_free(arena);
            }
    arena_free(scratch);
}

/* Sums of 8-bit products that leave the exact range of f32: 3 x 3 x 100 > 514. */
static void test_levels_beyond_f32(void **state) {
    (void)state;
    Arena *scratch = arena_new("scratch");
    for (int i = 0; i < repeats(12, 4); i++) {
        Arena *arena = arena_new("case");
        Case c = {.g = {.batch = 2,
                        .in_h = 4,
                        .in_w = 5,
                        .in_c = 200,
                        .out_h = 4,
                        .out_w = 5,
                        .out_c = 20,
                        .kernel_h = 3,
                        .kernel_w = 3,
                        .stride_h = 1,
                        .stride_w = 1,
                        .dilation_h = 1,
                        .dilation_w = 1,
                        .pad_top = 1,
                        .pad_left = 1,
                        .groups = 1 + i % 2}};
        case_fill(&c, arena);
        check_levels(&c, 8, 8, i / 2 % 2, arena, scratch);
        arena_free(arena);
    }
    Arena *arena = arena_new("case"); /* a depthwise kernel so large that its sums do */
    Case c = {.g = {.batch = 1,
                    .in_h = 30,
                    .in_w = 30,
                    .in_c = 18,
                    .out_h = 6,
                    .out_w = 6,
                    .out_c = 18,
                    .kernel_h = 25,
                    .kernel_w = 25,
                    .stride_h = 1,
                    .stride_w = 1,
                    .dilation_h = 1,
                    .dilation_w = 1,
                    .groups = 18}};
    case_fill(&c, arena);
    check_levels(&c, 8, 8, true, arena, scratch);
    arena_free(arena);
    arena_free(scratch);
}

/* Where only one side holds levels, or in the gradients, values are what counts; and half-precision
 * operands are decoded. */
static void test_mixed_operands(void **state) {
    (void)state;
    Arena *arena = arena_new("case"), *scratch = arena_new("scratch");
    for (int i = 0; i < repeats(12, 3); i++) {
        Case c = case_draw(arena, i % 3), d = c;
        const Scales *xs = scales_draw(arena, c.x_count, c.x_count, grid_unsigned(4), true);
        const Scales *ws = scales_draw(arena, c.w_count, c.filter, grid_signed(4), false);
        d.x = levels_draw(arena, c.x.shape, xs, false);
        check_case(&d, arena, scratch);
        d.x = packed_of(arena, &d.x);
        check_case(&d, arena, scratch);
        d.w = levels_draw(arena, c.w.shape, ws, false);
        d.x = c.x;
        check_case(&d, arena, scratch);
        d.w = tensor_new(arena, DTYPE_F16, c.w.shape);
        dtype_encode(DTYPE_F16, c.w.data, c.w_count, NULL, d.w.data);
        d.x = tensor_new(arena, DTYPE_BF16, c.x.shape);
        dtype_encode(DTYPE_BF16, c.x.data, c.x_count, NULL, d.x.data);
        check_case(&d, arena, scratch);
    }
    arena_free(arena);
    arena_free(scratch);
}

/* ---- Threads ---- */

typedef struct Results {
    float *y, *dx, *dw;
} Results;

static Results results_of(const Case *c, Arena *arena, Arena *scratch) {
    Results r;
    r.y = arena_new_array(arena, float, c->y_count);
    r.dx = arena_new_array(arena, float, c->x_count);
    r.dw = arena_new_array(arena, float, c->w_count);
    conv_forward(&c->g, &c->x, &c->w, c->bias, TENSOR_F32(r.y), (ConvWritten){0}, scratch);
    conv_backward_input(&c->g, TENSOR_F32(c->dy), &c->w, 1, TENSOR_F32(r.dx), scratch);
    conv_backward_weight(&c->g, &c->x, TENSOR_F32(c->dy), 1, r.dw, scratch);
    return r;
}

static void test_threads_change_no_bit(void **state) {
    (void)state;
    Arena *scratch = arena_new("scratch");
    for (int i = 0; i < repeats(36, 12); i++) {
        Arena *arena = arena_new("case");
        Case c = case_draw(arena, i % 3);
        c.g.batch = draw(1, 37);
        case_fill(&c, arena);
        Results one = {0};
        for (int threads = 1; threads <= 4; threads++) {
            Error err = {0};
            assert_true(parallel_init(threads, &err));
            Results some = results_of(&c, arena, scratch);
            if (threads == 1) one = some;
            assert_memory_equal(one.y, some.y, (size_t)c.y_count * sizeof(float));
            assert_memory_equal(one.dx, some.dx, (size_t)c.x_count * sizeof(float));
            assert_memory_equal(one.dw, some.dw, (size_t)c.w_count * sizeof(float));
        }
        arena_free(arena);
    }
    arena_free(scratch);
}

/* ---- Instruction sets ---- */

static bool choose(const char *isa) {
    Error err = {0};
    setenv("NIBBLE_ISA", isa, 1);
    bool is_chosen = kernels_init(&err);
    unsetenv("NIBBLE_ISA");
    return is_chosen;
}

static void test_every_isa(void **state) {
    static const char *const names[] = {"baseline", "avx2", "avx512"};
    for (int i = 0; i < 3; i++) {
        if (!choose(names[i])) continue;
        for (int kind = 0; kind < 3; kind++) random_shapes(kind);
        test_levels_equal_integers(state);
    }
    Error err = {0};
    assert_true(kernels_init(&err));
}

/* Vector lengths change no bit, as long as multiply-adds are fused in both. */
static void test_vector_lengths_change_no_bit(void **state) {
    (void)state;
    static const char *const names[] = {"avx2", "avx512"};
    if (!choose(names[1])) skip();
    Arena *arena = arena_new("case"), *scratch = arena_new("scratch");
    for (int i = 0; i < 12; i++) {
        Case c = case_draw(arena, i % 3);
        Results results[2] = {0};
        for (int j = 0; j < 2; j++) {
            assert_true(choose(names[j]));
            results[j] = results_of(&c, arena, scratch);
        }
        assert_memory_equal(results[0].y, results[1].y, (size_t)c.y_count * sizeof(float));
        assert_memory_equal(results[0].dx, results[1].dx, (size_t)c.x_count * sizeof(float));
        assert_memory_equal(results[0].dw, results[1].dw, (size_t)c.w_count * sizeof(float));
    }
    Error err = {0};
    assert_true(kernels_init(&err));
    arena_free(arena);
    arena_free(scratch);
}

/* After the largest call, scratch has what it needs: no further call asks the system for memory. */
static void test_scratch_settles(void **state) {
    (void)state;
    Arena *arena = arena_new("case"), *scratch = arena_new("scratch");
    Case c = case_draw(arena, 0);
    for (int i = 0; i < 2; i++) {
        results_of(&c, arena, scratch);
        arena_reset(scratch);
    }
    size_t calls = arena_system_calls(scratch);
    results_of(&c, arena, scratch);
    assert_int_equal(arena_system_calls(scratch), calls);
    arena_free(arena);
    arena_free(scratch);
}

static int setup(void **state) {
    (void)state;
    Error err = {0};
    return parallel_init(2, &err) ? 0 : -1;
}

typedef struct Told {
    Tensor y;
    size_t image_bytes;
    int *times;
    char *seen; /* what was in y when it was told of */
} Told;

static void image_told(const void *context, int64_t image) {
    const Told *told = context;
    size_t at = (size_t)image * told->image_bytes;
    told->times[image]++;
    memcpy(told->seen + at, (char *)told->y.data + at, told->image_bytes);
}

/* Of every image once, and when it is there: f32 and staged, by the kernels and the reference. */
static void test_written_images_are_told(void **state) {
    (void)state;
    Arena *scratch = arena_new("scratch");
    for (int i = 0; i < repeats(40, 12); i++) {
        Arena *arena = arena_new("case");
        Case c = case_draw(arena, i % 3);
        bool is_reference = i % 4 == 3;
        c.g.batch = c.x.shape.dim[0] = draw(1, 20);
        case_fill(&c, arena);
        if (is_reference) { /* which is for levels */
            c.x = levels_draw(arena, c.x.shape,
                              scales_draw(arena, c.x_count, c.x_count, grid_unsigned(4), false),
                              false);
            c.w =
                levels_draw(arena, c.w.shape,
                            scales_draw(arena, c.w_count, c.w_count, grid_signed(4), false), false);
        }
        Dtype dtype = i % 2 && !is_reference ? DTYPE_F16 : DTYPE_F32;
        Told told = {.y = tensor_new(arena, dtype, SHAPE(c.y_count))};
        told.image_bytes = tensor_bytes(&told.y) / (size_t)c.g.batch;
        told.times = arena_new_array(arena, int, c.g.batch);
        told.seen = arena_zalloc(arena, tensor_bytes(&told.y));
        kernels_use_reference(is_reference);
        conv_forward(&c.g, &c.x, &c.w, c.bias, &told.y, (ConvWritten){image_told, &told}, scratch);
        kernels_use_reference(false);
        for (int64_t image = 0; image < c.g.batch; image++) assert_int_equal(told.times[image], 1);
        assert_memory_equal(told.seen, told.y.data, tensor_bytes(&told.y));
        arena_free(arena);
    }
    arena_free(scratch);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_shapes),
        cmocka_unit_test(test_random_groups),
        cmocka_unit_test(test_random_depthwise),
        cmocka_unit_test(test_beta_zero_reads_nothing),
        cmocka_unit_test(test_levels_equal_integers),
        cmocka_unit_test(test_levels_beyond_f32),
        cmocka_unit_test(test_mixed_operands),
        cmocka_unit_test(test_written_images_are_told),
        cmocka_unit_test(test_threads_change_no_bit),
        cmocka_unit_test(test_every_isa),
        cmocka_unit_test(test_vector_lengths_change_no_bit),
        cmocka_unit_test(test_scratch_settles),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
