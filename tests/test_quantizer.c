/* When a quantizer observes and when it fakes, what it refuses, and geometry. Rows:
 * test_quantizers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "core/parallel.h"
#include "qat/quantizer.h"
#include "tests/tape_fixture.h"

static Model *model;
static QuantPhase phase;

static int set_up(void **state) {
    (void)state;
    tape_fixture();
    model = arena_new_array(arena, Model, 1);
    model->arena = arena;
    phase = (QuantPhase){.is_faking = true, .is_observing = true};
    return 0;
}

static QuantSpec spec_of(const char *kind, int bits) {
    const Kind *found = kind_find(&quantizer_kinds, kind);
    assert_non_null(found);
    return (QuantSpec){.quantizer = {.kind = found}, .bits = bits, .is_signed = true};
}

static Quant *must_named(const char *name, bool is_weight, Shape shape, QuantSpec spec) {
    Quant *q = NULL;
    Error err = {0};
    if (!quant_new(model, name, is_weight, shape, &spec, &phase, &q, &err))
        fail_msg("%s", err.message);
    return q;
}

static Quant *must(bool is_weight, Shape shape, QuantSpec spec) {
    return must_named("edge", is_weight, shape, spec);
}

static Var *apply(Quant *q, bool is_training, Shape shape, const float *values) {
    mode.is_training = is_training;
    tape_begin(tape, mode);
    Tensor x = {.dtype = DTYPE_F32, .shape = shape, .data = (void *)(uintptr_t)values};
    Var *leaf = tape_constant(tape, x);
    Var *faked = quant_apply(q, tape, leaf);
    assert_int_equal(tape->error.code, ERROR_NONE);
    return faked;
}

static float scale_of(const Quant *q) {
    return *tensor_f32(&q->scale->value);
}
static float count_of(const Quant *q) {
    return *tensor_f32(&q->count->value);
}

static float part_of(const Quant *q, const char *part) {
    Param *param = model_find_param(model, arena_format(arena, "%s.%s", q->name, part));
    assert_non_null(param);
    return *tensor_f32(&param->value);
}

/* ---- Shapes, names, roles. ---- */

static void test_geometry(void **state) {
    (void)state;
    static const struct {
        Granularity granularity;
        int64_t group_size, row_length, run_length, scales;
    } cases[] = {
        {GRANULARITY_TENSOR, 0, 270, 270, 1}, {GRANULARITY_CHANNEL, 0, 54, 54, 5},
        {GRANULARITY_GROUP, 16, 54, 16, 20},  {GRANULARITY_GROUP, 54, 54, 54, 5},
        {GRANULARITY_GROUP, 64, 54, 54, 5},   {GRANULARITY_TOKEN, 0, 6, 6, 45},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        QuantSpec spec = {.granularity = cases[i].granularity, .group_size = cases[i].group_size};
        int64_t row_length, run_length;
        quant_geometry(&spec, SHAPE(5, 3, 3, 6), &row_length, &run_length);
        assert_int_equal(row_length, cases[i].row_length);
        assert_int_equal(run_length, cases[i].run_length);
        assert_int_equal(scales_count(270, row_length, run_length), cases[i].scales);
    }
}

static void test_params(void **state) {
    (void)state;
    QuantSpec spec = spec_of("lsq_plus", 4);
    spec.granularity = GRANULARITY_CHANNEL;
    spec.is_affine = true;
    Quant *q = must(true, SHAPE(5, 8), spec);
    assert_ptr_equal(q->scale, model_find_param(model, "edge.scale"));
    assert_ptr_equal(q->offset, model_find_param(model, "edge.offset"));
    assert_ptr_equal(q->count, model_find_param(model, "edge.count"));
    assert_int_equal(q->scale_count, 5);
    assert_true(shape_equal(q->offset->value.shape, SHAPE(5)));
    assert_true(q->scale->role == PARAM_SCALE && q->offset->role == PARAM_SCALE);
    assert_true(q->count->role == PARAM_BUFFER && q->scale->grad && !q->count->grad);
}

static void test_observed_scales_are_buffers(void **state) {
    (void)state;
    Quant *q = must(false, SHAPE(1, 8), spec_of("ema", 8));
    assert_true(q->scale->role == PARAM_BUFFER && !q->offset);
    assert_non_null(model_find_param(model, "edge.low"));
    assert_non_null(model_find_param(model, "edge.high"));
}

