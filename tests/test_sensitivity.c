/* Sensitivity: what a layer costs, beside networks that settings quantize in that layer alone. */
#include "experiments/train/sensitivity.h"
#include "tests/shadow_run.h"

#define CNN "{kind: cnn, widths: [4], hidden: 6}"
#define NET "{kind: resnet, depth: 8, widths: [2, 3, 4]}"

static Sensitivity begin(int64_t rows) {
    Sensitivity s;
    Error err = {0};
    if (!sensitivity_begin(&experiment, rows, arena, &s, &err)) fail_msg("%s", err.message);
    return s;
}

static SensitivityCost layer_cost(Sensitivity *s, int site, SensitivityPart part) {
    SensitivityCost cost;
    Error err = {0};
    if (!sensitivity_layer(s, site, part, &cost, &err)) fail_msg("%s", err.message);
    return cost;
}

static SensitivityCost weight_cost(Sensitivity *s, int site, int bits) {
    SensitivityCost cost;
    Error err = {0};
    if (!sensitivity_weight(s, site, bits, &cost, &err)) fail_msg("%s", err.message);
    return cost;
}

/* Of the network as its settings have it. */
static SensitivityCost plain_cost(void) {
    Evaluation exact = outputs_of(LOADER_VALIDATION, NETWORK_SHADOW);
    Evaluation given = outputs_of(LOADER_VALIDATION, NETWORK_TRAINED);
    return (SensitivityCost){
        .loss = given.loss - exact.loss,
        .score = exact.scores[0] - given.scores[0],
        .kl = divergence_of(exact.outputs, given.outputs, VALIDATION_ROWS),
        .changed = changes_of(exact.outputs, given.outputs, VALIDATION_ROWS),
    };
}

static void assert_alike(SensitivityCost a, SensitivityCost b, double tolerance) {
    assert_true(fabs(a.loss - b.loss) <= tolerance && fabs(a.kl - b.kl) <= tolerance + 1e-9);
    if (tolerance > 0) return;
    assert_true(a.score == b.score);
    assert_int_equal(a.changed, b.changed);
}

/* With dropout the quantizer of a layer's input stands before another layer. */
static void a_layer_costs_what_it_costs_alone(void **state) {
    (void)state;
    static const char *const models[] = {CNN, "{kind: cnn, widths: [4], hidden: 6, dropout: 0.5}"};
    static const char *const words[SENSITIVITY_PARTS] = {"bits: 2", "weight_bits: 2",
                                                         "activation_bits: 2"};
    for (int m = 0; m < 2; m++) {
        open_model(models[m], "{bits: 2, " FIXED_RANGES "}");
        int sites = experiment.qat->site_count;
        SensitivityCost costs[3][SENSITIVITY_PARTS];
        const char *names[3];
        Sensitivity s = begin(0);
        for (int i = 0; i < sites; i++) {
            names[i] = arena_strdup(arena, experiment.qat->sites[i].name);
            for (SensitivityPart p = 0; p < SENSITIVITY_PARTS; p++)
                costs[i][p] = layer_cost(&s, i, p);
        }
        for (int i = 0; i < sites; i++)
            for (SensitivityPart p = 0; p < SENSITIVITY_PARTS; p++) {
                open_model(models[m],
                           arena_format(arena, "{rules: [{layers: %s, %s}], " FIXED_RANGES "}",
                                        names[i], words[p]));
                assert_alike(costs[i][p], plain_cost(), 0);
                assert_true(costs[i][p].kl > 1e-7);
            }
    }
}

/* The convolution and the shortcut of a block read the same codes. */
static void readers_of_one_edge_are_told_apart(void **state) {
    (void)state;
    open_model(NET, "{bits: 2}");
    const Qat *qat = experiment.qat;
    int shortcut = -1, main = -1;
    for (int i = 0; i < qat->site_count; i++)
        if (strstr(qat->sites[i].name, "shortcut")) shortcut = i;
    for (int i = 0; i < qat->site_count; i++)
        if (i != shortcut && qat->sites[i].input == qat->sites[shortcut].input) main = i;
    assert_true(shortcut >= 0 && main >= 0);
    Sensitivity s = begin(0);
    assert_true(layer_cost(&s, shortcut, SENSITIVITY_INPUT).kl !=
                layer_cost(&s, main, SENSITIVITY_INPUT).kl);
}

