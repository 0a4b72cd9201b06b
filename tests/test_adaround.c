/* Learned rounding: its gradient, the choices of a layer so small that all can be tried, and the
 * same bits for any number of threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core/parallel.h"
#include "qat/ptq/samples.h"
#include "qat/ptq/soft_rounding.h"
#include "tests/ptq_source.h"

/* ---- Soft levels ---- */

enum { WEIGHTS = 24 };

typedef struct GridCase {
    Grid grid;
    float zero;
} GridCase;

static const GridCase *grid_cases(int *count) {
    static GridCase cases[5];
    cases[0] = (GridCase){grid_signed(2), 0};
    cases[1] = (GridCase){grid_signed(4), 0};
    cases[2] = (GridCase){grid_unsigned(3), 2};
    cases[3] = (GridCase){grid_ternary(), 0};
    cases[4] = (GridCase){grid_odd(2), 0};
    *count = 5;
    return cases;
}

static SoftRounding soft_of(const GridCase *c, float *weight) {
    Scales *scales = arena_new_array(arena, Scales, 1);
    float *scale = arena_new_array(arena, float, 2), *zero = arena_new_array(arena, float, 2);
    scale[0] = 0.3f;
    scale[1] = 0.07f;
    zero[0] = zero[1] = c->zero;
    *scales = (Scales){.row_length = WEIGHTS / 2,
                       .run_length = WEIGHTS / 2,
                       .count = 2,
                       .dtype = DTYPE_F32,
                       .grid = c->grid,
                       .scale = scale,
                       .zero = zero};
    random_fill_uniform((RandomKey){.seed = 7, .stream = RANDOM_TEST}, -1, 1, WEIGHTS, weight);
    return soft_rounding_new(weight, WEIGHTS, scales, arena);
}

/* Learning begins at the weight itself, within the grid, and its levels are the nearest. */
static void starts_where_it_is(void **state) {
    (void)state;
    int count;
    const GridCase *cases = grid_cases(&count);
    for (int i = 0; i < count; i++) {
        float weight[WEIGHTS], values[WEIGHTS], levels[WEIGHTS], nearest[WEIGHTS];
        SoftRounding s = soft_of(&cases[i], weight);
        soft_rounding_values(&s, values);
        soft_rounding_levels(&s, levels);
        quantize_levels(weight, s.scales, 0, WEIGHTS, nearest);
        for (int j = 0; j < WEIGHTS; j++) {
            float scale = s.scales->scale[j / (WEIGHTS / 2)], zero = cases[i].zero;
            float low = scale * ((float)grid_low(cases[i].grid) - zero);
            float high = scale * ((float)grid_high(cases[i].grid) - zero);
            float expected = fminf(fmaxf(weight[j], low), high);
            assert_true(fabsf(values[j] - expected) < 1e-5f);
            assert_true(levels[j] == nearest[j]);
        }
    }
}

static double total(const SoftRounding *s, const float *dy, double penalty, double beta) {
    float values[WEIGHTS];
    double sum = penalty * soft_rounding_penalty(s, beta);
    soft_rounding_values(s, values);
    for (int i = 0; i < WEIGHTS; i++) sum += (double)dy[i] * (double)values[i];
    return sum;
}

/* sum dy values + penalty, against central differences. */
static void gradients(void **state) {
    (void)state;
    int count;
    const GridCase *cases = grid_cases(&count);
    static const double settings[][2] = {{0, 0}, {0.3, 20}, {0.05, 2}, {1, 7.5}};
    for (int i = 0; i < count * 4; i++) {
        float weight[WEIGHTS], dy[WEIGHTS], gradient[WEIGHTS];
        const double *setting = settings[i % 4];
        SoftRounding s = soft_of(&cases[i / 4], weight);
        random_fill_uniform((RandomKey){.seed = 8, .stream = RANDOM_TEST}, -1, 1, WEIGHTS, dy);
        memcpy(gradient, dy, sizeof gradient);
        soft_rounding_gradient(&s, setting[0], setting[1], gradient);
        double largest = 0;
        for (int j = 0; j < WEIGHTS; j++) {
            float at = s.v[j], step = 1e-2f;
            s.v[j] = at + step;
            double above = total(&s, dy, setting[0], setting[1]);
            s.v[j] = at - step;
            double below = total(&s, dy, setting[0], setting[1]);
            s.v[j] = at;
            double difference = (above - below) / (2 * (double)step);
            if (fabs((double)gradient[j] - difference) > 2e-4 + 2e-3 * fabs(difference))
                fail_msg("case %d, element %d: %g is not %g", i, j, (double)gradient[j],
                         difference);
            largest = fmax(largest, fabs(difference));
        }
        assert_true(largest > 0.01);
    }
}

