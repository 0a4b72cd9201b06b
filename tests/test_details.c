/* What a comparison's page draws, against plain computation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "autograd/layers/batch_norm.h"
#include "experiments/compare/details.h"
#include "experiments/train/ranges.h"

static Arena *arena;
static Experiment experiment;
static Json *json;

static void open_model(const char *model, const char *quant, int test_rows) {
    const char *text = arena_format(
        arena,
        "model: %s\n"
        "data: {kind: synthetic, classes: 5, height: 6, width: 6, train: 60, test: %d, batch: 10, "
        "eval_batch: 20, validation: 20, noise: 0.8, prefetch: false}\n"
        "quant: %s\n",
        model, test_rows, quant);
    ExperimentConfig config;
    Error err = {0};
    if (!config_read_text(text, "test", 0, NULL, arena, &config, &err)) fail_msg("%s", err.message);
    if (!experiment_open(&config, arena, &experiment, &err)) fail_msg("%s", err.message);
    if (qat_is_active(experiment.qat) && !ranges_calibrate(&experiment, 40, &err))
        fail_msg("%s", err.message);
    qat_set_evaluation(experiment.qat);
}

static void count(void) {
    Error err = {0};
    json = json_new();
    if (!details_add_histograms(&experiment, json, &err)) fail_msg("%s", err.message);
}

static void open_with(const char *quant, int test_rows) {
    open_model("{kind: cnn, widths: [4], hidden: 6}", quant, test_rows);
}

static int set_up(void **state) {
    (void)state;
    arena = arena_new("test");
    experiment = (Experiment){0};
    json = NULL;
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    json_free(json);
    experiment_close(&experiment);
    arena_free(arena);
    return 0;
}

static const Json *find(const char *layer, const char *of) {
    for (int i = 0; i < json_count(json, "histograms"); i++) {
        const Json *histogram = json_element(json, "histograms", i);
        if (!strcmp(json_get_text(histogram, "layer"), layer) &&
            !strcmp(json_get_text(histogram, "of"), of))
            return histogram;
    }
    fail_msg("no histogram of %s, %s", layer, of);
    return NULL;
}

static void assert_counts(const Json *histogram, const double *places, int64_t count) {
    double low = json_number(histogram, "low"), high = json_number(histogram, "high");
    int64_t expected[DETAILS_BINS] = {0}, found = 0;
    for (int64_t i = 0; i < count; i++) {
        int bin = 0;
        while (bin < DETAILS_BINS - 1 && places[i] >= low + (high - low) * (bin + 1) / DETAILS_BINS)
            bin++;
        expected[bin]++;
    }
    assert_int_equal(json_count(histogram, "counts"), DETAILS_BINS);
    for (int i = 0; i < DETAILS_BINS; i++) {
        assert_true(json_get_int(histogram, arena_format(arena, "counts.%d", i), &found));
        assert_int_equal(found, expected[i]);
    }
}

static void assert_grid(const Json *histogram, const double *values, int count) {
    assert_int_equal(json_count(histogram, "grid"), count);
    for (int i = 0; i < count; i++) {
        double value = json_number(histogram, arena_format(arena, "grid.%d", i));
        assert_true(fabs(value - values[i]) <= 1e-12);
    }
}

/* A step beyond all values, but not far from the grid. */
static void assert_range(const Json *histogram, const double *places, int64_t count, double first,
                         double last, double step) {
    double low = INFINITY, high = -INFINITY;
    for (int64_t i = 0; i < count; i++) {
        low = fmin(low, places[i]);
        high = fmax(high, places[i]);
    }
    low = fmax(low, 2 * first - last) - json_number(histogram, "low");
    high = json_number(histogram, "high") - fmin(high, 2 * last - first);
    assert_true(low > step && low < 1.1 * step && high > step && high < 1.1 * step);
}

static const char *name_of(int i) {
    return experiment.qat->sites[i].name;
}

/* The first weight has a norm; here one that has seen some training, and a weight far out. */
static const WeightSite *first_site(void) {
    const WeightSite *site = &experiment.qat->sites[0];
    assert_non_null(site->norm);
    Param *gamma = module_find_param(site->norm, "gamma");
    for (int i = 0; i < 4; i++) tensor_f32(&gamma->value)[i] = 0.5f + (float)i;
    tensor_f32(&site->weight->value)[0] = -50;
    return site;
}

/* A scale per channel: in steps of each, of the weight with the norm in it. */
static void assert_channels(const WeightSite *site, double first, double last) {
    const Json *histogram = find(site->name, "weight");
    int64_t size = tensor_count(&site->weight->value), channels = site->weight->value.shape.dim[0];
    float *values = arena_new_array(arena, float, size);
    double *places = arena_new_array(arena, double, size);
    batch_norm_folded_weight(site->norm, values);
    const Scales *scales = quant_freeze(site->quant, arena);
    assert_int_equal(scales->count, channels);
    for (int64_t i = 0; i < size; i++) {
        int64_t channel = i / (size / channels);
        places[i] = (double)values[i] / (double)scales->scale[channel];
        if (scales->zero) places[i] += (double)scales->zero[channel];
    }
    assert_string_equal(json_get_text(histogram, "unit"), "step");
    double grid[8];
    for (int i = 0; i < 8; i++) grid[i] = first + i;
    assert_grid(histogram, grid, 8);
    assert_range(histogram, places, size, first, last, 1);
    assert_counts(histogram, places, size);
}

