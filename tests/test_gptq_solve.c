/* GPTQ of one matrix: against a float64 program of the published
 * algorithm (tests/golden/make_gptq.py), and where the result is known beforehand. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "autograd/ops.h"
#include "core/parallel.h"
#include "core/random.h"
#include "qat/observer.h"
#include "qat/ptq/gptq_solve.h"
#include "qat/ptq/hessian.h"
#include "tests/golden.h"

typedef struct Rule {
    Grid grid;
    bool is_affine;
} Rule;

static void fit(void *context, const float *x, int64_t rows, int64_t length, float *scale,
                float *offset) {
    const Rule *rule = context;
    assert_false(parallel_is_active());
    for (int64_t i = 0; i < rows; i++) {
        Range range = observer_range(x + i * length, length);
        RangeFit found = range_fit(range, rule->grid, rule->is_affine, DTYPE_F32);
        scale[i] = found.scale;
        if (offset) offset[i] = found.offset;
    }
}

static const GptqSettings plain = {.block = 128, .damping = 0.01};

/* Sums of products of x [samples, columns]. */
static Hessian hessian_of(const float *x, int64_t samples, int64_t columns, Arena *arena) {
    ConvGeometry geometry = conv_of_rows(samples, columns, 1);
    Hessian h = hessian_new(&geometry, arena);
    hessian_add(&h, &geometry, x, samples);
    hessian_finish(&h);
    return h;
}

static GptqSolution solution_new(const GptqProblem *p, bool is_affine, Arena *arena) {
    int64_t count = p->rows * ((p->columns + p->run - 1) / p->run);
    return (GptqSolution){
        .values = arena_new_array(arena, float, p->rows * p->columns),
        .scale = arena_new_array(arena, float, count),
        .offset = is_affine ? arena_new_array(arena, float, count) : NULL,
    };
}

/* ---- Golden cases ---- */

static void check_golden(const GoldenCase *c, Arena *arena) {
    const GoldenTensor *x = golden_tensor(c, "x"), *w = golden_tensor(c, "w");
    int bits = (int)golden_number(c, "bits");
    int64_t group = (int64_t)golden_number(c, "group");
    Rule rule = {.is_affine = golden_number(c, "affine") != 0};
    rule.grid = rule.is_affine ? grid_unsigned(bits) : grid_signed(bits);
    Hessian h = hessian_of(x->values, x->shape.dim[0], x->shape.dim[1], arena);
    GptqProblem p = {.rows = w->shape.dim[0],
                     .columns = w->shape.dim[1],
                     .weight = w->values,
                     .hessian = h.sum,
                     .grid = rule.grid,
                     .scale_dtype = DTYPE_F32,
                     .run = group ? group : w->shape.dim[1],
                     .fit = fit,
                     .context = &rule,
                     .settings = {.block = 16,
                                  .damping = 0.01,
                                  .act_order = golden_number(c, "act_order") != 0,
                                  .static_groups = golden_number(c, "static") != 0}};
    GptqSolution s = solution_new(&p, rule.is_affine, arena);
    Error err = {0};
    if (!gptq_solve(&p, &s, arena, &err)) fail_msg("case %d: %s", c->number, err.message);
    golden_compare(c, "scale", s.scale, 1e-5f);
    golden_compare(c, "values", s.values, 1e-5f);
    float error = (float)s.error, nearest = (float)s.nearest;
    golden_compare(c, "error", &error, 1e-4f);
    golden_compare(c, "nearest", &nearest, 1e-4f);
    assert_int_equal(s.dead, (int)golden_number(c, "dead"));
    assert_true(s.damping == 0.01);
    for (int64_t i = 0; i < shape_count(golden_tensor(c, "scale")->shape) && s.offset; i++) {
        float zero = fake_quant_zero(rule.grid, s.offset[i], s.scale[i]);
        assert_true(zero == golden_tensor(c, "zero")->values[i]);
    }
}

static void test_golden(void **state) {
    (void)state;
    Arena *arena = arena_new("golden");
    Golden golden = golden_open("tests/golden/gptq.txt", arena);
    GoldenCase c;
    while (golden_next(&golden, &c)) check_golden(&c, arena);
    assert_int_equal(golden.cases, 23);
    golden_close(&golden);
    arena_free(arena);
}

/* ---- Known results ---- */

typedef struct Known {
    GptqProblem p;
    GptqSolution s;
    Arena *arena;
} Known;

/* 4 bits, a scale per row. */
static Known known_new(int64_t rows, int64_t columns, Rule *rule) {
    Known k = {.arena = arena_new("known")};
    float *w = arena_new_array(k.arena, float, rows *columns);
    for (int64_t i = 0; i < rows * columns; i++)
        w[i] = random_normal((RandomKey){1, RANDOM_TEST, 0}, (uint64_t)i);
    *rule = (Rule){.grid = grid_signed(4)};
    k.p = (GptqProblem){.rows = rows,
                        .columns = columns,
                        .weight = w,
                        .hessian = arena_new_array(k.arena, double, columns *columns),
                        .grid = rule->grid,
                        .scale_dtype = DTYPE_F32,
                        .run = columns,
                        .fit = fit,
                        .context = rule,
                        .settings = plain};
    k.s = solution_new(&k.p, false, k.arena);
    return k;
}