/* Adam by the paper: the first step is the rate, whatever the gradient's size. */
static void first_step(void **state) {
    (void)state;
    int count;
    float weight[WEIGHTS], gradient[WEIGHTS];
    SoftRounding s = soft_of(&grid_cases(&count)[1], weight);
    float before = s.v[3];
    for (int i = 0; i < WEIGHTS; i++) gradient[i] = i % 2 ? -1e-3f : 50;
    soft_rounding_step(&s, gradient, 0.25);
    assert_true(fabsf(s.v[3] - before - 0.25f) < 1e-4f);
}

/* ---- Layers ---- */

static void leave(Model *model) {
    (void)model;
}

/* Inputs that are alike in a row, so that roundings can make up for one another. */
static void make_alike(const Ptq *p) {
    PtqSource *source = p->data.context;
    for (int b = 0; b < PTQ_BATCHES; b++) {
        Tensor *x = &source->batches[b];
        int64_t length = tensor_count(x) / PTQ_BATCH_ROWS;
        for (int64_t i = 0; i < tensor_count(x); i++) {
            RandomKey key = {.seed = 11, .stream = RANDOM_TEST, .step = (uint64_t)b};
            float common = random_normal(key, (uint64_t)(i / length));
            tensor_f32(x)[i] = 0.3f * tensor_f32(x)[i] + common;
        }
    }
}

enum { FEATURES = 8 };

static Ptq *one_row(uint64_t seed, const char *quant) {
    static PlainConfig flatten = {.layer = {"flatten"}};
    static LinearConfig linear = {.layer = {"a"}, .units = 1, .bias = true};
    static Variant layers[] = {{&layer_flatten.kind, &flatten}, {&layer_linear.kind, &linear}};
    Error err = {0};
    Model *model = NULL;
    assert_true(model_new(&(List){2, layers}, SHAPE(1, 1, FEATURES), seed, arena, &model, &err));
    ModelSource source =
        model_source(arena_format(arena, "model: {kind: mlp}\nquant: %s\n", quant));
    Ptq *p = ptq_source_of(qat_of(&source, model));
    make_alike(p);
    return p;
}

/* The squared error of these levels on all calibration data. */
static double row_error(const Ptq *p, const float *weight, const float *values) {
    const PtqSource *source = p->data.context;
    double sum = 0;
    for (int b = 0; b < PTQ_BATCHES; b++)
        for (int row = 0; row < PTQ_BATCH_ROWS; row++) {
            const float *x = tensor_f32(&source->batches[b]) + row * FEATURES;
            double error = 0;
            for (int i = 0; i < FEATURES; i++)
                error += (double)x[i] * ((double)values[i] - (double)weight[i]);
            sum += error * error;
        }
    return sum;
}

/* The least error of all 2^8 choices of down and up. */
static double best_error(const Ptq *p, const float *weight, double scale) {
    double best = INFINITY;
    for (int choice = 0; choice < 1 << FEATURES; choice++) {
        float values[FEATURES];
        for (int i = 0; i < FEATURES; i++) {
            double level = floor((double)weight[i] / scale) + (choice >> i & 1);
            values[i] = (float)(scale * fmin(fmax(level, -4), 3));
        }
        best = fmin(best, row_error(p, weight, values));
    }
    return best;
}

static double rounded_error(const Ptq *p, const float *weight, const float *rounded) {
    const Scales *scales = quant_freeze(p->qat->sites[0].quant, arena);
    float values[FEATURES];
    quantize_levels(rounded, scales, 0, FEATURES, values);
    levels_decode(values, scales, 0, FEATURES, values);
    return row_error(p, weight, values);
}