static void weights_of_channels_are_in_steps(void **state) {
    (void)state;
    open_with("{bits: 4, weights: {granularity: channel}, rules: [{layers: '*', bits: 3}]}", 30);
    const WeightSite *site = first_site();
    count();
    assert_channels(site, -4, 3);
}

static void zero_points_move_channels(void **state) {
    (void)state;
    open_with("{weights: {granularity: channel, affine: true, quantizer: minmax}, "
              "rules: [{layers: '*', bits: 3}]}",
              30);
    const WeightSite *site = first_site();
    count();
    const Scales *scales = quant_freeze(site->quant, arena);
    assert_true(scales->zero && scales->zero[0] != 0);
    assert_channels(site, scales->grid.base, scales->grid.base + 7);
}

/* One scale with a zero point: in the weight's own unit. */
static void weights_of_one_scale_are_values(void **state) {
    (void)state;
    open_with("{bits: 2, weights: {granularity: tensor, affine: true, quantizer: minmax}, "
              "rules: [{layers: '*', bits: 2}]}",
              30);
    count();
    const WeightSite *site = &experiment.qat->sites[experiment.qat->site_count - 1];
    assert_null(site->norm);
    const Json *histogram = find(site->name, "weight");
    int64_t size = tensor_count(&site->weight->value);
    const float *values = tensor_f32(&site->weight->value);
    double *places = arena_new_array(arena, double, size), grid[4];
    for (int64_t i = 0; i < size; i++) places[i] = (double)values[i];
    const Scales *scales = quant_freeze(site->quant, arena);
    assert_true(scales->zero && scales->zero[0] != 0);
    for (int i = 0; i < 4; i++)
        grid[i] =
            (double)scales->scale[0] * ((double)(scales->grid.base + i) - (double)scales->zero[0]);
    assert_string_equal(json_get_text(histogram, "unit"), "value");
    assert_grid(histogram, grid, 4);
    assert_range(histogram, places, size, grid[0], grid[3], (double)scales->scale[0]);
    assert_counts(histogram, places, size);
}

static void assert_input(int test_rows, int seen) {
    open_with("{bits: 4}", test_rows);
    count();
    const Json *histogram = find(name_of(0), "activation");
    const Quant *input = experiment.qat->sites[0].input;
    assert_non_null(input);
    int pixels = 6 * 6, filled = 0;
    double *places = arena_new_array(arena, double, seen *pixels);
    for (int i = 0; filled < seen * pixels; i++) {
        Batch batch = loader_batch(experiment.loader, LOADER_TEST, 0, i);
        Tensor column = batch_f32(&batch, "images");
        const float *images = tensor_f32(&column);
        for (int k = 0; k < batch.count * pixels && filled < seen * pixels; k++)
            places[filled++] = (double)images[k];
    }
    assert_counts(histogram, places, filled);
    const Scales *scales = quant_freeze(input, arena);
    int codes = grid_last_code(scales->grid) + 1;
    double *grid = arena_new_array(arena, double, codes);
    for (int i = 0; i < codes; i++)
        grid[i] = (double)scales->scale[0] *
                  ((double)(scales->grid.base + i) - (scales->zero ? (double)scales->zero[0] : 0));
    assert_grid(histogram, grid, codes);
    assert_string_equal(json_get_text(json, "activations_of"),
                        arena_format(arena, "the first %d test images", seen));
}

static void activations_are_of_the_first_rows(void **state) {
    (void)state;
    assert_input(90, DETAILS_ROWS);
}

static void all_rows_of_a_small_set_are_seen(void **state) {
    (void)state;
    assert_input(13, 13);
}

/* An edge that several layers read is there once; what is not quantized has weights alone. */
static void edges_are_there_once(void **state) {
    (void)state;
    open_model("{kind: resnet, depth: 8, widths: [2, 4, 4]}",
               "{bits: 4, rules: [{layers: last, weight_bits: 32}]}", 30);
    count();
    int weights = 0, activations = 0, sites = experiment.qat->site_count;
    for (int i = 0; i < json_count(json, "histograms"); i++) {
        const char *of = json_get_text(json_element(json, "histograms", i), "of");
        weights += !strcmp(of, "weight");
        activations += !strcmp(of, "activation");
    }
    assert_int_equal(weights, sites);
    int edges = 0;
    for (int i = 0; i < sites; i++) {
        bool is_new = experiment.qat->sites[i].input != NULL;
        for (int k = 0; k < i; k++)
            is_new &= experiment.qat->sites[k].input != experiment.qat->sites[i].input;
        edges += is_new;
    }
    assert_true(edges < sites); /* a shortcut reads what the layer beside it reads */
    assert_int_equal(activations, edges);
    assert_int_equal(json_count(find(name_of(sites - 1), "weight"), "grid"), 0);
}

