/* Layers beside the shadow: what quantization does to each, beside plain sums over kept values;
 * causes, beside networks in which nothing else is quantized. */
#include "tests/shadow_run.h"

#define CNN     "{kind: cnn, widths: [4], hidden: 6}"
#define DROPOUT "{kind: cnn, widths: [4], hidden: 6, dropout: 0.4}"
#define RULES   "rules: [{layers: hidden, bits: 3}, {layers: last, bits: 32}]"

static LayerReport *compare(int64_t rows, bool has_causes) {
    LayerReport *reports = arena_new_array(arena, LayerReport, experiment.qat->site_count);
    Error err = {0};
    if (!layers_compare(&experiment, LOADER_TEST, rows, has_causes, reports, &err))
        fail_msg("%s", err.message);
    return reports;
}

static void layers_are_compared_with_their_shadow(void **state) {
    (void)state;
    open_model(CNN, "{bits: 8, " RULES "}");
    static const char *const names[] = {"conv1", "hidden", "classes"};
    static const int bits[] = {8, 3, BITS_FLOAT};
    assert_int_equal(experiment.qat->site_count, 3);
    const LayerReport *r = compare(40, false);
    for (int i = 0; i < 3; i++) {
        assert_string_equal(r[i].name, names[i]);
        assert_int_equal(r[i].weight_bits, bits[i]);
        assert_int_equal(r[i].activation_bits, bits[i]);
        assert_true(isfinite(r[i].whole.sqnr_db));
        assert_int_equal(r[i].unused_weight >= 0, i < 2);
        assert_int_equal(isnan(r[i].clipped_input), i == 2);
    }
    /* About 6 dB a bit: five bits fewer are plainly heard. */
    assert_true(r[0].whole.sqnr_db > r[1].whole.sqnr_db + 10);
}

static const Var *output_of(int site) {
    const WeightSite *s = &experiment.qat->sites[site];
    return s->norm ? s->norm->last_out : s->module->last_out;
}

/* All rows at once, in one sum. */
static Deviation plainly(int site, int64_t rows, Network network) {
    Error err = {0};
    double aa = 0, bb = 0, ab = 0, noise = 0, error = 0, most = 0;
    int64_t count = 0;
    for (int64_t first = 0; first < rows; first += 20) {
        TaskStep step = {.e = &experiment,
                         .batch = loader_batch(experiment.loader, LOADER_TEST, 0, first / 20)};
        if (rows - first < step.batch.count) step.batch = batch_part(&step.batch, 0, rows - first);
        assert_true(evaluate_kept(&step, evaluate_mode(NETWORK_SHADOW), &err));
        int64_t numbers = var_count(output_of(site));
        float *a = arena_new_array(arena, float, numbers);
        memcpy(a, var_f32(output_of(site)), sizeof *a * (size_t)numbers);
        assert_true(evaluate_kept(&step, evaluate_mode(network), &err));
        const float *b = var_f32(output_of(site));
        for (int64_t i = 0; i < numbers; i++) {
            double x = (double)a[i], y = (double)b[i];
            aa += x * x, bb += y * y, ab += x * y, noise += (x - y) * (x - y);
            error += fabs(x - y);
            most = fmax(most, fabs(x - y));
        }
        count += numbers;
    }
    return (Deviation){10 * log10(aa / noise), ab / sqrt(aa * bb), most, error / (double)count};
}

static void assert_close(Deviation a, Deviation b) {
    assert_true(fabs(a.sqnr_db - b.sqnr_db) < 1e-9);
    assert_true(fabs(a.cosine - b.cosine) < 1e-12);
    assert_true(a.error_max == b.error_max);
    assert_true(fabs(a.error_mean - b.error_mean) < 1e-12);
}

/* 45 rows: parts, batches and the last row are all cut. */
static void as_plain_sums_over_kept_values(void **state) {
    (void)state;
    open_model(CNN, "{bits: 3}");
    const LayerReport *r = compare(45, true);
    for (int i = 0; i < 3; i++) {
        assert_close(r[i].whole, plainly(i, 45, NETWORK_TRAINED));
        assert_close(r[i].causes[LAYER_WEIGHTS_CUMULATIVE], plainly(i, 45, NETWORK_WEIGHTS));
        assert_close(r[i].causes[LAYER_INPUT_CUMULATIVE], plainly(i, 45, NETWORK_ACTIVATIONS));
    }
}

static void assert_same(Deviation a, Deviation b) {
    assert_memory_equal(&a, &b, sizeof a);
}