/* What is said agrees with what is there; whether nearest stayed. */
static bool check_notes(const Ptq *p, double nearest, double found) {
    double before = ptq_source_note(p, "a", "error_before")->value;
    double after = ptq_source_note(p, "a", "error_after")->value;
    bool stays = ptq_source_note(p, "a", "skipped");
    const char *said = arena_format(
        arena, "a: rounding to nearest has an error of %.3g, less than %.3g\n", before, after);
    assert_string_equal(ptq_said, stays ? said : "");
    assert_true(stays ? after > before && found == nearest
                      : fabs(after / before * nearest / found - 1) < 1e-3);
    return stays;
}

/* Descent may end in a choice that is the best of its neighbours alone, so it is held to the
 * geometric mean of many layers; it is never worse than nearest. */
static void comes_near_the_best_choice(void **state) {
    (void)state;
    enum { LAYERS = 24 };
    double of_nearest = 0, of_found = 0;
    int stayed = 0, best_of_all = 0;
    for (uint64_t seed = 1; seed <= LAYERS; seed++) {
        Ptq *p = one_row(seed, "{bits: 32, weights: {bits: 3, quantizer: minmax}}");
        const WeightSite *site = &p->qat->sites[0];
        float weight[FEATURES];
        memcpy(weight, tensor_f32(&site->weight->value), sizeof weight);
        ptq_source_apply(p, "[{kind: adaround, iterations: 1500, batch: 24}]");
        double scale = (double)quant_freeze(site->quant, arena)->scale[0];
        double best = best_error(p, weight, scale), nearest = rounded_error(p, weight, weight);
        double found = rounded_error(p, weight, tensor_f32(&site->weight->value));
        assert_true(found <= nearest);
        best_of_all += found < best * 1.001;
        of_nearest += log(nearest / best) / LAYERS;
        of_found += log(found / best) / LAYERS;
        stayed += check_notes(p, nearest, found);
        ptq_free(p);
    }
    if (!(exp(of_found) < 1.1 && best_of_all >= LAYERS / 2))
        fail_msg("%g times the best error, %d the best itself", exp(of_found), best_of_all);
    assert_true(exp(of_nearest) > 3); /* else there was nothing to learn */
    assert_true(stayed > 0 && stayed < LAYERS / 4);
}

/* The same network on data 1024 times as large learns the same, to the bit. */
static void scale_of_data_does_not_matter(void **state) {
    (void)state;
    float *learned[2];
    for (int i = 0; i < 2; i++) {
        Ptq *p = one_row(8, "{bits: 32, weights: {bits: 3, quantizer: minmax}}");
        PtqSource *source = p->data.context;
        for (int b = 0; i && b < PTQ_BATCHES; b++)
            for (int j = 0; j < PTQ_BATCH_ROWS * FEATURES; j++)
                tensor_f32(&source->batches[b])[j] *= 1024;
        ptq_source_apply(p, "[{kind: adaround, iterations: 400, batch: 24}]");
        learned[i] = tensor_f32(&p->qat->sites[0].weight->value);
        assert_true(ptq_source_note(p, "a", "error_after")->value > 0);
        ptq_free(p);
    }
    assert_memory_equal(learned[0], learned[1], FEATURES * sizeof(float));
}

#define NETWORK                                                                                    \
    "conv: {name: a, filters: 6, stride: 2}, batch_norm, relu, "                                   \
    "conv: {name: b, depthwise: true, dilation: 2}, relu6, conv: {name: c, filters: 8, groups: "   \
    "2, "                                                                                          \
    "bias: false}, relu, flatten, linear: {name: d, units: 3}"

/* A sample is what the layer multiplies: the product of all samples with the weight is what the
 * layer gives, where nothing is quantized. */
