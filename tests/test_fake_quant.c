/* Fake-quant: PyTorch's goldens, a plain reference over random ranges, and what its header
 * promises. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "autograd/ops.h"
#include "core/kernels.h"
#include "core/parallel.h"
#include "tests/golden.h"
#include "tests/tape_fixture.h"

static int set_up(void **state) {
    (void)state;
    tape_fixture();
    tape_begin(tape, TAPE_TRAINING);
    return 0;
}

static Tensor tensor_of(const GoldenTensor *golden) {
    return (Tensor){.dtype = DTYPE_F32, .shape = golden->shape, .data = golden->values};
}

static Var *leaf(const GoldenTensor *golden) {
    int64_t count = shape_count(golden->shape);
    return tape_leaf(tape, tensor_of(golden), arena_new_array(tape->arena, float, count), NULL);
}

/* Gradients of sum(y dy). */
static void backward(Var *y, Tensor dy) {
    Var *weight = tape_constant(tape, dy);
    Var *product = op_mul(tape, y, weight);
    Var *loss = op_sum(tape, product, -1);
    tape_backward(tape, loss, 1);
    if (tape->error.code != ERROR_NONE) fail_msg("%s", tape->error.message);
}

static FakeQuantAttr attr_new(Grid grid, int64_t row_length, int64_t run_length,
                              RangeGradient range_gradient) {
    return (FakeQuantAttr){.grid = grid,
                           .row_length = row_length,
                           .run_length = run_length,
                           .scale_dtype = DTYPE_F32,
                           .range_gradient = range_gradient,
                           .grad_scale = 1};
}

static void assert_close(double got, double expected, double tolerance) {
    if (!(fabs(got - expected) <= tolerance * fmax(1, fabs(expected))))
        fail_msg("%.9g, expected %.9g", got, expected);
}

/* PyTorch's zero point is a parameter beside the scale; ours follows from offset = -zero scale. So
 * d scale (PyTorch) = d scale - zero d offset and d zero (PyTorch) = -scale d offset. */
static void check_range_gradient(const GoldenCase *golden, const float *zero, const Var *scale,
                                 const Var *offset) {
    float dscale[8], dzero[8];
    int64_t count = var_count(scale);
    assert_true(count <= 8);
    for (int64_t i = 0; i < count; i++) {
        float to_offset = offset ? var_grad_f32(offset)[i] : 0;
        dscale[i] = var_grad_f32(scale)[i] - zero[i] * to_offset;
        dzero[i] = -var_f32(scale)[i] * to_offset;
    }
    golden_compare(golden, "dscale", dscale, 2e-6f);
    if (offset) golden_compare(golden, "dzero", dzero, 2e-6f);
}

/* The offset that stands for a zero point, or NULL where all are 0. */
static Var *offset_of(const GoldenTensor *zero, const Var *scale) {
    Var *offset = tape_sample_leaf(tape, zero->shape, 0, 0);
    bool is_needed = false;
    for (int64_t i = 0; i < var_count(offset); i++) {
        var_f32(offset)[i] = -zero->values[i] * var_f32(scale)[i];
        is_needed = is_needed || zero->values[i] != 0;
    }
    return is_needed ? offset : NULL;
}

static void check_golden(const GoldenCase *golden) {
    bool is_learned = strcmp(golden->name, "learned") == 0;
    const float *grid = golden_tensor(golden, "grid")->values;
    const GoldenTensor *zero = golden_tensor(golden, "zero");
    tape_begin(tape, TAPE_TRAINING);
    Var *x = leaf(golden_tensor(golden, "x"));
    Var *scale = leaf(golden_tensor(golden, "scale"));
    Var *offset = offset_of(zero, scale);
    int64_t run = var_count(x) / var_count(scale);
    FakeQuantAttr attr = attr_new((Grid){(int)grid[0], (int)grid[1], 1}, run, run,
                                  is_learned ? RANGE_LSQ : RANGE_FIXED);
    attr.grad_scale = golden_number(golden, "factor");
    Var *y = op_fake_quant(tape, x, scale, offset, attr);
    backward(y, tensor_of(golden_tensor(golden, "dy")));
    float *values = arena_new_array(arena, float, var_count(x));
    tensor_decode(&y->value, values);
    golden_compare(golden, "y", values, 0);
    golden_compare(golden, "dx", var_grad_f32(x), 0);
    if (is_learned) check_range_gradient(golden, zero->values, scale, offset);
}