/* A network of which one part of one layer is quantized knows that layer's local causes. */
static void local_is_what_a_layer_does_alone(void **state) {
    (void)state;
    static const char *const names[] = {"conv1", "hidden", "classes"}, *const parts[] = {
                                                                           "weight_bits",
                                                                           "activation_bits"};
    static const LayerCause causes[] = {LAYER_WEIGHTS_LOCAL, LAYER_INPUT_LOCAL};
    static const char *const models[] = {CNN, DROPOUT};
    for (int m = 0; m < 2; m++) {
        open_model(models[m], "{bits: 3, " FIXED_RANGES "}");
        const LayerReport *all = compare(TEST_ROWS, true);
        for (int i = 0; i < 3; i++)
            for (int p = 0; p < 2; p++) {
                open_model(models[m],
                           arena_format(arena, "{rules: [{layers: %s, %s: 3}], " FIXED_RANGES "}",
                                        names[i], parts[p]));
                const LayerReport *alone = compare(TEST_ROWS, false);
                assert_true(isfinite(alone[i].whole.sqnr_db));
                Deviation local = all[i].causes[causes[p]];
                if (i == 0 && p == 1) /* a norm that does not fold is behind what is compared */
                    assert_true(fabs(local.sqnr_db - alone[i].whole.sqnr_db) < 1e-6);
                else
                    assert_same(local, alone[i].whole);
            }
        /* the first layer has nothing quantized before it */
        assert_same(all[0].causes[LAYER_WEIGHTS_LOCAL], all[0].causes[LAYER_WEIGHTS_CUMULATIVE]);
        assert_same(all[0].causes[LAYER_INPUT_LOCAL], all[0].causes[LAYER_INPUT_CUMULATIVE]);
        assert_true(all[2].causes[LAYER_WEIGHTS_LOCAL].sqnr_db >
                    all[2].causes[LAYER_WEIGHTS_CUMULATIVE].sqnr_db);
    }
}

/* The grids of the first layer, as scales, masters and images say. */
static void code_use_is_of_the_whole_layer(void **state) {
    (void)state;
    open_model(CNN, "{bits: 3, " FIXED_RANGES "}");
    const WeightSite *site = &experiment.qat->sites[0];
    double scale = (double)*tensor_f32(&site->input->scale->value) * 0.5; /* then half is clipped */
    *tensor_f32(&site->input->scale->value) = (float)scale;
    const LayerReport *r = compare(45, false);
    int64_t clipped = 0, count = 0;
    bool seen[8] = {false};
    for (int64_t i = 0; i < 3; i++) {
        Batch batch = loader_batch(experiment.loader, LOADER_TEST, 0, i);
        int64_t rows = i < 2 ? batch.count : 5;
        const float *x =
            tensor_f32(&(Tensor){.dtype = DTYPE_F32, .data = batch_f32(&batch, "images").data});
        for (int64_t j = 0; j < rows * 36; j++, count++) {
            float v = x[j] * (1 / (float)scale);
            clipped += v > 3.501f || v < -4.501f;
            seen[(int)fmax(-4, fmin(3, (double)rintf(v))) + 4] = true;
        }
    }
    int unused = 0;
    for (int i = 0; i < 8; i++) unused += !seen[i];
    assert_true(clipped > 0);
    assert_true(r[0].clipped_input == (double)clipped / (double)count);
    assert_int_equal(r[0].unused_input, unused);
    assert_true(r[0].clipped_weight == 0); /* minmax: the largest lies half a step beyond */
    assert_in_range(r[0].unused_weight, 0, 6);
}

static void the_same_for_any_number_of_threads(void **state) {
    (void)state;
    open_model(CNN, "{bits: 4}");
    const LayerReport *first = NULL;
    for (int threads = 1; threads <= 3; threads++) {
        Error err = {0};
        assert_true(parallel_init(threads, &err));
        const LayerReport *r = compare(0, true);
        if (!first) first = r;
        for (int i = 0; i < 3; i++) {
            assert_same(r[i].whole, first[i].whole);
            assert_memory_equal(r[i].causes, first[i].causes, sizeof r[i].causes);
            assert_true(r[i].clipped_input == first[i].clipped_input);
        }
    }
}

static void an_unquantized_network_has_no_noise(void **state) {
    (void)state;
    open_model(CNN, "{}");
    const LayerReport *r = compare(20, true);
    for (int i = 0; i < 3; i++) {
        assert_true(isinf(r[i].whole.sqnr_db) && r[i].whole.sqnr_db > 0);
        assert_true(fabs(r[i].whole.cosine - 1) < 1e-12 && isnan(r[i].clipped_weight));
        assert_int_equal(r[i].unused_input, -1);
    }
}

static void values_that_are_not_finite_are_named(void **state) {
    (void)state;
    open_model(CNN, "{bits: 4}");
    tensor_f32(&model_find_param(experiment.model, "hidden.weight")->value)[3] = INFINITY;
    LayerReport reports[3];
    Error err = {0};
    assert_false(layers_compare(&experiment, LOADER_TEST, 8, false, reports, &err));
    assert_int_equal(err.code, ERROR_NUMERIC);
    assert_non_null(strstr(err.message, "hidden"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(layers_are_compared_with_their_shadow), TEST(as_plain_sums_over_kept_values),
        TEST(local_is_what_a_layer_does_alone),      TEST(code_use_is_of_the_whole_layer),
        TEST(the_same_for_any_number_of_threads),    TEST(an_unquantized_network_has_no_noise),
        TEST(values_that_are_not_finite_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