static void test_grids(void **state) {
    (void)state;
    static const struct {
        bool is_weight, is_signed, is_affine;
        int low, high;
    } cases[] = {
        {true, true, false, -8, 7},  {true, true, true, 0, 15},    {true, false, false, -8, 7},
        {false, true, false, -8, 7}, {false, false, false, 0, 15}, {false, true, true, 0, 15},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        QuantSpec spec = spec_of("minmax", 4);
        spec.is_signed = cases[i].is_signed;
        spec.is_affine = cases[i].is_affine;
        Quant *q = NULL;
        Error err = {0};
        const char *name = arena_format(arena, "edge%d", (int)i);
        assert_true(
            quant_new(model, name, cases[i].is_weight, SHAPE(2, 4), &spec, &phase, &q, &err));
        assert_int_equal(grid_low(q->grid), cases[i].low);
        assert_int_equal(grid_high(q->grid), cases[i].high);
    }
}

/* ---- Phases. ---- */

static void test_observes_without_faking(void **state) {
    (void)state;
    phase.is_faking = false;
    Quant *q = must(false, SHAPE(1, 2), spec_of("minmax", 8));
    float x[2] = {-1, 51};
    Var *faked = apply(q, true, SHAPE(1, 2), x);
    assert_null(faked->op); /* x itself */
    assert_true(count_of(q) == 1 && scale_of(q) == 51 / 127.5f);
    apply(q, false, SHAPE(1, 2), x); /* evaluation adds nothing */
    assert_true(count_of(q) == 1);
}

static void test_frozen_observers(void **state) {
    (void)state;
    Quant *q = must(false, SHAPE(1, 2), spec_of("minmax", 8));
    float narrow[2] = {-1, 1}, wide[2] = {-9, 9};
    apply(q, true, SHAPE(1, 2), narrow);
    phase.is_observing = false;
    Var *faked = apply(q, true, SHAPE(1, 2), wide);
    assert_true(count_of(q) == 1 && scale_of(q) == 1 / 127.5f);
    assert_true(var_f32(faked)[0] == -128 && var_f32(faked)[1] == 127);
}

/* With observers frozen a range comes from the first data that training fakes, and an evaluation
 * before that lets values pass and leaves no trace. */
static void test_evaluation_fits_nothing(void **state) {
    (void)state;
    phase.is_observing = false;
    static const char *const kinds[] = {"minmax", "ema", "percentile", "mse",
                                        "kl",     "lsq", "lsq_plus"};
    for (int i = 0; i < 7; i++) {
        QuantSpec spec = spec_of(kinds[i], 4);
        Quant *q = NULL;
        Error err = {0};
        assert_true(quant_new(model, kinds[i], false, SHAPE(1, 3), &spec, &phase, &q, &err));
        float x[3] = {-0.5f, 0.25f, 0.75f}, y[3] = {8, 8, 8};
        const Var *passed = apply(q, false, SHAPE(1, 3), y);
        assert_true(!passed->value.scales && passed->value.data == y);
        assert_true(count_of(q) == 0 && scale_of(q) == 1 && !quant_is_calibrated(q));
        apply(q, true, SHAPE(1, 3), x);
        float scale = scale_of(q);
        assert_true(count_of(q) == 1 && scale != 1 && scale < 0.6f && quant_is_calibrated(q));
        assert_non_null(apply(q, false, SHAPE(1, 3), y)->value.scales);
        assert_true(count_of(q) == 1 && scale_of(q) == scale);
    }
}

static void test_calibration_observes_in_evaluation(void **state) {
    (void)state;
    phase = (QuantPhase){.is_faking = true};
    Quant *q = must(false, SHAPE(1, 2), spec_of("minmax", 8));
    q->is_calibrating = true;
    float narrow[2] = {-1, 1}, wide[2] = {-9, 9};
    apply(q, false, SHAPE(1, 2), narrow);
    apply(q, false, SHAPE(1, 2), wide);
    assert_true(count_of(q) == 2 && scale_of(q) == 9 / 127.5f);
}