static void samples_are_what_layers_read(void **state) {
    (void)state;
    Error err = {0};
    Ptq *p = ptq_source(NETWORK, "{bits: 32, weights: {bits: 8, quantizer: minmax}}", leave);
    ptq_source_apply(p, "[round]");
    static const char *const activations[] = {"relu1", "relu61", "relu2", NULL};
    for (int i = 0; i < 4; i++) {
        const WeightSite *site = &p->qat->sites[i];
        Samples s;
        assert_true(samples_draw(p, site, i == 1 ? 100 : 100000, arena, &s, &err));
        static const int64_t counts[] = {24 * 16, 24 * 4, 24 * 16, 24};
        assert_int_equal(s.count, counts[i]);
        if (activations[i]) assert_string_equal(s.activation->name, activations[i]);
        if (!activations[i]) assert_null(s.activation);
        Shape shape = {.rank = s.shape.rank + 1, .dim = {s.count}};
        memcpy(shape.dim + 1, s.shape.dim, sizeof(int64_t) * (size_t)s.shape.rank);
        float *weight = arena_new_array(arena, float, tensor_count(&site->weight->value));
        float *bias = arena_new_array(arena, float, s.channels);
        ptq_weight(site, weight);
        ptq_bias(site, bias);
        tape_begin(tape, TAPE_EVALUATION);
        Tensor x = {.dtype = DTYPE_F32, .shape = shape, .data = s.inputs};
        Tensor w = {.dtype = DTYPE_F32, .shape = site->weight->value.shape, .data = weight};
        Var *input = tape_constant(tape, x), *kernel = tape_constant(tape, w);
        const Var *y = samples_product(&s, tape, input, kernel);
        for (int64_t j = 0; j < s.count * s.channels; j++) {
            float found = var_f32(y)[j] + bias[j % s.channels];
            if (fabsf(found - s.targets[j]) > 0.05f * (1 + fabsf(found)))
                fail_msg("%s, element %ld: %g is not %g", site->name, (long)j, (double)found,
                         (double)s.targets[j]);
        }
    }
    ptq_free(p);
}

static const char *const quants[] = {
    "{bits: 4, weights: {quantizer: minmax, bits: 2}, activations: {quantizer: minmax, bits: 8}}",
    "{bits: 32, weights: {bits: 3, quantizer: mse, granularity: group, group_size: 5}}",
    "{bits: 8, weights: {bits: 3, quantizer: minmax, affine: true}}",
    "{bits: 8, weights: {bits: 2, quantizer: paretoq}}",
};

/* Whatever the grid: errors fall, and what is packed are the chosen levels. */
static void errors_fall(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof quants / sizeof *quants; i++) {
        Ptq *p = ptq_source(NETWORK, quants[i], leave);
        make_alike(p);
        ptq_source_apply(p, i % 2 ? "[{kind: adaround, iterations: 200}]"
                                  : "[{kind: adaround, iterations: 200, activation: false}]");
        for (int j = 0; j < p->qat->site_count; j++) {
            const WeightSite *site = &p->qat->sites[j];
            double before = ptq_source_note(p, site->name, "error_before")->value;
            double after = ptq_source_note(p, site->name, "error_after")->value;
            if (!ptq_source_note(p, site->name, "skipped") && !(after < before))
                fail_msg("%s of case %zu: %g after %g", site->name, i, after, before);
            Tensor levels = ptq_levels(site, arena);
            float *values = arena_new_array(arena, float, tensor_count(&levels));
            float *weight = arena_new_array(arena, float, tensor_count(&levels));
            levels_decode(tensor_f32(&levels), levels.scales, 0, tensor_count(&levels), values);
            ptq_weight(site, weight);
            for (int64_t k = 0; k < tensor_count(&levels); k++)
                assert_true(ptq_source_note(p, site->name, "skipped") ||
                            fabsf(values[k] - weight[k]) <= 1e-5f * fabsf(values[k]));
        }
        ptq_free(p);
    }
}

static void same_bits_for_any_threads(void **state) {
    (void)state;
    Error err = {0};
    float *first[4] = {0};
    for (int threads = 1; threads <= 4; threads++) {
        assert_true(parallel_init(threads, &err));
        Ptq *p = ptq_source(NETWORK, quants[0], leave);
        ptq_source_apply(p, "[{kind: adaround, iterations: 30}]");
        for (int i = 0; i < 4; i++) {
            const Tensor *weight = &p->qat->sites[i].weight->value;
            if (!first[i]) first[i] = tensor_f32(weight);
            assert_memory_equal(first[i], weight->data, tensor_bytes(weight));
        }
        ptq_free(p);
    }
}