static double *hessian_in(const Known *k) {
    return (double *)(uintptr_t)k->p.hessian;
}

/* Inputs that do not go together leave nothing to be made good: each weight is rounded by itself.
 */
static void test_diagonal_is_nearest(void **state) {
    (void)state;
    for (int act_order = 0; act_order < 2; act_order++) {
        Rule rule;
        Known k = known_new(7, 50, &rule);
        for (int64_t i = 0; i < 50; i++) hessian_in(&k)[i * 51] = 1 + (double)(i * 17 % 50);
        k.p.settings.act_order = act_order;
        Error err = {0};
        assert_true(gptq_solve(&k.p, &k.s, k.arena, &err));
        assert_true(k.s.error == k.s.nearest && k.s.error > 0 && k.s.dead == 0);
        for (int64_t i = 0; i < 7; i++) {
            float stored = k.s.scale[i];
            Scales scales = {50, 50, 1, DTYPE_F32, rule.grid, &stored, NULL, NULL, 0};
            float nearest[50];
            quantize_levels(k.p.weight + i * 50, &scales, 0, 50, nearest);
            levels_decode(nearest, &scales, 0, 50, nearest);
            assert_memory_equal(nearest, k.s.values + i * 50, sizeof nearest);
        }
        arena_free(k.arena);
    }
}

/* Two weights of 0.4 on the integers, inputs of correlation 1/2. The first becomes 0; the second is
 * then best 0.4 + 0.4 / 2 = 0.6, and becomes 1. Lost: 0.16 + 0.36 - 0.24 = 0.28; rounding each
 * gives 0 and 0, which lose 0.48, all that there was. */
static void test_two_weights(void **state) {
    (void)state;
    Arena *arena = arena_new("two");
    float w[] = {0.4f, 0.4f}, values[2], scale = 1;
    double h[] = {1, 0.5, 0.5, 1};
    GptqProblem p = {.rows = 1,
                     .columns = 2,
                     .weight = w,
                     .hessian = h,
                     .grid = grid_signed(4),
                     .scale_dtype = DTYPE_F32,
                     .run = 2,
                     .settings = {.block = 1}};
    for (p.settings.block = 1; p.settings.block <= 2; p.settings.block++) {
        GptqSolution s = {.values = values, .scale = &scale};
        Error err = {0};
        assert_true(gptq_solve(&p, &s, arena, &err));
        assert_true(values[0] == 0 && values[1] == 1 && scale == 1);
        assert_float_equal(s.error, 0.28, 1e-7);
        assert_float_equal(s.nearest, 0.48, 1e-7);
        assert_float_equal(s.energy, 0.48, 1e-7);
    }
    arena_free(arena);
}

/* A dead column counts as H = 1 in the damping, here 0.3 (0.1 + 0.1 + 1) / 3 = 0.12. The first
 * weight becomes 0, and the second 0.42 + 0.4 x 0.05 / (0.1 + 0.12), which is above 1/2. */
static void test_dead_counts_as_one(void **state) {
    (void)state;
    Arena *arena = arena_new("dead");
    float w[] = {0.4f, 0.42f, 3}, values[3], scale = 1;
    double h[] = {0.1, 0.05, 0, 0.05, 0.1, 0, 0, 0, 0};
    GptqProblem p = {.rows = 1,
                     .columns = 3,
                     .weight = w,
                     .hessian = h,
                     .grid = grid_signed(4),
                     .scale_dtype = DTYPE_F32,
                     .run = 3,
                     .settings = {.block = 2, .damping = 0.3}};
    for (int i = 0; i < 2; i++) {
        GptqSolution s = {.values = values, .scale = &scale};
        Error err = {0};
        assert_true(gptq_solve(&p, &s, arena, &err));
        assert_int_equal(s.dead, 1);
        assert_true(values[0] == 0 && values[1] == (i ? 0 : 1) && values[2] == 0);
        w[1] = 0.40f; /* 0.4909 */
    }
    arena_free(arena);
}

/* The scale that counts is the one that is stored. */
static void test_scales_are_stored_ones(void **state) {
    (void)state;
    Rule rule;
    Known k = known_new(3, 20, &rule);
    for (int64_t i = 0; i < 20; i++) hessian_in(&k)[i * 21] = 1;
    k.p.scale_dtype = DTYPE_BF16;
    Error err = {0};
    assert_true(gptq_solve(&k.p, &k.s, k.arena, &err));
    for (int64_t i = 0; i < 60; i++) {
        float level = k.s.values[i] / dtype_round(DTYPE_BF16, k.s.scale[i / 20]);
        assert_true(level == roundf(level));
    }
    arena_free(k.arena);
}

/* ---- What cannot be factored ---- */

