/* quant.bits: auto, from the trained network to the rules of the run. */
#include "tests/program.h"

#define DATA                                                                                       \
    "data: {kind: synthetic, height: 8, width: 8, classes: 4, train: 352, test: 40, validation: "  \
    "64, batch: 16, noise: 0.6}\n"
#define CNN  "model: {kind: cnn, widths: [8, 12], hidden: 24}\n" DATA
#define AUTO CNN "train: {epochs: 1, init: fp}\nquant: {bits: auto, budget_bytes: 1500}\n"

static int files_make(void **state) {
    if (program_folder_enter(state)) return 1;
    text_file("fp.yaml", CNN "train: {epochs: 4}\noptimizer: {kind: sgd, lr: 0.05}\n");
    text_file("auto.yaml", AUTO);
    run(0, "train fp.yaml --out fp");
    return 0;
}

static double summary_number(const char *directory, const char *path) {
    Json *json = json_of(file_text(format("%s/summary.json", directory)));
    double value = number_of(json, path);
    json_free(json);
    return value;
}

static double bits_of(const char *directory, const char *layer, const char *of) {
    Json *json = json_of(file_text(format("%s/summary.json", directory)));
    double bits = -1;
    for (int i = 0; i < json_count(json, "layers"); i++) {
        const Json *row = json_element(json, "layers", i);
        if (!strcmp(json_get_text(row, "name"), layer)) bits = number_of(row, of);
    }
    json_free(json);
    assert_true(bits > 0);
    return bits;
}

/* The sum that the table ends with. */
static double cost_of(const char *err) {
    const char *last = strstr(err, "the packed network ");
    assert_non_null(last);
    last = strstr(last, "KL ");
    assert_non_null(last);
    return strtod(last + 3, NULL);
}

/* ---- What comes out ---- */

static void test_run_holds_rules(void **state) {
    (void)state;
    Result result = run(0, "train auto.yaml --out auto");
    assert_has(result.err,
               "quant.bits: auto: 4 layers are measured at 2 to 8 bits on 64 validation ");
    assert_has(result.err, "bits   conv1  ");
    assert_has(result.err, " of 1500 bytes\n");
    const char *config = file_text("auto/config.yaml");
    assert_lacks(config, "auto\n");
    assert_lacks(config, "budget_bytes");
    assert_has(config, "layers: \"conv1\"");
    assert_true(summary_number("auto", "quantized_bytes") <= 1500);
    run(0, "eval auto");
    run(0, "convert auto");
    run(0, "verify auto");
    run(0, "train auto/config.yaml --out again");
    assert_files_equal("auto/checkpoint.h5", "again/checkpoint.h5");
    run(0, "train auto.yaml --out paused train.steps=9");
    assert_lacks(run(0, "train --resume paused train.steps=0").err, "are measured");
    assert_files_equal("auto/checkpoint.h5", "paused/checkpoint.h5");
    run(0, "train auto.yaml --out threads --threads 3");
    assert_files_equal("auto/checkpoint.h5", "threads/checkpoint.h5");
}

static double packed_bytes(const char *settings) {
    Json *json = json_of(run(0, "plan auto.yaml --json %s", settings).out);
    double bytes = number_of(json, "packed.bytes");
    json_free(json);
    return bytes;
}

/* More bytes never cost more, and where there are enough all are used. */
static void test_budgets(void **state) {
    (void)state;
    double before = 1e9, most = packed_bytes("quant.bits=8 quant.budget_bytes=0");
    for (int budget = 950; budget <= 2750; budget += 300) {
        Result result = run(0, "plan auto.yaml --json quant.budget_bytes=%d", budget);
        Json *json = json_of(result.out);
        assert_true(number_of(json, "packed.bytes") <= budget);
        json_free(json);
        double cost = cost_of(result.err);
        assert_true(cost <= before);
        before = cost;
    }
    assert_true(packed_bytes(format("quant.budget_bytes=%.0f", most)) == most);
}