static void test_pytorch(void **state) {
    (void)state;
    Golden golden = golden_open("tests/golden/fake_quant.txt", arena);
    GoldenCase next;
    while (golden_next(&golden, &next)) check_golden(&next);
    assert_int_equal(golden.cases, 15);
    golden_close(&golden);
}

/* One element by the formulas: its value, and what dy = 1 adds to each gradient. */
typedef struct Element {
    float value;
    double dx, dscale, doffset;
} Element;

static Element element_reference(float x, float scale, float offset, const FakeQuantAttr *attr) {
    Grid grid = attr->grid;
    float v = x * (1.0f / scale), shift = rintf(offset / scale);
    float low = (float)grid_low(grid) + shift, high = (float)grid_high(grid) + shift;
    float level = grid.step == 1 ? rintf(v) : rintf((v - low) / 2) * 2 + low;
    bool is_inside = level >= low && level <= high;
    if (attr->range_gradient == RANGE_STRETCHED) /* the levels share 2 alpha evenly */
        is_inside = fabsf(v) <= 0.99f * ((high - low + (float)grid.step) / 2);
    else if (attr->range_gradient == RANGE_SIGN)
        is_inside = fabsf(v) <= 1;
    float clamped = level < low ? low : level > high ? high : level;
    Element e = {.value = scale * clamped, .dx = is_inside, .doffset = !is_inside};
    if (!is_inside)
        e.dscale = (double)clamped - (double)offset / (double)scale;
    else if (attr->range_gradient == RANGE_SIGN)
        e.dscale = v > 0 ? 1 : -1;
    else if (attr->range_gradient != RANGE_PACT && attr->range_gradient != RANGE_FIXED)
        e.dscale = (double)level - (double)v;
    return e;
}

static void check_reference(Shape shape, FakeQuantAttr attr, bool has_offset) {
    tape_begin(tape, TAPE_TRAINING);
    int64_t count = shape_count(shape);
    int64_t scales = scales_count(count, attr.row_length, attr.run_length);
    float span = (float)(1 << attr.grid.bits);
    Var *x = tape_sample_leaf(tape, shape, -span * 0.8f, span * 0.8f);
    Var *scale = tape_sample_leaf(tape, SHAPE(scales), 0.3f, 1.2f);
    Var *offset = has_offset ? tape_sample_leaf(tape, SHAPE(scales), -0.3f * span, -0.2f) : NULL;
    Tensor dy = tape_sample_leaf(tape, shape, -1, 1)->value;
    Var *y = op_fake_quant(tape, x, scale, offset, attr);
    for (int64_t i = 0; i < count; i++) var_grad_f32(x)[i] = 0.25f; /* something to add to */
    *x->has_grad = true;
    backward(y, dy);
    double *dscale = arena_new_array(arena, double, scales);
    double *doffset = arena_new_array(arena, double, scales);
    double *size = arena_new_array(arena, double, scales); /* of all terms: f32 sums err by it */
    float *values = arena_new_array(arena, float, count);
    tensor_decode(&y->value, values);
    for (int64_t i = 0, s; i < count; i++) {
        scales_run(y->value.scales, i, &s);
        Element e = element_reference(var_f32(x)[i], var_f32(scale)[s],
                                      offset ? var_f32(offset)[s] : 0, &attr);
        double d = (double)tensor_f32(&dy)[i];
        assert_true(values[i] == e.value);
        assert_true(var_grad_f32(x)[i] == 0.25f + (float)(e.dx * d));
        dscale[s] += e.dscale * d;
        doffset[s] += e.doffset * d;
        size[s] += fabs(e.dscale * d) + fabs(e.doffset * d);
    }
    for (int64_t s = 0; s < scales; s++) {
        double unit = (double)attr.grad_scale;
        if (attr.range_gradient == RANGE_FIXED) {
            assert_false(*scale->has_grad);
            continue;
        }
        double tolerance = 1e-6 * size[s];
        assert_true(fabs((double)var_grad_f32(scale)[s] - unit * dscale[s]) <= tolerance);
        assert_true(!offset ||
                    fabs((double)var_grad_f32(offset)[s] - unit * doffset[s]) <= tolerance);
    }
}