static void a_float_network_has_none(void **state) {
    (void)state;
    open_with("{}", 30);
    count();
    assert_int_equal(json_count(json, "histograms"), 0);
    assert_null(json_get_text(json, "activations_of"));
}

/* ---- Examples ---- */

enum { ROWS = 40, SIDE = 3 };

static Dataset dataset_of(PixelType type, int64_t channels, const void *pixels) {
    static int32_t labels[ROWS];
    for (int i = 0; i < ROWS; i++) labels[i] = i % 7;
    return (Dataset){.class_count = 7,
                     .height = SIDE,
                     .width = SIDE,
                     .channels = channels,
                     .pixel_type = type,
                     .test = {.count = ROWS, .pixels = pixels, .labels = labels}};
}

static void examples_are_spread_over_what_changes(void **state) {
    (void)state;
    uint8_t pixels[ROWS * SIDE * SIDE * 3];
    for (int i = 0; i < ROWS * SIDE * SIDE * 3; i++) pixels[i] = (uint8_t)(i * 31);
    Dataset dataset = dataset_of(PIXEL_U8, 3, pixels);
    int64_t before[ROWS] = {0}, after[ROWS] = {0};
    for (int i = 1; i < ROWS; i++) after[i] = 1; /* all but the first row */
    json = json_new();
    details_add_examples(&dataset, before, after, json);
    assert_int_equal(json_count(json, "examples"), DETAILS_EXAMPLES);
    int64_t last = 0, row = 0, label = 0, value = 0;
    for (int k = 0; k < DETAILS_EXAMPLES; k++) {
        const Json *example = json_element(json, "examples", k);
        assert_true(json_get_int(example, "index", &row) && json_get_int(example, "label", &label));
        assert_true(row > last && row - last <= 4);
        assert_int_equal(label, row % 7);
        assert_int_equal(json_count(example, "pixels"), SIDE * SIDE * 3);
        for (int i = 0; i < SIDE * SIDE * 3; i++) {
            assert_true(json_get_int(example, arena_format(arena, "pixels.%d", i), &value));
            assert_int_equal(value, pixels[row * SIDE * SIDE * 3 + i]);
        }
        last = row;
    }
    assert_true(last > ROWS - 6);
}

static void few_changes_are_all_there(void **state) {
    (void)state;
    float pixels[ROWS * SIDE * SIDE];
    for (int i = 0; i < ROWS * SIDE * SIDE; i++) pixels[i] = (float)i - 100;
    Dataset dataset = dataset_of(PIXEL_F32, 1, pixels);
    int64_t before[ROWS] = {0}, after[ROWS] = {0};
    after[5] = after[39] = 2;
    json = json_new();
    details_add_examples(&dataset, before, after, json);
    assert_int_equal(json_count(json, "examples"), 2);
    assert_int_equal(json_number(json_element(json, "examples", 0), "index"), 5);
    assert_int_equal(json_number(json_element(json, "examples", 1), "index"), 39);
    for (int i = 0; i < SIDE * SIDE; i++) /* stretched: 9 equal steps from 0 to 255 */
        assert_int_equal(
            json_number(json_element(json, "examples", 1), arena_format(arena, "pixels.%d", i)),
            lround(255.0 * i / 8));
    json_free(json);
    json = json_new();
    details_add_examples(&dataset, before, before, json);
    assert_int_equal(json_count(json, "examples"), 0);
}

/* Of large images every n-th pixel is taken; of many channels the first. */
static void large_images_are_thinned(void **state) {
    (void)state;
    enum { WIDTH = 300 };
    static uint8_t pixels[WIDTH * 2];
    for (int i = 0; i < WIDTH * 2; i++) pixels[i] = (uint8_t)(i / 2);
    Dataset dataset = dataset_of(PIXEL_U8, 2, pixels);
    dataset.height = 1;
    dataset.width = WIDTH;
    dataset.test.count = 1;
    json = json_new();
    details_add_examples(&dataset, (int64_t[]){0}, (int64_t[]){1}, json);
    const Json *example = json_element(json, "examples", 0);
    assert_int_equal(json_number(example, "width"), 100);
    assert_int_equal(json_number(example, "channels"), 1);
    for (int i = 0; i < 100; i++)
        assert_int_equal(json_number(example, arena_format(arena, "pixels.%d", i)),
                         (uint8_t)(3 * i));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(weights_of_channels_are_in_steps, set_up, tear_down),
        cmocka_unit_test_setup_teardown(zero_points_move_channels, set_up, tear_down),
        cmocka_unit_test_setup_teardown(weights_of_one_scale_are_values, set_up, tear_down),
        cmocka_unit_test_setup_teardown(activations_are_of_the_first_rows, set_up, tear_down),
        cmocka_unit_test_setup_teardown(all_rows_of_a_small_set_are_seen, set_up, tear_down),
        cmocka_unit_test_setup_teardown(edges_are_there_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_float_network_has_none, set_up, tear_down),
        cmocka_unit_test_setup_teardown(examples_are_spread_over_what_changes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(few_changes_are_all_there, set_up, tear_down),
        cmocka_unit_test_setup_teardown(large_images_are_thinned, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