/* A learned scale starts when faking does, from the data of that moment, and once. */
static void test_learned_scales_start_with_faking(void **state) {
    (void)state;
    phase.is_faking = false;
    Quant *q = must(false, SHAPE(1, 2), spec_of("lsq", 4));
    float early[2] = {-100, 100}, then[2] = {-1, 1}, later[2] = {-5, 5};
    apply(q, true, SHAPE(1, 2), early);
    assert_true(count_of(q) == 0 && scale_of(q) == 1);
    phase.is_faking = true;
    apply(q, true, SHAPE(1, 2), then);
    assert_true(count_of(q) == 1 && fabsf(scale_of(q) - 2 / sqrtf(7)) < 1e-6f);
    apply(q, true, SHAPE(1, 2), later);
    assert_true(count_of(q) == 1 && fabsf(scale_of(q) - 2 / sqrtf(7)) < 1e-6f);
}

static void test_zeros_and_infinities_say_nothing(void **state) {
    (void)state;
    static const char *const kinds[] = {"minmax", "ema", "percentile", "mse",
                                        "kl",     "lsq", "lsq_plus"};
    for (int i = 0; i < 7; i++) {
        QuantSpec spec = spec_of(kinds[i], 4);
        Quant *q = NULL;
        Error err = {0};
        assert_true(quant_new(model, kinds[i], false, SHAPE(1, 3), &spec, &phase, &q, &err));
        float zeros[3] = {0}, infinite[3] = {1, -INFINITY, 2}, x[3] = {-1, 0.5f, 1};
        Var *faked = apply(q, true, SHAPE(1, 3), zeros);
        assert_true(count_of(q) == 0 && var_f32(faked)[1] == 0);
        apply(q, true, SHAPE(1, 3), infinite);
        assert_true(count_of(q) == 0 && scale_of(q) == 1);
        apply(q, true, SHAPE(1, 3), x);
        assert_true(count_of(q) == 1 && scale_of(q) < 1);
    }
}

static void test_float_shadow(void **state) {
    (void)state;
    Quant *q = must(false, SHAPE(1, 2), spec_of("minmax", 8));
    float x[2] = {-1, 51};
    mode.is_float = true;
    Var *faked = apply(q, true, SHAPE(1, 2), x);
    assert_true(!faked->op && count_of(q) == 0);
}

/* A run for shapes has no data: nothing is observed, and the op is recorded. */
static void test_dry_run(void **state) {
    (void)state;
    QuantSpec spec = spec_of("minmax", 8);
    for (int is_token = 0; is_token < 2; is_token++) {
        spec.granularity = is_token ? GRANULARITY_TOKEN : GRANULARITY_TENSOR;
        Quant *q = must(false, SHAPE(1, 6), spec); /* per token it has no parameters to name */
        mode.is_dry = true;
        Var *faked = apply(q, true, SHAPE(4, 6), NULL);
        assert_ptr_equal(faked->op, &op_row_fake_quant);
        assert_true(shape_equal(faked->value.shape, SHAPE(4, 6)));
        assert_true(is_token || count_of(q) == 0);
    }
}

static void test_readers_share(void **state) {
    (void)state;
    Quant *q = must(false, SHAPE(1, 2), spec_of("minmax", 8));
    float x[2] = {-1, 1};
    Var *first = apply(q, true, SHAPE(1, 2), x);
    Var *second = quant_view(q, tape, first->in[0]);
    assert_ptr_equal(first, second);
    assert_true(count_of(q) == 1);
    apply(q, true, SHAPE(1, 2), x); /* a new record observes anew */
    assert_true(count_of(q) == 2);
}

static void test_replay_observes_nothing(void **state) {
    (void)state;
    Quant *q = must(false, SHAPE(1, 2), spec_of("ema", 8));
    float x[2] = {-1, 1};
    mode.keeps_residuals = true;
    apply(q, true, SHAPE(1, 2), x);
    tape_replay(tape);
    assert_true(count_of(q) == 1);
}

/* What comes from another quantizer holds levels; what counts are its values. */
static void test_levels_are_observed_as_values(void **state) {
    (void)state;
    Quant *wide = must(false, SHAPE(1, 3), spec_of("minmax", 8));
    QuantSpec spec = spec_of("minmax", 4);
    Quant *narrow = NULL;
    Error err = {0};
    assert_true(quant_new(model, "narrow", false, SHAPE(1, 3), &spec, &phase, &narrow, &err));
    float x[3] = {-0.25f, 0.25f, 0.5f}, values[3];
    Var *first = apply(wide, true, SHAPE(1, 3), x);
    Var *second = quant_apply(narrow, tape, first);
    assert_true(fabsf(scale_of(narrow) - 0.5f / 7.5f) < 1e-3f);
    tensor_decode(&second->value, values);
    for (int i = 0; i < 3; i++) assert_true(fabsf(values[i] - x[i]) <= scale_of(narrow));
}