static void check_granularities(Grid grid, RangeGradient kind, bool has_offset) {
    FakeQuantAttr attr = attr_new(grid, 1400, 1400, kind);
    attr.grad_scale = 0.375f;
    check_reference(SHAPE(20, 70), attr, false); /* per tensor */
    attr.row_length = attr.run_length = 70;
    check_reference(SHAPE(20, 70), attr, false); /* per row */
    attr.run_length = 32;
    check_reference(SHAPE(20, 70), attr, has_offset); /* per group, the last one short */
}

/* Of two levels a weight of 0 takes the lower one, and its range learns of that. */
static void test_sign_of_zero(void **state) {
    (void)state;
    tape_begin(tape, TAPE_TRAINING);
    Var *x = tape_sample_leaf(tape, SHAPE(40), 0, 0);
    Var *scale = tape_sample_leaf(tape, SHAPE(1), 0.5f, 0.5f);
    Tensor dy = tape_sample_leaf(tape, SHAPE(40), 1, 1)->value;
    Var *y = op_fake_quant(tape, x, scale, NULL, attr_new(grid_odd(1), 40, 40, RANGE_SIGN));
    backward(y, dy);
    for (int i = 0; i < 40; i++) assert_true(var_f32(y)[i] == -1 && var_grad_f32(x)[i] == 1);
    assert_true(*var_grad_f32(scale) == -40);
}

/* All bits and grids, kinds of range, and granularities with ragged and long runs. */
static void test_reference(void **state) {
    (void)state;
    for (int bits = 2; bits <= 8; bits++) {
        const Grid grids[] = {grid_signed(bits), grid_unsigned(bits), grid_odd(bits)};
        for (int g = 0; g < 3; g++)
            for (int kind = RANGE_FIXED; kind <= RANGE_PACT; kind++)
                check_granularities(grids[g], (RangeGradient)kind, g == 1);
    }
    check_granularities(grid_ternary(), RANGE_LSQ, false);
    check_granularities(grid_ternary(), RANGE_STRETCHED, false);
    check_granularities(grid_odd(2), RANGE_STRETCHED, false);
    check_granularities(grid_odd(1), RANGE_SIGN, false);
    check_reference(SHAPE(3, 40001), attr_new(grid_signed(4), 120003, 120003, RANGE_LSQ), false);
    check_reference(SHAPE(3, 40001), attr_new(grid_unsigned(4), 40001, 40001, RANGE_LSQ), true);
}

/* Choi et al. 2018: y = clip(x, 0, alpha) quantized, d alpha = sum of dy where x >= alpha. With
 * alpha = (2^b - 1) scale, d scale = (2^b - 1) d alpha. */
static void test_pact(void **state) {
    (void)state;
    Var *x = tape_sample_leaf(tape, SHAPE(500), -1, 4);
    Var *scale = tape_sample_leaf(tape, SHAPE(1), 0.125f, 0.125f);
    Tensor dy = tape_sample_leaf(tape, SHAPE(500), -1, 1)->value;
    double alpha = 15 * 0.125, dalpha = 0;
    for (int i = 0; i < 500; i++) {
        /* Between alpha and half a step above it rounding decides: keep clear. */
        if (fabs((double)var_f32(x)[i] - alpha) < 0.07) var_f32(x)[i] = 1;
        if ((double)var_f32(x)[i] >= alpha) dalpha += (double)tensor_f32(&dy)[i];
    }
    FakeQuantAttr attr = attr_new(grid_unsigned(4), 500, 500, RANGE_PACT);
    Var *y = op_fake_quant(tape, x, scale, NULL, attr);
    backward(y, dy);
    assert_close((double)*var_grad_f32(scale), 15 * dalpha, 1e-6);
}