static void test_smallest(void **state) {
    (void)state;
    Result result = run(2, "train auto.yaml --out none quant.budget_bytes=100");
    assert_has(result.err, "quant.budget_bytes: no choice of bits meets 100 bytes: with 2 bits ");
    assert_has(result.err, "nibble: command line: quant.budget_bytes=100: ");
    assert_has(run(2, "train auto.yaml --out none quant.budget_bytes=100").err,
               "a smaller model, or in place of auto 1 or 1.58 bits (weights: {quantizer: "
               "paretoq})");
    assert_false(file_exists("none"));
    const char *takes = strstr(result.err, "network takes ");
    assert_non_null(takes);
    long smallest = strtol(takes + strlen("network takes "), NULL, 10);
    run(2, "plan auto.yaml quant.budget_bytes=%ld", smallest - 1);
    run(0, "train auto.yaml --out small train.steps=1 quant.budget_bytes=%ld", smallest);
    assert_true(summary_number("small", "quantized_bytes") == (double)smallest);
    assert_true(bits_of("small", "conv2", "bits") == 2);
    assert_true(bits_of("small", "classes", "activation_bits") == 2);
}

/* Rules of the user's are the last word, and what they name is not chosen for. */
static void test_own_rules(void **state) {
    (void)state;
    text_file("rules.yaml", CNN "train: {steps: 1, init: fp}\n"
                                "quant:\n  bits: auto\n  budget_bytes: 1300\n"
                                "  rules: [{layers: 'first, last', bits: 8}]\n");
    Result result = run(0, "train rules.yaml --out rules");
    assert_has(result.err, "auto: 2 layers are measured");
    assert_true(bits_of("rules", "conv1", "bits") == 8);
    assert_true(bits_of("rules", "classes", "bits") == 8);
    assert_true(summary_number("rules", "quantized_bytes") <= 1300);
    assert_has(run(2, "plan rules.yaml quant.rules.0.layers='conv,linear'").err,
               "quant.bits: auto has nothing to choose: rules give every layer its bits");
}

/* Where activations have bits of their own, they keep them. */
static void test_weights_alone(void **state) {
    (void)state;
    static const char *const names[] = {"conv1", "conv2", "hidden", "classes"};
    run(0, "train auto.yaml --out weights train.steps=1 quant.activations.bits=8");
    bool any = false;
    for (int i = 0; i < 4; i++) {
        assert_true(bits_of("weights", names[i], "activation_bits") == 8);
        any |= bits_of("weights", names[i], "bits") < 8;
    }
    assert_true(any);
    assert_true(summary_number("weights", "quantized_bytes") <= 1500);
}

/* Scales per group and token, zero points, residual streams: the packed size is counted as it is.
 */
static void test_kinds_of_networks(void **state) {
    (void)state;
    text_file("mlp.yaml", "model: {kind: mlp, widths: [40, 30]}\n" DATA "train: {epochs: 1}\n");
    text_file("resnet.yaml",
              "model: {kind: resnet, depth: 8, widths: [4, 6, 8]}\n" DATA "train: {epochs: 1}\n");
    static const char *const words[] = {"mlp", "resnet"};
    static const char *const settings[] = {
        "quant.weights.granularity=group quant.weights.affine=true quant.weights.quantizer=minmax "
        "quant.activations.quantizer=minmax quant.activations.granularity=token",
        "quant.residual_bits=inherit quant.activations.affine=true "
        "quant.activations.quantizer=lsq_plus"};
    for (int i = 0; i < 2; i++) {
        run(0, "train %s.yaml --out %s_fp", words[i], words[i]);
        Json *json =
            json_of(run(0, "plan %s.yaml --json quant.bits=4 %s", words[i], settings[i]).out);
        int budget = (int)number_of(json, "packed.bytes");
        json_free(json);
        run(0,
            "train %s.yaml --out %s_auto train.init=%s_fp quant.bits=auto "
            "quant.budget_bytes=%d %s",
            words[i], words[i], words[i], budget, settings[i]);
        assert_true(summary_number(format("%s_auto", words[i]), "quantized_bytes") <= budget);
        run(0, "convert %s_auto", words[i]);
        run(0, "verify %s_auto", words[i]);
    }
}

/* Words of rules that layers may be called by, too. */
static void test_names_that_are_words(void **state) {
    (void)state;
    text_file("words.yaml",
              "model: {kind: sequential, layers: [{kind: conv, name: last, filters: 6}, relu, "
              "{kind: conv, name: conv, filters: 6}, relu, flatten, {kind: linear, name: first, "
              "units: 20}, relu, {kind: linear, name: linear, units: 4}]}\n" DATA
              "train: {epochs: 1}\n");
    run(0, "train words.yaml --out words");
    Result result = run(0, "train words.yaml --out chosen train.init=words quant.bits=auto "
                           "quant.budget_bytes=4600");
    static const char *const names[] = {"last", "conv", "first", "linear"};
    double bits[4];
    bool differ = false;
    for (int i = 0; i < 4; i++) {
        const char *row = strstr(result.err, format("bits   %s ", names[i]));
        assert_non_null(row);
        bits[i] = strtod(row + strlen("bits   ") + 28, NULL);
        assert_true(bits_of("chosen", names[i], "bits") == bits[i]);
        differ |= bits[i] != bits[0];
    }
    assert_true(differ);
}

