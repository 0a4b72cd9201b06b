/* nibble eval: what it prints of the quantized network, its shadow and its layers; sensitivity. */
#include <math.h>

#include "tests/program.h"

#define CNN                                                                                        \
    "model: {kind: cnn, widths: [4, 8], hidden: 12, dropout: 0.2}\n" PROGRAM_DATA                  \
        PROGRAM_OPTIMIZER "quant: {bits: 4, rules: [{layers: last, bits: 8}]}\n"                   \
    "train: {epochs: 3}\n"

enum { LAYERS = 4 };
static const char *const names[LAYERS] = {"conv1", "conv2", "hidden", "classes"};

static Json *eval(const char *options) {
    return json_of(run(0, "eval run --json %s", options).out);
}

static void assert_deviation(const Json *layer, const char *path) {
    assert_true(number_of(layer, format("%ssqnr_db", path)) > 3);
    assert_true(fraction_of(layer, format("%scosine", path)) > 0.7);
    assert_true(number_of(layer, format("%serror_max", path)) >=
                number_of(layer, format("%serror_mean", path)));
    assert_true(number_of(layer, format("%serror_mean", path)) > 0);
}

static void test_json(void **state) {
    (void)state;
    Json *json = eval("");
    Json *summary = json_of(file_text("run/summary.json"));
    static const char *const same[] = {
        "test.accuracy", "test.loss",         "shadow.accuracy", "shadow.loss", "quantized.loss",
        "quantized.kl",  "quantized.changed", "layers.1.cosine", "layer_rows",  "outputs"};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        assert_true(number_of(json, same[i]) == number_of(summary, same[i]));
    assert_true(number_of(json, "outputs") == 100 && number_of(json, "layer_rows") == 100);
    assert_true(number_of(json, "quantized.kl") > 0);
    assert_int_equal(json_count(json, "layers"), LAYERS);
    for (int i = 0; i < LAYERS; i++) {
        const Json *layer = json_element(json, "layers", i);
        assert_string_equal(json_get_text(layer, "name"), names[i]);
        assert_deviation(layer, "");
        fraction_of(layer, "clipped_weight");
        fraction_of(layer, "clipped_input");
        assert_in_range(number_of(layer, "unused_codes_weight"), 0, i < 3 ? 14 : 254);
        assert_in_range(number_of(layer, "unused_codes_input"), 0, i < 3 ? 14 : 254);
    }
    assert_true(isnan(json_number(json, "split.weights.loss")));
    assert_true(isnan(json_number(json, "layers.0.split.weights.local.sqnr_db")));
    json_free(json);
    json_free(summary);
}

static void test_split(void **state) {
    (void)state;
    Json *json = eval("--split --layer-rows 16");
    assert_true(number_of(json, "layer_rows") == 16);
    static const char *const parts[] = {"weights", "activations"};
    for (int p = 0; p < 2; p++) {
        fraction_of(json, format("split.%s.accuracy", parts[p]));
        assert_true(number_of(json, format("split.%s.kl", parts[p])) > 0);
        assert_in_range(number_of(json, format("split.%s.changed", parts[p])), 0, 100);
        for (int i = 0; i < LAYERS; i++) {
            const Json *layer = json_element(json, "layers", i);
            assert_deviation(layer, format("split.%s.local.", parts[p]));
            assert_deviation(layer, format("split.%s.cumulative.", parts[p]));
        }
    }
    json_free(json);
}

static void test_text(void **state) {
    (void)state;
    const char *text = run(0, "eval run").out;
    static const char *const expected[] = {
        "test set                        quantized           shadow\naccuracy   ",
        "\nloss  ",
        "\nKL from the shadow  ",
        "\nchanged predictions  ",
        "\nof 100; KL in nats. The shadow is the same weights with nothing quantized: a "
        "diagnostic, no\nbaseline.\n",
        "\nLayers' outputs beside the shadow's, over 100 images\n",
        "layer                    weight input  SQNR dB   cosine   largest      mean  weight  "
        "input  "
        "weight  input\nconv1                         4     4 ",
        "\nclasses                       8     8 ",
    };
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) assert_has(text, expected[i]);
    assert_lacks(text, "weights only");
    assert_lacks(text, "local");
    text = run(0, "eval run --split").out;
    assert_has(text, "quantized           shadow     weights only activations only\n");
    assert_has(
        text, "layer                     weights local   cumulative    input local   cumulative\n");
    for (const char *line = text; *line;) { /* a terminal's width */
        size_t length = strcspn(line, "\n");
        if (length > 110) fail_msg("too wide: %.*s", (int)length, line);
        line += length + (line[length] == '\n');
    }
}