/* The scale that is used is the one that is stored, and it is never 0 or below. */
static void test_stored_scale(void **state) {
    (void)state;
    assert_true(fake_quant_stored_scale(DTYPE_F32, 0.1f) == 0.1f);
    assert_true(fake_quant_stored_scale(DTYPE_F32, -3) == FLT_MIN);
    assert_true(fake_quant_stored_scale(DTYPE_BF16, 0) == FLT_MIN);
    assert_true(fake_quant_stored_scale(DTYPE_F16, 1e-9f) == 0x1p-14f);
    assert_true(fake_quant_stored_scale(DTYPE_F16, 0.1f) == 0x1.998p-4f);
    assert_true(fake_quant_stored_scale(DTYPE_F16, 1e5f) == 65504);
    assert_true(fake_quant_stored_scale(DTYPE_BF16, FLT_MAX) == 0x1.fep127f);
    assert_true(isnan(fake_quant_stored_scale(DTYPE_F32, NAN)));
    assert_true(isinf(fake_quant_stored_scale(DTYPE_F16, INFINITY)));
    for (Dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
        tape_begin(tape, TAPE_TRAINING);
        Var *x = tape_sample_leaf(tape, SHAPE(6, 8), -2, 2);
        Var *scale = tape_sample_leaf(tape, SHAPE(6), 0.1f, 0.4f);
        FakeQuantAttr attr = attr_new(grid_signed(4), 8, 8, RANGE_LSQ);
        attr.scale_dtype = dtype;
        Var *y = op_fake_quant(tape, x, scale, NULL, attr);
        assert_int_equal(y->value.scales->dtype, dtype);
        for (int i = 0; i < 6; i++) {
            float stored = y->value.scales->scale[i];
            assert_true(stored == dtype_round(dtype, var_f32(scale)[i]));
            for (int j = 0; j < 8; j++) {
                float level = var_f32(y)[8 * i + j];
                assert_true(fabsf(level * stored - var_f32(x)[8 * i + j]) <= 0.501f * stored ||
                            level == -8 || level == 7);
            }
        }
    }
}

/* Between a product and another: relu, fake-quant. */
static Var *record_quantized(void *context, Tape *t) {
    const Tensor *x = context;
    static float weight[6 * 8], scale = 0.1f;
    for (int i = 0; i < 6 * 8; i++) weight[i] = (float)(i % 5) - 2;
    Var *in = tape_constant(t, *x);
    Var *w = tape_constant(t, (Tensor){DTYPE_F32, SHAPE(6, 8), weight, NULL});
    Var *s = tape_constant(t, (Tensor){DTYPE_F32, SHAPE(1), &scale, NULL});
    Var *positive = op_relu(t, in);
    int64_t count = var_count(positive);
    bool by_rows = count > 64; /* not as a map */
    FakeQuantAttr attr = attr_new(grid_unsigned(t->mode.is_training ? 4 : 8), by_rows ? 8 : count,
                                  by_rows ? 8 : count, RANGE_LSQ);
    if (by_rows) {
        float *scales = tape_alloc(t, sizeof(float) * (size_t)(count / 8));
        for (int64_t i = 0; i < count / 8; i++) scales[i] = scale;
        s = tape_constant(t, (Tensor){DTYPE_F32, SHAPE(count / 8), scales, NULL});
    }
    Var *y = op_fake_quant(t, positive, s, NULL, attr);
    Var *z = op_linear(t, y, w, NULL);
    return op_sum(t, z, -1);
}

/* Codes cannot hold a NaN; that there was one is said, whoever records. */
static void test_nan_is_said(void **state) {
    (void)state;
    const TapeMode modes[] = {TAPE_TRAINING, TAPE_EVALUATION};
    float values[16 * 8];
    for (int64_t rows = 4; rows <= 16; rows += 12)
        for (int m = 0; m < 2; m++)
            for (int at = -1; at < rows * 8; at += 5) {
                for (int i = 0; i < rows * 8; i++) values[i] = i == at ? NAN : 0.1f * (float)i;
                Tensor x = {DTYPE_F32, SHAPE(rows, 8), values, NULL};
                tape_run(tape, modes[m], record_quantized, &x);
                const Var *met = tape_find_nan(tape);
                assert_true(at < 0 ? !met : met && !strcmp(met->op->name, "fake_quant"));
                tape_begin(tape, modes[m]);
                record_quantized(&x, tape);
                assert_true((tape_find_nan(tape) != NULL) == (at >= 0));
            }
}