/* The same network and data, without training. */
static void test_quantize(void **state) {
    (void)state;
    text_file("ptq.yaml", "quant: {bits: auto, budget_bytes: 1500}\nquantize: [round]\n"
                          "calibration: {rows: 64}\n");
    Result result = run(0, "quantize fp ptq.yaml --out ptq");
    assert_has(result.err, "auto: 4 layers are measured");
    assert_true(summary_number("ptq", "quantized_bytes") <= 1500);
    assert_lacks(file_text("ptq/config.yaml"), "auto\n");
    run(0, "convert ptq");
    run(0, "verify ptq");
}

/* What is measured is to be a network that was trained in FP32. */
static void test_a_quantized_network_is_told(void **state) {
    (void)state;
    static const char message[] = "is of a network that was quantized already";
    assert_lacks(run(0, "train auto.yaml --out told train.steps=1").err, message);
    run(0, "train fp.yaml --out qat quant.bits=4");
    assert_has(run(0, "train auto.yaml --out told --force train.steps=1 train.init=qat").err,
               message);
}

/* A signal ends the measuring with a word. */
static void test_stopped(void **state) {
    (void)state;
    run(0, "train fp.yaml --out wide train.steps=1 model.widths=[96,96]");
    pid_t child = program_start((Start){0}, "train auto.yaml --out stopped train.init=wide "
                                            "model.widths=[96,96] quant.budget_bytes=100000");
    while (!strstr(file_text("stderr"), "are measured")) usleep(1000);
    kill(child, SIGTERM);
    Result result = program_wait(child);
    assert_int_equal(result.code, 143);
    assert_has(result.err, "nibble: stopped by SIGTERM; nothing was written\n");
    assert_false(file_exists("stopped"));
}

/* ---- Bad input ---- */

static void test_bad_input(void **state) {
    (void)state;
    text_file("alone.yaml", CNN "quant:\n  bits: auto\n");
    assert_has(run(2, "train alone.yaml --out none").err,
               "alone.yaml:4:9: quant.bits: auto needs quant.budget_bytes");
    text_file("alone.yaml", CNN "quant:\n  budget_bytes: 4000\n");
    assert_has(run(2, "train alone.yaml --out none").err,
               "alone.yaml:4:17: quant.budget_bytes is for quant.bits: auto");
    text_file("alone.yaml", CNN "quant:\n  bits: auto\n  budget_bytes: 4000\n");
    assert_has(run(2, "train alone.yaml --out none").err,
               "alone.yaml:4:9: quant.bits: auto measures a trained network: name a run that was "
               "trained in FP32 as train.init");
    assert_has(run(2, "train auto.yaml --out none quant.weights.bits=4").err,
               "quant.weights.bits leaves nothing to choose: quant.bits: auto chooses the bits of "
               "weights");
    assert_has(run(2, "train auto.yaml --out none train.init=nowhere").err, "nowhere");
    assert_has(run(2, "train auto.yaml --out none data.validation=0").err, "set data.validation");
    assert_false(file_exists("none"));
    run(0, "train auto.yaml --out edited train.steps=1");
    text_file("edited/config.yaml", AUTO);
    assert_has(run(2, "eval edited").err, "quant.bits: auto is chosen by 'nibble train'");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_run_holds_rules),
        cmocka_unit_test(test_budgets),
        cmocka_unit_test(test_smallest),
        cmocka_unit_test(test_own_rules),
        cmocka_unit_test(test_weights_alone),
        cmocka_unit_test(test_kinds_of_networks),
        cmocka_unit_test(test_names_that_are_words),
        cmocka_unit_test(test_quantize),
        cmocka_unit_test(test_a_quantized_network_is_told),
        cmocka_unit_test(test_stopped),
        cmocka_unit_test(test_bad_input),
    };
    return cmocka_run_group_tests(tests, files_make, program_folder_leave);
}