static void fill(Known *k, double value) {
    for (int64_t i = 0; i < k->p.columns * k->p.columns; i++) hessian_in(k)[i] = value;
}

/* All inputs equal, as H of rank one: without damping it has no factor. */
static void test_singular_is_damped_more(void **state) {
    (void)state;
    Rule rule;
    Known k = known_new(3, 12, &rule);
    fill(&k, 2);
    k.p.settings.damping = 0;
    Error err = {0};
    assert_true(gptq_solve(&k.p, &k.s, k.arena, &err));
    assert_true(k.s.damping == 0.01);
    assert_true(k.s.error < k.s.nearest);
    k.p.settings.damping = 1e-18;
    assert_true(gptq_solve(&k.p, &k.s, k.arena, &err));
    assert_true(k.s.damping > 5e-18 && k.s.damping < 1e-12);
    arena_free(k.arena);
}

static void test_no_factor(void **state) {
    (void)state;
    Rule rule;
    Known k = known_new(3, 12, &rule);
    fill(&k, -1);
    Error err = {0};
    assert_false(gptq_solve(&k.p, &k.s, k.arena, &err));
    assert_int_equal(err.code, ERROR_NUMERIC);
    assert_string_equal(err.message,
                        "the Hessian of 12 inputs has no Cholesky factor, not even with its mean "
                        "diagonal added 1 times: more calibration data, or a method without one");
    err = (Error){0};
    hessian_in(&k)[5 * 13] = NAN;
    assert_false(gptq_solve(&k.p, &k.s, k.arena, &err));
    assert_string_equal(err.message,
                        "the squares of input 5, summed over the calibration data, are "
                        "not finite");
    err = (Error){0};
    ((float *)(uintptr_t)k.p.weight)[30] = INFINITY;
    assert_false(gptq_solve(&k.p, &k.s, k.arena, &err));
    assert_string_equal(err.message, "weight 30 is not finite");
    arena_free(k.arena);
}

static void test_nothing_ever_seen(void **state) {
    (void)state;
    Rule rule;
    Known k = known_new(3, 12, &rule);
    Error err = {0};
    assert_true(gptq_solve(&k.p, &k.s, k.arena, &err));
    assert_int_equal(k.s.dead, 12);
    for (int64_t i = 0; i < 36; i++) assert_true(k.s.values[i] == 0);
    assert_true(k.s.error == 0 && k.s.energy == 0);
    arena_free(k.arena);
}

/* ---- Threads ---- */

static void solve_with(int threads, float *values, double *error) {
    enum { ROWS = 70, COLUMNS = 300, SAMPLES = 500 };
    Error err = {0};
    assert_true(parallel_init(threads, &err));
    Rule rule;
    Known k = known_new(ROWS, COLUMNS, &rule);
    float *x = arena_new_array(k.arena, float, SAMPLES *COLUMNS);
    random_fill_normal((RandomKey){4, RANDOM_TEST, 0}, 1, SAMPLES * COLUMNS, x);
    for (int64_t i = 1; i < SAMPLES * COLUMNS; i++) x[i] += 0.8f * x[i - 1];
    Hessian h = hessian_of(x, SAMPLES, COLUMNS, k.arena);
    k.p.hessian = h.sum;
    k.p.run = 50;
    k.s = solution_new(&k.p, false, k.arena);
    assert_true(gptq_solve(&k.p, &k.s, k.arena, &err));
    memcpy(values, k.s.values, sizeof(float) * ROWS * COLUMNS);
    *error = k.s.error;
    assert_true(k.s.error < 0.6 * k.s.nearest);
    arena_free(k.arena);
}

static void test_threads(void **state) {
    (void)state;
    static float one[70 * 300], more[70 * 300];
    double error_of_one, error;
    solve_with(1, one, &error_of_one);
    for (int threads = 2; threads <= 4; threads++) {
        solve_with(threads, more, &error);
        assert_memory_equal(one, more, sizeof one);
        assert_memory_equal(&error_of_one, &error, sizeof error);
    }
}

static void test_bytes(void **state) {
    (void)state;
    Rule rule;
    Known k = known_new(30, 100, &rule);
    k.p.settings.act_order = true;
    Error err = {0};
    Arena *scratch = arena_new("scratch");
    assert_true(gptq_solve(&k.p, &k.s, scratch, &err));
    assert_int_equal(arena_used(scratch), 0);
    int64_t promised = gptq_solve_bytes(30, 100, 100, k.p.settings.block);
    assert_in_range(arena_peak(scratch), promised * 9 / 10, promised);
    arena_free(scratch);
    arena_free(k.arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_diagonal_is_nearest),
        cmocka_unit_test(test_two_weights),
        cmocka_unit_test(test_dead_counts_as_one),
        cmocka_unit_test(test_scales_are_stored_ones),
        cmocka_unit_test(test_singular_is_damped_more),
        cmocka_unit_test(test_no_factor),
        cmocka_unit_test(test_nothing_ever_seen),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_bytes),
    };
    Error err = {0};
    if (!parallel_init(0, &err)) return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