/* Packing what fake-quant gives and reading it back yields the same values. */
static void test_fake_is_stored(void **state) {
    (void)state;
    for (int bits = 2; bits <= 8; bits++) {
        tape_begin(tape, TAPE_TRAINING);
        Var *x = tape_sample_leaf(tape, SHAPE(8, 24), -4, 4);
        Var *scale = tape_sample_leaf(tape, SHAPE(16), 0.02f, 0.5f);
        Var *offset = tape_sample_leaf(tape, SHAPE(16), -6, 1);
        FakeQuantAttr attr = attr_new(grid_unsigned(bits), 24, 16, RANGE_LSQ);
        Var *y = op_fake_quant(tape, x, scale, offset, attr);
        assert_int_equal(tape->error.code, ERROR_NONE);
        Tensor packed = tensor_new(arena, dtype_integer(bits), y->value.shape);
        packed.scales = y->value.scales;
        dtype_codec(dtype_integer(y->value.scales->grid.bits))
            ->write_levels(var_f32(y), y->value.scales, 0, 8 * 24, packed.data);
        float fake[8 * 24], stored[8 * 24];
        tensor_decode(&y->value, fake);
        tensor_decode(&packed, stored);
        assert_memory_equal(fake, stored, sizeof fake);
    }
}

/* An offset that would leave zero outside the levels is held at the end, and learns nothing. */
static void test_zero_stays_a_level(void **state) {
    (void)state;
    static const float offsets[] = {3.0f, -40.0f, -1.5f};
    static const float zeros[] = {0, 15, 3};
    for (int i = 0; i < 3; i++) {
        tape_begin(tape, TAPE_TRAINING);
        Var *x = tape_sample_leaf(tape, SHAPE(64), -30, 30);
        Var *scale = tape_sample_leaf(tape, SHAPE(1), 0.5f, 0.5f);
        Var *offset = tape_sample_leaf(tape, SHAPE(1), offsets[i], offsets[i]);
        Tensor dy = tape_sample_leaf(tape, SHAPE(64), 0.5f, 1)->value;
        FakeQuantAttr attr = attr_new(grid_unsigned(4), 64, 64, RANGE_LSQ);
        Var *y = op_fake_quant(tape, x, scale, offset, attr);
        assert_true(y->value.scales->zero[0] == zeros[i]);
        backward(y, dy);
        assert_int_equal(*var_grad_f32(offset) != 0, i == 2);
    }
}

static void test_same_bits_on_any_number_of_threads(void **state) {
    (void)state;
    static const int64_t runs[] = {300 * 411, 411, 64};
    for (int r = 0; r < 3; r++) {
        float *expected = arena_new_array(arena, float, 300 * 411 * 2);
        float *expected_scale = arena_new_array(arena, float, 300 * 7);
        for (int threads = 1; threads <= 4; threads++) {
            Error err = {0};
            assert_true(parallel_init(threads, &err));
            tape_begin(tape, TAPE_TRAINING);
            int64_t count = 300 * 411, row = r == 0 ? count : 411;
            int64_t scales = scales_count(count, row, runs[r]);
            Var *x = tape_sample_leaf(tape, SHAPE(300, 411), -9, 9);
            Var *scale = tape_sample_leaf(tape, SHAPE(scales), 0.5f, 1.5f);
            Tensor dy = tape_sample_leaf(tape, SHAPE(300, 411), -1, 1)->value;
            FakeQuantAttr attr = attr_new(grid_signed(4), row, runs[r], RANGE_LSQ);
            Var *y = op_fake_quant(tape, x, scale, NULL, attr);
            backward(y, dy);
            size_t bytes = sizeof(float) * (size_t)count;
            if (threads == 1) {
                memcpy(expected, var_f32(y), bytes);
                memcpy(expected + count, var_grad_f32(x), bytes);
                memcpy(expected_scale, var_grad_f32(scale), sizeof(float) * (size_t)scales);
            }
            assert_memory_equal(var_f32(y), expected, bytes);
            assert_memory_equal(var_grad_f32(x), expected + count, bytes);
            assert_memory_equal(var_grad_f32(scale), expected_scale,
                                sizeof(float) * (size_t)scales);
        }
    }
}

/* An input without a gradient (an image) still teaches the scale. */
static void test_constant_input(void **state) {
    (void)state;
    Var *x = tape_sample_leaf(tape, SHAPE(4, 5), -9, 9);
    Var *constant = tape_constant(tape, x->value);
    Var *scale = tape_sample_leaf(tape, SHAPE(1), 0.5f, 0.7f);
    Tensor dy = tape_sample_leaf(tape, SHAPE(4, 5), -1, 1)->value;
    FakeQuantAttr attr = attr_new(grid_signed(4), 20, 20, RANGE_LSQ);
    Var *y = op_fake_quant(tape, constant, scale, NULL, attr);
    backward(y, dy);
    assert_null(constant->grad.data);
    assert_true(*scale->has_grad && *var_grad_f32(scale) != 0);
}