/* As settings quantize with the range of least squared error; but that unfolds what it rounded. */
static void a_weight_costs_what_rounding_it_costs(void **state) {
    (void)state;
    static const char *const names[] = {"conv1", "hidden", "classes"};
    static const int bits[] = {2, 4, BITS_TERNARY};
    for (int b = 0; b < 3; b++) {
        SensitivityCost quantized[3], floating[3];
        open_model(CNN, "{bits: 8, weights: {granularity: channel}}");
        Sensitivity s = begin(0);
        for (int i = 0; i < 3; i++) quantized[i] = weight_cost(&s, i, bits[b]);
        open_model(CNN, "{weights: {granularity: channel}}");
        s = begin(0);
        for (int i = 0; i < 3; i++) floating[i] = weight_cost(&s, i, bits[b]);
        for (int i = 0; i < 3; i++) {
            open_model(CNN, arena_format(arena,
                                         "{weights: {quantizer: mse, granularity: channel}, rules: "
                                         "[{layers: %s, weight_bits: %g}]}",
                                         names[i], bits_number(bits[b])));
            SensitivityCost plain = plain_cost();
            assert_alike(quantized[i], plain, 1e-5);
            assert_alike(floating[i], plain, 1e-5);
            assert_true(plain.kl > 1e-5);
        }
    }
}

static void a_table_is_of_all_sites_and_bits(void **state) {
    (void)state;
    open_model(CNN, "{}");
    static const int bits[] = {2, 3, 4, 8};
    SensitivityCost costs[3 * 4];
    Error err = {0};
    Sensitivity s = begin(17);
    assert_int_equal(s.exact.rows, 17);
    assert_true(sensitivity_table(&s, bits, 4, costs, &err));
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 4; j++) {
            SensitivityCost one = weight_cost(&s, i, bits[j]);
            assert_memory_equal(&costs[i * 4 + j], &one, sizeof one);
        }
    for (int i = 0; i < 3; i++) { /* about four times less a bit */
        assert_true(costs[i * 4].kl > costs[i * 4 + 2].kl);
        assert_true(costs[i * 4 + 2].kl > costs[i * 4 + 3].kl);
    }
}

static void what_is_not_quantized_costs_nothing(void **state) {
    (void)state;
    open_model(CNN, "{bits: 4, rules: [{layers: hidden, weight_bits: 32}, {layers: last, bits: "
                    "32}]}");
    Sensitivity s = begin(0);
    SensitivityCost none = {0}, input = layer_cost(&s, 1, SENSITIVITY_INPUT);
    SensitivityCost both = layer_cost(&s, 1, SENSITIVITY_BOTH);
    SensitivityCost weights = layer_cost(&s, 1, SENSITIVITY_WEIGHTS);
    assert_memory_equal(&both, &input, sizeof both);
    assert_memory_equal(&weights, &none, sizeof none);
    both = layer_cost(&s, 2, SENSITIVITY_BOTH);
    assert_memory_equal(&both, &none, sizeof none);
    assert_true(input.kl > 0);
}

static void the_experiment_stays_as_it_was(void **state) {
    (void)state;
    open_model(CNN, "{bits: 4}");
    const Param *weight = experiment.qat->sites[1].weight;
    const void *data = weight->value.data;
    Evaluation before = outputs_of(LOADER_TEST, NETWORK_TRAINED);
    Sensitivity s = begin(0);
    layer_cost(&s, 1, SENSITIVITY_BOTH);
    weight_cost(&s, 1, 2);
    assert_ptr_equal(weight->value.data, data);
    Evaluation after = outputs_of(LOADER_TEST, NETWORK_TRAINED);
    assert_memory_equal(before.outputs, after.outputs, sizeof(float) * TEST_ROWS * CLASSES);
}

static void there_is_a_validation_split(void **state) {
    (void)state;
    open_model(CNN, "{}");
    experiment_close(&experiment);
    const char *text =
        "model: {kind: mlp, widths: [4]}\ndata: {kind: synthetic, height: 4, width: 4, "
        "train: 40, test: 20, batch: 10, validation: 0}\n";
    ExperimentConfig config;
    Sensitivity s;
    Error err = {0};
    assert_true(config_read_text(text, "test", 0, NULL, arena, &config, &err));
    assert_true(experiment_open(&config, arena, &experiment, &err));
    assert_false(sensitivity_begin(&experiment, 10, arena, &s, &err));
    assert_int_equal(err.code, ERROR_INPUT);
    assert_non_null(strstr(err.message, "set data.validation"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(a_layer_costs_what_it_costs_alone),     TEST(readers_of_one_edge_are_told_apart),
        TEST(a_weight_costs_what_rounding_it_costs), TEST(a_table_is_of_all_sites_and_bits),
        TEST(what_is_not_quantized_costs_nothing),   TEST(the_experiment_stays_as_it_was),
        TEST(there_is_a_validation_split),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