/* ---- What it is not for ---- */

static void what_does_not_apply_is_named(void **state) {
    (void)state;
    Ptq *p = ptq_source("flatten, linear: {name: a, units: 3}",
                        "{bits: 4, weights: {quantizer: dorefa, granularity: tensor}, "
                        "activations: {quantizer: minmax}}",
                        leave);
    ptq_source_apply(p, "[adaround]");
    assert_string_equal(ptq_said, "a: its quantizer rounds a function of the weight\n");
    ptq_free(p);
}

static void what_is_no_product_stays(void **state) {
    (void)state;
    static PlainConfig flatten = {.layer = {"flatten"}}, gain = {.layer = {"gain"}};
    static Variant layers[] = {{&layer_flatten.kind, &flatten}, {&layer_gain.kind, &gain}};
    Error err = {0};
    Model *model = NULL;
    assert_true(model_new(&(List){2, layers}, SHAPE(1, 1, FEATURES), 1, arena, &model, &err));
    ModelSource source = model_source("model: {kind: mlp}\nquant: {bits: 32, weights: {bits: 3, "
                                      "quantizer: minmax}}\n");
    Ptq *p = ptq_source_of(qat_of(&source, model));
    ptq_source_apply(p, "[adaround]");
    assert_string_equal(ptq_said, "gain: it is not a product with one weight\n");
    ptq_free(p);
}

static void clear_batches(Ptq *p) {
    PtqSource *source = p->data.context;
    for (int b = 0; b < PTQ_BATCHES; b++)
        memset(source->batches[b].data, 0, tensor_bytes(&source->batches[b]));
}

/* A layer that gives nothing has no error to lessen, and one whose weights that
 * matter are levels has none. */
static void where_there_is_no_error(void **state) {
    (void)state;
    Ptq *p = one_row(1, "{bits: 32, weights: {bits: 3, quantizer: minmax}}");
    clear_batches(p);
    ptq_source_apply(p, "[adaround]");
    assert_string_equal(ptq_said, "a: what it gives is 0 in all calibration data\n");
    ptq_free(p);
    p = one_row(1, "{bits: 32, weights: {bits: 3, quantizer: minmax, affine: true}}");
    float kept[FEATURES], *weight = tensor_f32(&p->qat->sites[0].weight->value);
    for (int i = 0; i < FEATURES; i++) kept[i] = weight[i] = (float)(i - 4);
    kept[6] = 2;
    weight[6] = 1.75f; /* rounded up, though nothing reads it */
    PtqSource *source = p->data.context;
    for (int b = 0; b < PTQ_BATCHES; b++)
        for (int row = 0; row < PTQ_BATCH_ROWS; row++)
            tensor_f32(&source->batches[b])[row * FEATURES + 6] = 0;
    Ptq *exact = ptq_new(p->qat, p->data, arena);
    ptq_source_apply(exact, "[adaround]");
    assert_string_equal(ptq_said, "");
    assert_memory_equal(kept, weight, sizeof kept);
    assert_true(ptq_source_note(exact, "a", "error_after")->value == 0);
    ptq_free(exact);
    ptq_free(p);
}

int main(void) {
    Error err = {0};
    if (!parallel_init(0, &err)) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(starts_where_it_is),
        cmocka_unit_test(gradients),
        cmocka_unit_test(first_step),
        cmocka_unit_test(comes_near_the_best_choice),
        cmocka_unit_test(scale_of_data_does_not_matter),
        cmocka_unit_test(samples_are_what_layers_read),
        cmocka_unit_test(errors_fall),
        cmocka_unit_test(same_bits_for_any_threads),
        cmocka_unit_test(what_does_not_apply_is_named),
        cmocka_unit_test(what_is_no_product_stays),
        cmocka_unit_test(where_there_is_no_error),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