/* A layer of levels gives the values and gradients of the same layer on decoded operands; its
 * product ran on the levels, for the integer reference agrees to the bit. */
static void test_products_of_levels(void **state) {
    (void)state;
    float *results[2][4]; /* on levels, on values: y, dx, dw, dscale */
    const int64_t counts[] = {9 * 12, 9 * 40, 12 * 40, 12};
    for (int is_decoded = 0; is_decoded < 2; is_decoded++) {
        tape_begin(tape, TAPE_TRAINING);
        Var *x = tape_sample_leaf(tape, SHAPE(9, 40), -1, 4);
        Var *w = tape_sample_leaf(tape, SHAPE(12, 40), -1, 1);
        Var *scale_x = tape_sample_leaf(tape, SHAPE(1), 0.2f, 0.3f);
        Var *scale_w = tape_sample_leaf(tape, SHAPE(12), 0.1f, 0.2f);
        Tensor dy = tape_sample_leaf(tape, SHAPE(9, 12), -1, 1)->value;
        FakeQuantAttr attr_x = attr_new(grid_unsigned(4), 360, 360, RANGE_LSQ);
        FakeQuantAttr attr_w = attr_new(grid_signed(4), 40, 40, RANGE_LSQ);
        Var *quantized_x = op_fake_quant(tape, x, scale_x, NULL, attr_x);
        Var *quantized_w = op_fake_quant(tape, w, scale_w, NULL, attr_w);
        if (is_decoded) quantized_x = op_dequantize(tape, quantized_x);
        Var *y = op_linear(tape, quantized_x, quantized_w, NULL);
        if (!is_decoded) {
            kernels_use_reference(true);
            Var *reference = op_linear(tape, quantized_x, quantized_w, NULL);
            kernels_use_reference(false);
            assert_memory_equal(var_f32(y), var_f32(reference), sizeof(float) * 9 * 12);
        }
        backward(y, dy);
        const float *found[] = {var_f32(y), var_grad_f32(x), var_grad_f32(w),
                                var_grad_f32(scale_w)};
        for (int i = 0; i < 4; i++) {
            results[is_decoded][i] = arena_new_array(arena, float, counts[i]);
            memcpy(results[is_decoded][i], found[i], sizeof(float) * (size_t)counts[i]);
        }
    }
    for (int i = 0; i < 4; i++)
        for (int64_t k = 0; k < counts[i]; k++)
            assert_close((double)results[0][i][k], (double)results[1][i][k], 1e-5);
}

static void test_bad_shapes(void **state) {
    (void)state;
    static const struct {
        int64_t row_length, run_length, scales;
        const char *expected;
    } cases[] = {
        {20, 20, 2, "[4, 5] needs 1 scale(s) (rows of 20, one per 20), not 2"},
        {5, 2, 4, "[4, 5] needs 12 scale(s) (rows of 5, one per 2), not 4"},
        {7, 7, 3, "[4, 5] does not divide into rows of 7"},
        {5, 6, 4, "[4, 5] does not divide into rows of 5 with a scale per 6"},
        {0, 0, 1, "[4, 5] does not divide into rows of 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tape_begin(tape, TAPE_TRAINING);
        Var *x = tape_sample_leaf(tape, SHAPE(4, 5), -1, 1);
        Var *scale = tape_sample_leaf(tape, SHAPE(cases[i].scales), 0.5f, 1);
        FakeQuantAttr attr =
            attr_new(grid_signed(4), cases[i].row_length, cases[i].run_length, RANGE_LSQ);
        op_fake_quant(tape, x, scale, NULL, attr);
        assert_int_equal(tape->error.code, ERROR_INPUT);
        if (!strstr(tape->error.message, cases[i].expected)) fail_msg("%s", tape->error.message);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_pytorch, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_reference, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_sign_of_zero, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_pact, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_stored_scale, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_nan_is_said, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_fake_is_stored, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_zero_stays_a_level, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_same_bits_on_any_number_of_threads, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_constant_input, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_products_of_levels, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bad_shapes, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
