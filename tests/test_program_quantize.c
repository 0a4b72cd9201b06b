/* nibble quantize: from a trained run to a run of its quantized network. */
#include "tests/program.h"

#define CNN                                                                                        \
    "model: {kind: cnn, widths: [4, 6], hidden: 12}\n" PROGRAM_DATA PROGRAM_OPTIMIZER              \
    "train: {epochs: 5}\n"
#define W4A4                                                                                       \
    "quant: {bits: 4, weights: {quantizer: mse}, activations: {quantizer: mse}}\n"                 \
    "calibration: {rows: 100, batch: 20}\n"

static int enter(void **state) {
    if (program_folder_enter(state)) return 1;
    text_file("cnn.yaml", CNN);
    text_file("w4a4.yaml", W4A4);
    run(0, "train cnn.yaml --out fp32");
    return 0;
}

/* Evaluated, converted, verified: to the bit. */
static void check_ships(const char *directory) {
    Json *json = json_of(run(0, "eval %s --json", directory).out);
    fraction_of(json, "quantized.accuracy");
    json_free(json);
    run(0, "convert %s", directory);
    assert_has(run(0, "verify %s", directory).out, " 0 differing bits");
}

static void test_run_directory(void **state) {
    (void)state;
    Result result = run(0, "quantize fp32 w4a4.yaml --out q");
    assert_has(result.err, "quantize.0: round");
    assert_has(result.out, "test accuracy");
    assert_has(file_text("q/config.yaml"), "quantize:\n  - kind: round\n");
    assert_has(file_text("q/metrics.jsonl"), "\"calibration_rows\": 100");
    assert_has(file_text("q/metrics.jsonl"), "\"method\": \"round\"");
    Json *json = json_of(file_text("q/summary.json"));
    double quantized = fraction_of(json, "quantized.accuracy");
    assert_true(number_of(json, "steps") == 40);
    json_free(json);
    Json *source = json_of(file_text("fp32/summary.json"));
    json = json_of(run(0, "eval q --json").out);
    assert_true(fraction_of(json, "quantized.accuracy") == quantized);
    /* round leaves the masters */
    assert_true(fraction_of(json, "shadow.accuracy") == fraction_of(source, "test.accuracy"));
    json_free(json);
    json_free(source);
    check_ships("q");
    assert_int_equal(files_with("q", "report.html"), 1);
}

static void test_weights_only(void **state) {
    (void)state;
    text_file("w4.yaml", "quant: {bits: 32, weights: {bits: 4, quantizer: mse}}\n"
                         "calibration: {rows: 64}\n");
    run(0, "quantize fp32 w4.yaml --out w4");
    check_ships("w4");
}

/* Training does nothing of a pipeline, whatever it is started with. */
static void test_training_refuses(void **state) {
    (void)state;
    run(0, "quantize fp32 w4a4.yaml --out refused");
    const char *message = run(2, "train --resume refused").err;
    assert_has(message, "refused/config.yaml:");
    assert_has(message, "quantize: training does nothing of the sort");
    assert_has(message, "train.init=DIR");
    assert_has(run(2, "train cnn.yaml --out never quantize=[round]").err,
               "quantize: training does nothing of the sort");
    assert_false(file_exists("never"));
}

static void test_settings(void **state) {
    (void)state;
    assert_has(run(2, "quantize fp32 cnn.yaml --out s").err,
               "cnn.yaml:1:1: 'model' comes from fp32/config.yaml: here stand quant, calibration "
               "and quantize alone");
    assert_has(run(2, "quantize fp32 w4a4.yaml --out s seed=2").err,
               "'seed=2' cannot change in a run");
    assert_has(run(2, "quantize fp32 w4a4.yaml --out s calibration.rows=1000").err,
               "calibration.rows is 1000, but there are 256 training images");
    assert_has(run(2, "quantize fp32 w4a4.yaml --out s quant.bits=32 ~quant.weights "
                      "~quant.activations")
                   .err,
               "nothing is quantized: set quant.bits, or quant.weights.bits, below 32");
    assert_has(
        run(2, "quantize fp32 w4a4.yaml --out s quant.rules=[{\"layers\":conv7,\"bits\":8}]").err,
        "quant.rules.0: no layer with weights matches 'conv7'; did you mean 'conv1'?");
    assert_false(file_exists("s"));
    run(0, "quantize fp32 w4a4.yaml --out s calibration.rows=7 quant.bits=8");
    assert_has(file_text("s/metrics.jsonl"), "\"calibration_rows\": 7");
}

static void test_directories(void **state) {
    (void)state;
    assert_has(run(2, "quantize nowhere w4a4.yaml --out d").err, "is not a run directory");
    assert_has(run(2, "quantize fp32 w4a4.yaml").err,
               "give --out DIR, where the quantized network is kept");
    assert_has(run(2, "quantize fp32 w4a4.yaml --out fp32 --force").err,
               "fp32 is the run that is quantized; --out is another directory");
    run(0, "quantize fp32 w4a4.yaml --out d");
    assert_has(run(2, "quantize fp32 w4a4.yaml --out d").err,
               "d already holds a run, or a part of one (config.yaml); replace it with --force");
    run(0, "quantize fp32 w4a4.yaml --out d --force");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_run_directory),    cmocka_unit_test(test_weights_only),
        cmocka_unit_test(test_training_refuses), cmocka_unit_test(test_settings),
        cmocka_unit_test(test_directories),
    };
    return cmocka_run_group_tests(tests, enter, program_folder_leave);
}