static void test_sensitivity(void **state) {
    (void)state;
    Json *json = eval("--sensitivity --rows 40");
    assert_true(number_of(json, "rows") == 40);
    assert_int_equal(json_count(json, "sensitivity"), LAYERS);
    double last = INFINITY;
    int seen = 0;
    for (int i = 0; i < LAYERS; i++) {
        const Json *layer = json_element(json, "sensitivity", i);
        double kl = number_of(layer, "kl");
        assert_true(kl <= last && kl >= 0);
        last = kl;
        for (int j = 0; j < LAYERS; j++)
            seen |= !strcmp(json_get_text(layer, "name"), names[j]) << j;
        assert_true(number_of(layer, "weights.kl") >= 0 && number_of(layer, "input.kl") >= 0);
        number_of(layer, "loss");
        number_of(layer, "accuracy");
        assert_in_range(number_of(layer, "changed"), 0, 40);
        assert_true(number_of(layer, "parameters") > 0 && number_of(layer, "bits") < 9);
    }
    assert_int_equal(seen, 15);
    json_free(json);
    const char *text = run(0, "eval run --sensitivity").out;
    assert_has(text, "What each layer costs when it alone is quantized, on 64 validation images\n");
    assert_has(text, "layer                    weight input       nats       more         lost     "
                     "weights       input\n");
    assert_has(text, " points ");
}

static void test_an_fp32_run(void **state) {
    (void)state;
    run(0, "train cnn.yaml --out float quant.bits=32 quant.rules=[] train.epochs=1");
    const char *text = run(0, "eval float --split").out;
    assert_has(text, "test accuracy  ");
    assert_has(text, "\ntest loss  ");
    assert_lacks(text, "shadow");
    text = run(0, "eval float --sensitivity").out;
    assert_has(text, "KL in nats, its weight alone at so many bits\n");
    assert_has(
        text,
        "layer                      parameters           8           4           3           2\n");
    Json *json = json_of(run(0, "eval float --sensitivity --json --rows 0").out);
    assert_true(number_of(json, "rows") == 64);
    for (int i = 0; i < LAYERS; i++) {
        const Json *layer = json_element(json, "sensitivity", i);
        assert_true(number_of(layer, "bits_8.kl") < number_of(layer, "bits_2.kl"));
        number_of(layer, "bits_3.accuracy");
    }
    json_free(json);
}

static void test_options_are_checked(void **state) {
    (void)state;
    assert_has(run(2, "eval run --layer-rows many").err,
               "--layer-rows must be a number from 0 on, not 'many'");
    assert_has(run(2, "eval run --layer-rows -1").err, "--layer-rows must be a number from 0 on");
    assert_has(run(2, "eval run --sensitivity --rows 3x").err,
               "--rows must be a number from 0 on, not '3x'");
    assert_has(run(2, "eval run --sensitivity --split").err, "give one of them");
    assert_has(run(2, "eval run --sensitivity --layer-rows 4").err, "give one of them");
    assert_has(run(2, "eval run --rows 4").err, "--rows says how many rows --sensitivity sees");
    run(0, "train cnn.yaml --out blind data.validation=0 train.epochs=1");
    assert_has(run(2, "eval blind --sensitivity").err,
               "there is no validation split to measure what layers cost on: set data.validation");
}

static int make_run(void **state) {
    if (program_folder_enter(state)) return -1;
    text_file("cnn.yaml", CNN);
    run(0, "train cnn.yaml --out run");
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json),        cmocka_unit_test(test_split),
        cmocka_unit_test(test_text),        cmocka_unit_test(test_sensitivity),
        cmocka_unit_test(test_an_fp32_run), cmocka_unit_test(test_options_are_checked),
    };
    return cmocka_run_group_tests(tests, make_run, program_folder_leave);
}
