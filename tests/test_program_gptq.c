/* GPTQ of a trained network, by the program: from the run to the packed file's bits. */
#include "tests/program.h"

#define OPTIONS PROGRAM_DATA PROGRAM_OPTIMIZER "train: {epochs: 2}\n"

static int enter(void **state) {
    if (program_folder_enter(state)) return 1;
    text_file("cnn.yaml", "model: {kind: cnn, widths: [4, 6], hidden: 12}\n" OPTIONS);
    text_file("mobilenet.yaml",
              "model: {kind: mobilenet, stem: 4, widths: [8, 8], strides: [1, 2]}\n" OPTIONS);
    text_file("w3.yaml", "quant: {bits: 32, weights: {bits: 3, quantizer: mse}}\n"
                         "calibration: {rows: 200}\n"
                         "quantize: [gptq]\n");
    text_file("w2a8.yaml", "quant:\n"
                           "  bits: 8\n"
                           "  weights: {bits: 2, quantizer: minmax, granularity: group,\n"
                           "            group_size: 8, affine: true, scale: f16}\n"
                           "  activations: {quantizer: mse}\n"
                           "calibration: {rows: 100}\n"
                           "quantize: [gptq, bias_correct]\n");
    run(0, "train cnn.yaml --out cnn");
    run(0, "train mobilenet.yaml --out mobilenet");
    return 0;
}

static void check_ships(const char *directory) {
    run(0, "convert %s", directory);
    assert_has(run(0, "verify %s", directory).out, " 0 differing bits");
}

static void test_ships(void **state) {
    (void)state;
    static const char *const runs[] = {"cnn", "mobilenet"};
    static const char *const configs[] = {"w3", "w2a8"};
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) {
            const char *to = format("%s_%s", runs[i], configs[j]);
            const char *said = run(0, "quantize %s %s.yaml --out %s", runs[i], configs[j], to).err;
            assert_has(said, "output error ");
            check_ships(to);
            const char *metrics = file_text(format("%s/metrics.jsonl", to));
            assert_has(metrics, "\"output_error_nearest\": ");
            assert_has(metrics, "\"damping\": 0.01");
            assert_has(metrics, "\"dead_inputs\": ");
        }
}

/* The same file whatever the threads, and whoever built OpenBLAS. */
static void test_threads_and_builds(void **state) {
    (void)state;
    run(0, "quantize cnn w2a8.yaml --out one --threads 1");
    const char *one = file_text("one/config.yaml");
    assert_has(one, "- kind: gptq\n");
    for (int threads = 2; threads <= 4; threads++) {
        run(0, "quantize cnn w2a8.yaml --out more --force --threads %d", threads);
        assert_files_equal("one/checkpoint.h5", "more/checkpoint.h5");
    }
    static const char *const builds[] = {"pthread", "openmp", "serial"};
    for (int i = 0; i < 3; i++) {
        const char *library = format("/usr/lib/x86_64-linux-gnu/openblas-%s", builds[i]);
        if (!file_exists(format("%s/libopenblas.so.0", library))) continue;
        const char *command = "quantize cnn w2a8.yaml --out more --force --threads 3";
        Start start = {.variable = "LD_LIBRARY_PATH", .value = library};
        assert_code(program_run(start, command), 0, command);
        assert_has(file_text("more/env.json"), builds[i]);
        assert_files_equal("one/checkpoint.h5", "more/checkpoint.h5");
    }
}

static void test_help(void **state) {
    (void)state;
    const char *help = run(0, "help gptq").out;
    assert_has(help, "act_order");
    assert_has(help, "static_groups");
    assert_has(
        run(2, "quantize cnn w3.yaml --out never quantize=[{\"kind\":gptq,\"order\":1}]").err,
        "order");
    assert_false(file_exists("never"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ships),
        cmocka_unit_test(test_threads_and_builds),
        cmocka_unit_test(test_help),
    };
    return cmocka_run_group_tests(tests, enter, program_folder_leave);
}