/* ---- What rows observe. ---- */

static void test_weights_are_ranged_as_they_are_now(void **state) {
    (void)state;
    static const char *const kinds[] = {"minmax", "ema", "percentile", "mse", "kl"};
    for (int i = 0; i < 5; i++) {
        QuantSpec spec = spec_of(kinds[i], 4);
        Quant *q = NULL;
        Error err = {0};
        assert_true(quant_new(model, kinds[i], true, SHAPE(1, 3), &spec, &phase, &q, &err));
        float wide[3] = {-4, 1, 4}, narrow[3] = {-1, 0.25f, 1};
        apply(q, true, SHAPE(1, 3), wide);
        float before = scale_of(q);
        apply(q, true, SHAPE(1, 3), narrow);
        assert_true(fabsf(scale_of(q) * 4 / before - 1) < 1e-6f);
    }
}

/* A channel of zeros gets the smallest scale and zeros as levels; others are as without it. */
static void test_rows_of_zeros(void **state) {
    (void)state;
    QuantSpec spec = spec_of("minmax", 4);
    spec.granularity = GRANULARITY_CHANNEL;
    spec.scale_dtype = DTYPE_F16;
    Quant *q = must(true, SHAPE(2, 2), spec);
    float w[4] = {0, 0, -1, 1};
    Var *faked = apply(q, true, SHAPE(2, 2), w);
    const Scales *scales = quant_freeze(q, arena);
    assert_true(scales->scale[0] == fake_quant_stored_scale(DTYPE_F16, FLT_MIN));
    assert_true(var_f32(faked)[0] == 0 && var_f32(faked)[1] == 0);
    assert_true(scales->scale[1] == dtype_round(DTYPE_F16, 1 / 7.5f));
}

static void test_ema(void **state) {
    (void)state;
    Quant *q = must(false, SHAPE(1, 2), spec_of("ema", 8));
    float batches[3][2] = {{-1, 4}, {-3, 2}, {0, 8}};
    float low = -1, high = 4, c = (float)(1 - 0.99);
    for (int i = 0; i < 3; i++) {
        if (i > 0) {
            low += c * (batches[i][0] - low);
            high += c * (batches[i][1] - high);
        }
        apply(q, true, SHAPE(1, 2), batches[i]);
        assert_true(part_of(q, "low") == low && part_of(q, "high") == high);
    }
    assert_true(scale_of(q) == high / 127.5f);
}

static void test_tokens(void **state) {
    (void)state;
    QuantSpec spec = spec_of("minmax", 8);
    spec.granularity = GRANULARITY_TOKEN;
    Quant *q = must(false, SHAPE(1, 3), spec);
    assert_null(q->scale);
    float x[6] = {-1, 0.5f, 0.25f, 100, -200, 50};
    Var *faked = apply(q, false, SHAPE(2, 3), x);
    const Scales *scales = faked->value.scales;
    assert_int_equal(scales->count, 2);
    assert_true(scales->scale[0] == 1 / 127.5f && scales->scale[1] == 200 / 127.5f);
    assert_true(var_f32(faked)[1] == 64 && var_f32(faked)[4] == -128);
}

/* PACT's decay is in the gradient once per update, however many micro-batches there are, and scaled
 * as the loss is. */
static void test_pact_decay(void **state) {
    (void)state;
    QuantSpec spec = spec_of("pact", 4);
    spec.is_signed = false;
    Quant *q = must(false, SHAPE(1, 2), spec);
    float scale = scale_of(q), decay = (float)0.0002;
    assert_true(scale == 6.0f / 15);
    float x[2] = {1, 2};
    for (int micro_batch = 0; micro_batch < 2; micro_batch++) {
        apply(q, true, SHAPE(1, 2), x);
        assert_true(q->scale->has_grad && q->scale->grad[0] == decay * scale);
    }
    model_clear_grads(model);
    mode.loss_scale = 1024;
    apply(q, true, SHAPE(1, 2), x);
    mode.loss_scale = 1;
    assert_true(q->scale->grad[0] == 1024 * (decay * scale));
    model_clear_grads(model);
    apply(q, false, SHAPE(1, 2), x);
    assert_false(q->scale->has_grad);
}

static void test_pact_starts_as_told(void **state) {
    (void)state;
    QuantSpec spec = spec_of("pact", 2);
    spec.is_signed = false;
    const Kind *kind = spec.quantizer.kind;
    spec.quantizer.config = kind_defaults(kind, arena);
    const Field *field = fields_find(kind->fields, "alpha");
    *(double *)((char *)spec.quantizer.config + field->offset) = 3;
    Quant *q = must(false, SHAPE(1, 2), spec);
    float x[2] = {1.2f, 9};
    Var *faked = apply(q, false, SHAPE(1, 2), x);
    assert_true(scale_of(q) == 1 && var_f32(faked)[0] == 1 && var_f32(faked)[1] == 3);
}

/* ---- ParetoQ: where alpha starts, what the levels are, the factor on the gradient. ---- */

static void test_paretoq(void **state) {
    (void)state;
    const float x[8] = {1, -2.97f, 0.1f, 0, -1.1f, 3, -0.4f, 1.6f}; /* mean magnitude 1.27125 */
    static const struct {
        int bits;
        Dtype dtype;
        double scale, grad_scale;
        float levels[8];
    } cases[] = {
        {1, DTYPE_BINARY, 1.27125, 1, {1, -1, 1, -1, -1, 1, -1, 1}},
        {BITS_TERNARY, DTYPE_TERNARY, 3 / 1.5, 1 / 2.25, {0, -1, 0, 0, -1, 1, 0, 1}},
        {2, DTYPE_INT2, 3.0 / 4, 1.0 / 16, {1, -3, 1, 1, -1, 3, -1, 3}},
        {3, DTYPE_INT3, 3.0 / 3, 0.5773502691896258, {1, -3, 0, 0, -1, 3, 0, 2}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Quant *q = must_named(arena_format(arena, "weight%d", (int)i), true, SHAPE(2, 4),
                              spec_of("paretoq", cases[i].bits));
        assert_false(quant_is_calibrated(q));
        const float zeros[8] = {0};
        apply(q, true, SHAPE(2, 4), zeros);
        assert_false(quant_is_calibrated(q));
        Var *faked = apply(q, true, SHAPE(2, 4), x);
        assert_true(quant_is_calibrated(q));
        assert_float_equal(scale_of(q), cases[i].scale, 1e-6);
        assert_float_equal(q->grad_scale, cases[i].grad_scale / sqrt(8), 1e-7);
        for (int j = 0; j < 8; j++) assert_true(var_f32(faked)[j] == cases[i].levels[j]);
        assert_int_equal(dtype_packed(q->grid), cases[i].dtype);
    }
}

/* A channel of zeros has a scale, and no NaN. */
static void test_low_bits_of_zeros(void **state) {
    (void)state;
    const int bits[] = {1, BITS_TERNARY, 2};
    const float x[6] = {0, 0, 0, 0.5f, -1, 1};
    for (int i = 0; i < 3; i++) {
        QuantSpec spec = spec_of("paretoq", bits[i]);
        spec.granularity = GRANULARITY_CHANNEL;
        Quant *q = must_named(arena_format(arena, "weight%d", i), true, SHAPE(2, 3), spec);
        Var *faked = apply(q, true, SHAPE(2, 3), x);
        float values[6];
        tensor_decode(&faked->value, values);
        for (int j = 0; j < 3; j++) assert_true(fabsf(values[j]) <= FLT_MIN);
        assert_true(values[4] < -0.5f && values[5] > 0.5f);
    }
}

/* ---- What is refused. ---- */

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        const char *kind, *says;
        int bits;
        bool is_weight, is_signed, is_affine;
        Granularity granularity;
        int64_t group_size;
        Dtype scale_dtype;
        Shape shape;
    } cases[] = {
        {"minmax", "0 bits", 0, true, .shape = {2, {2, 2}}},
        {"minmax", "use 'paretoq' for 1 bit", 1, true, .shape = {2, {2, 2}}},
        {"minmax", "an activation: weights alone have 1 bit;", 1, .shape = {2, {1, 2}}},
        {"lsq", "an activation: weights alone have 1.58 bits;", BITS_TERNARY, .shape = {2, {1, 2}}},
        {"minmax", "1.58 bits are symmetric", BITS_TERNARY, true, .is_affine = true,
         .shape = {2, {2, 2}}},
        {"paretoq", "unset affine", 2, true, .is_affine = true, .shape = {2, {2, 2}}},
        {"paretoq", "for weights", 4, .shape = {2, {1, 2}}},
        {"dorefa", "none of 0", BITS_TERNARY, true, .shape = {2, {2, 2}}},
        {"minmax", "9 bits", 9, true, .shape = {2, {2, 2}}},
        {"minmax", "group size", 4, true, .granularity = GRANULARITY_GROUP, .shape = {2, {2, 2}}},
        {"minmax", "not int8", 4, true, .scale_dtype = DTYPE_INT8, .shape = {2, {2, 2}}},
        {"pact", "for activations", 4, true, .shape = {2, {2, 2}}},
        {"minmax", "is a weight", 4, true, .granularity = GRANULARITY_TOKEN, .shape = {2, {2, 2}}},
        {"minmax", "is an activation", 4, .granularity = GRANULARITY_CHANNEL, .shape = {2, {1, 2}}},
        {"minmax", "is an activation", 4, .granularity = GRANULARITY_GROUP, .group_size = 2,
         .shape = {2, {1, 2}}},
        {"ema", "must be 'minmax'", 4, .granularity = GRANULARITY_TOKEN, .shape = {2, {1, 2}}},
        {"minmax", "is an image", 4, .granularity = GRANULARITY_TOKEN, .shape = {4, {1, 2, 2, 2}}},
        {"lsq", "use 'lsq_plus'", 4, true, .is_affine = true, .shape = {2, {2, 2}}},
        {"pact", "is signed", 4, .is_signed = true, .shape = {2, {1, 2}}},
        {"pact", "is affine", 4, .is_affine = true, .shape = {2, {1, 2}}},
        {"dorefa", "granularity to tensor", 4, true, .granularity = GRANULARITY_CHANNEL,
         .shape = {2, {2, 2}}},
        {"dorefa", "unset affine", 4, true, .is_affine = true, .shape = {2, {2, 2}}},
        {"dorefa", "negative values", 4, .is_signed = true, .shape = {2, {1, 2}}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        QuantSpec spec = spec_of(cases[i].kind, cases[i].bits);
        spec.is_signed = cases[i].is_signed;
        spec.is_affine = cases[i].is_affine;
        spec.granularity = cases[i].granularity;
        spec.group_size = cases[i].group_size;
        spec.scale_dtype = cases[i].scale_dtype;
        const char *name = arena_format(arena, "relu%d.out", (int)i);
        Quant *q = NULL;
        Error err = {0};
        assert_false(
            quant_new(model, name, cases[i].is_weight, cases[i].shape, &spec, &phase, &q, &err));
        assert_int_equal(err.code, ERROR_INPUT);
        if (!strstr(err.message, cases[i].says) || !strstr(err.message, name))
            fail_msg("'%s' should say '%s' and name %s", err.message, cases[i].says, name);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    Error err = {0};
    if (!parallel_init(0, &err)) return 1;
    const struct CMUnitTest tests[] = {
        TEST(test_geometry),
        TEST(test_params),
        TEST(test_observed_scales_are_buffers),
        TEST(test_grids),
        TEST(test_observes_without_faking),
        TEST(test_frozen_observers),
        TEST(test_evaluation_fits_nothing),
        TEST(test_calibration_observes_in_evaluation),
        TEST(test_learned_scales_start_with_faking),
        TEST(test_zeros_and_infinities_say_nothing),
        TEST(test_float_shadow),
        TEST(test_dry_run),
        TEST(test_readers_share),
        TEST(test_replay_observes_nothing),
        TEST(test_levels_are_observed_as_values),
        TEST(test_weights_are_ranged_as_they_are_now),
        TEST(test_rows_of_zeros),
        TEST(test_ema),
        TEST(test_tokens),
        TEST(test_pact_decay),
        TEST(test_pact_starts_as_told),
        TEST(test_paretoq),
        TEST(test_low_bits_of_zeros),
        TEST(test_refusals),
    };
    return cmocka_run_group_tests_name("quantizer", tests, NULL, NULL);
}
