/* The program as a script sees it: commands, run directories, what the files hold. */
#include "tests/program.h"

#include <math.h>

#include "core/settings/yaml.h"

#define MLP                                                                                        \
    "model: {kind: mlp, widths: [16]}\n" PROGRAM_DATA PROGRAM_OPTIMIZER                            \
    "train: {epochs: 5, log_every: 4}\n"

static const char *const run_files[] = {"config.yaml",  "env.json",          "metrics.jsonl",
                                        "summary.json", "best.h5",           "checkpoint.h5",
                                        "report.html",  "checkpoint.prev.h5"};

/* ---- Arguments ---- */

static void test_usage(void **state) {
    (void)state;
    assert_has(run(0, "").out, "nibble train CONFIG --out DIR");
    assert_has(run(0, "--help").out, "nibble verify DIR");
    assert_has(run(0, "help").out, "Exit codes");
    assert_has(run(0, "help").out, "NIBBLE_CPU");
    assert_has(run(2, "trian x.yaml").err, "did you mean 'train'");
    assert_has(run(2, "train x.yaml").err, "--out DIR");
    assert_has(run(2, "train --out r").err, "usage: nibble train");
    assert_has(run(2, "train x.yaml --out").err, "--out needs DIR");
    assert_has(run(2, "train x.yaml --out r --resume r").err, "give one of them");
    assert_has(run(2, "train x.yaml --output r").err, "unknown option '--output'");
    assert_has(run(2, "eval r --jsn").err, "unknown option '--jsn'");
    assert_has(run(2, "eval").err, "usage: nibble eval DIR");
    assert_has(run(2, "eval a b").err, "'b' is no setting: expected NAME=VALUE");
    assert_has(run(2, "convert r --threads").err, "--threads needs N");
    assert_has(run(2, "convert r --threads 0").err, "from 1 to");
    assert_has(run(2, "convert r --threads 2x").err, "not '2x'");
    assert_has(run(2, "inspect r --threads 2").err, "unknown option '--threads'");
    assert_has(run(2, "inspect a b").err, "usage: nibble inspect FILE");
    assert_false(file_exists("r"));
}

/* What a hand types works, or the message says how it is spelt. */
static void test_spellings(void **state) {
    (void)state;
    assert_has(run(0, "--version").out, "nibble ");
    assert_has(run(0, "train --help").out, "--resume DIR");
    assert_has(run(0, "train x.yaml -h").out, "--resume DIR");
    assert_has(run(0, "--help train").out, "--threads N");
    assert_has(run(2, "inspect -- --help").err, "--help: No such file");
    assert_has(run(2, "inspect -").err, "-: No such file");
    assert_has(run(2, "train nowhere.yaml -o r").err, "nowhere.yaml");
    assert_has(run(2, "train nowhere.yaml --out=r").err, "nowhere.yaml");
    assert_has(run(2, "train nowhere.yaml -o=r -t 2").err, "nowhere.yaml");
    assert_has(run(2, "train -- --out r").err, "give --out DIR");
    assert_has(run(2, "train x.yaml -q r").err, "unknown option '-q'");
    assert_has(run(2, "train x.yaml -out r").err, "unknown option '-out'; did you mean '--out'?");
    assert_has(run(2, "predict r x.png -t 2").err, "unknown option '-t'"); /* --top, --threads */
    assert_has(run(2, "train x.yaml --uot r").err, "did you mean '--out'");
    assert_has(run(2, "train x.yaml --force=1 --out r").err, "--force takes no value");
    assert_has(run(2, "train x.yaml --out=r --threads=0").err, "not '0'");
    assert_has(run(2, "inspect .").err, "is a directory, and holds no checkpoint");
}

static void test_help_on_settings(void **state) {
    (void)state;
    assert_has(run(0, "help lr").out, "# optimizer.lr, of sgd\nlr: 0.1 ");
    assert_has(run(0, "help lr").out, "# optimizer.lr, of adam, adamw\nlr: 0.001 ");
    assert_has(run(0, "help optimizer.lr").out, "# optimizer.lr, of sgd");
    assert_has(run(0, "help quant").out, "residual_bits: 8");
    assert_has(run(0, "help layers.kernel").out, "# model.layers.kernel, of conv");
    assert_has(run(0, "help data").out, "kind: synthetic");
    assert_has(run(0, "help data").out,
               "nibble data show CONFIG N"); /* a command has the name too */
    assert_has(run(2, "help optimizer.r").err, "no help on 'optimizer.r'");
}

static void test_missing_directories(void **state) {
    (void)state;
    static const char *const commands[] = {"eval", "convert", "verify", "train --resume"};
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        assert_has(run(2, "%s nowhere", commands[i]).err, "there is no such directory");
        text_file("plain", "");
        assert_has(run(2, "%s plain", commands[i]).err, "is not a run directory: it is a file");
        mkdir("empty", 0777);
        assert_has(run(2, "%s empty", commands[i]).err, "it has no config.yaml");
    }
    assert_has(run(2, "inspect nowhere.h5").err, "nowhere.h5");
    assert_has(run(2, "train nowhere.yaml --out r").err, "nowhere.yaml");
}

static void test_help_topics(void **state) {
    (void)state;
    static const char *const topics[] = {
        "config",    "models",    "layers",    "datasets", "ops",    "quantizers", "optimizers",
        "schedules", "train",     "eval",      "convert",  "verify", "predict",    "help",
        "lsq",       "mobilenet", "synthetic", "adamw",    "cosine", "conv",       "inspect"};
    for (size_t i = 0; i < sizeof topics / sizeof *topics; i++)
        assert_true(strlen(run(0, "help %s", topics[i]).out) > 10);
    assert_has(run(0, "help contenders").out, "- kind: qat ");
    assert_has(run(0, "help train").out, "--resume DIR");
    assert_has(run(0, "help train").out, "  --out DIR        directory");
    assert_has(run(0, "help train").out, "--threads N");
    assert_has(run(0, "help linear").out, ")\n\n# schedule 'linear': ");
    assert_has(run(0, "help dropout").out, "# layer 'dropout': ");
    assert_has(run(0, "help dropout").out, "# model.dropout, of ");
    assert_has(run(2, "help nosuchthing").err, "no help on 'nosuchthing'");
}

static void test_help_is_yaml(void **state) {
    (void)state;
    static const char *const topics[] = {"config",     "models",    "layers",  "quantizers",
                                         "optimizers", "schedules", "datasets"};
    for (size_t i = 0; i < sizeof topics / sizeof *topics; i++) {
        const char *text = run(0, "help %s", topics[i]).out;
        Faults faults = {.arena = program_arena};
        Error err = {0};
        Node *root = NULL;
        if (!yaml_read_text(i ? format("list:\n%s", text) : text, strlen(text) + (i ? 6 : 0),
                            topics[i], program_arena, &root, &faults, &err) ||
            faults.count)
            fail_msg("help %s is no YAML: %s", topics[i], err.message);
    }
}

/* ---- A run ---- */

static void check_summary(const char *directory, int steps, bool is_float) {
    Json *json = json_of(file_text(format("%s/summary.json", directory)));
    assert_true(number_of(json, "steps") == steps);
    assert_true(number_of(json, "samples_per_second") > 0);
    assert_true(number_of(json, "train_seconds") > 0);
    assert_true(number_of(json, "peak_rss_bytes") > 1e6);
    assert_true(number_of(json, "test.loss") > 0);
    double accuracy = fraction_of(json, "test.accuracy"), ignored;
    assert_true(is_float || fraction_of(json, "quantized.accuracy") == accuracy);
    if (!is_float) fraction_of(json, "shadow.accuracy");
    static const char *const of_quantized[] = {"quantized.accuracy", "quantized.loss",
                                               "shadow.accuracy", "shadow.loss"};
    for (int i = 0; i < 4; i++)
        assert_int_equal(json_get_number(json, of_quantized[i], &ignored), !is_float);
    /* 64 x 16 + 16 and 16 x 4 + 4 numbers of four bytes */
    assert_true(number_of(json, "model_bytes") == 4 * (64 * 16 + 16 + 16 * 4 + 4));
    double ratio = number_of(json, "model_bytes") / number_of(json, "quantized_bytes");
    assert_true(is_float ? ratio == 1 : ratio > 3 && ratio < 8);
    double bits = number_of(json, "bits_per_weight");
    assert_true(is_float ? bits == 32 : bits > 4 && bits < 9);
    json_free(json);
}

static void check_layers(const Json *json, int first_bits, int last_bits) {
    const Json *first = json_element(json, "layers", 0), *last = json_element(json, "layers", 1);
    assert_non_null(json_get_text(first, "name"));
    assert_true(number_of(first, "bits") == first_bits);
    assert_true(number_of(last, "bits") == last_bits);
    double sqnr;
    assert_int_equal(json_get_number(last, "sqnr_db", &sqnr), last_bits < 32);
    if (last_bits < 32) assert_true(sqnr > 0 && sqnr < 100);
}

static void check_eval(const char *directory, int first_bits, int last_bits) {
    const char *out = run(0, "eval %s --json", directory).out;
    Json *json = json_of(out);
    Json *summary = json_of(file_text(format("%s/summary.json", directory)));
    static const char *const same[] = {"test.accuracy", "shadow.accuracy", "quantized.accuracy"};
    bool is_float = first_bits == 32 && last_bits == 32;
    for (int i = 0; i < (is_float ? 1 : 3); i++)
        assert_true(fraction_of(json, same[i]) == fraction_of(summary, same[i]));
    assert_int_equal(json_count(json, "layers"), is_float ? 0 : 2);
    if (!is_float) check_layers(json, first_bits, last_bits);
    json_free(json);
    json_free(summary);
    const char *text = run(0, "eval %s", directory).out;
    assert_has(text, is_float ? "test accuracy " : "accuracy ");
    assert_int_equal(!strstr(text, "shadow"), is_float);
}

static void check_metrics(const char *directory, int steps, bool is_float) {
    char *text = (char *)file_text(format("%s/metrics.jsonl", directory));
    double last_step = 0;
    int losses = 0, validations = 0;
    for (char *rest = NULL, *line = strtok_r(text, "\n", &rest); line;
         line = strtok_r(NULL, "\n", &rest)) {
        Json *json = json_of(line);
        assert_true(number_of(json, "step") >= last_step);
        last_step = number_of(json, "step");
        double value;
        if (json_get_number(json, "validation.accuracy", &value)) {
            validations++;
            fraction_of(json, "validation.accuracy");
            assert_int_equal(json_get_number(json, "shadow.accuracy", &value), !is_float);
        } else {
            losses++;
            assert_true(number_of(json, "loss") > 0);
            assert_true(number_of(json, "samples_per_second") > 0);
        }
        json_free(json);
    }
    assert_true(last_step == steps);
    assert_int_equal(losses, steps / 4);
    assert_int_equal(validations, 5);
}

/* Of the weights as they are, not quantized. */
static double float_accuracy(const char *directory) {
    Json *json = json_of(file_text(format("%s/summary.json", directory)));
    double accuracy = number_of(json, "test.accuracy");
    json_get_number(json, "shadow.accuracy", &accuracy);
    json_free(json);
    return accuracy;
}

/* An untrained network guesses one of four classes. */
static void check_learned(const char *directory) {
    Json *json = json_of(file_text(format("%s/summary.json", directory)));
    double shadow = float_accuracy(directory), trained = number_of(json, "test.accuracy");
    if (shadow < 0.8 || trained < 0.8) fail_msg("shadow %g, as trained %g", shadow, trained);
    json_free(json);
}

static void check_run(const char *directory, bool is_float, int first_bits, int last_bits) {
    for (size_t i = 0; i < sizeof run_files / sizeof *run_files; i++)
        if (!file_exists(format("%s/%s", directory, run_files[i])))
            fail_msg("%s/%s is missing", directory, run_files[i]);
    assert_int_equal(files_with(directory, ".tmp."), 0);
    /* 320 images less 64 for validation, batches of 32, 5 epochs */
    check_summary(directory, 40, is_float);
    check_metrics(directory, 40, is_float);
    check_eval(directory, first_bits, last_bits);
    check_learned(directory);
    Json *json = json_of(file_text(format("%s/env.json", directory)));
    assert_true(number_of(json, "threads") == 1);
    json_free(json);
}

static void test_float_run(void **state) {
    (void)state;
    text_file("mlp.yaml", MLP);
    Result result = run(0, "train mlp.yaml --out deep/er/float");
    assert_has(result.out, "run directory          deep/er/float");
    assert_has(result.out, "test accuracy ");
    assert_lacks(result.out, "shadow");
    assert_lacks(result.out, "quantized");
    assert_lacks(file_text("deep/er/float/report.html"), "Shadow");
    assert_null(strchr(result.err, '\r')); /* a pipe gets plain lines */
    check_run("deep/er/float", true, 32, 32);
    assert_has(run(2, "convert deep/er/float").err,
               "deep/er/float: nothing is quantized: its settings leave every layer float; train "
               "with quant.bits, or rules, below 32");
    assert_has(run(2, "verify deep/er/float").err, "nibble convert");
}

static void test_quantized_run(void **state) {
    (void)state;
    text_file("mlp4.yaml", MLP "quant: {bits: 4, rules: [{layers: first, bits: 8}]}\n");
    Result result = run(0, "train mlp4.yaml --out quantized quant.rules.0.layers=last");
    assert_has(result.err, "-> hidden1"); /* edges are printed */
    assert_has(result.out, "                          quantized       shadow\ntest accuracy ");
    assert_has(result.out, "The shadow is the same weights with nothing quantized: a diagnostic");
    check_run("quantized", false, 4, 8);
    assert_has(file_text("quantized/config.yaml"), "layers: \"last\"");
    run(0, "convert quantized");
    assert_has(run(0, "verify quantized").out, "100 test images, 0 differing bits");
}

static void test_config_yaml_repeats_the_run(void **state) {
    (void)state;
    text_file("mlp.yaml", MLP);
    run(0, "train mlp.yaml --out first train.epochs=1 quant.bits=4");
    run(0, "train first/config.yaml --out second");
    assert_files_equal("first/checkpoint.h5", "second/checkpoint.h5");
    assert_files_equal("first/config.yaml", "second/config.yaml");
}

/* ---- --out and --force ---- */

static void test_out_is_refused(void **state) {
    (void)state;
    text_file("mlp.yaml", MLP);
    run(0, "train mlp.yaml --out kept train.epochs=1");
    static const char *const names[] = {"checkpoint.h5", "summary.json", "config.yaml",
                                        "metrics.jsonl"};
    for (int i = 0; i < 4; i++) file_copy(format("kept/%s", names[i]), format("copy%d", i));
    assert_has(run(2, "train mlp.yaml --out kept train.epochs=2").err, "--force");
    /* --force replaces nothing before the new run can start */
    assert_has(run(2, "train mlp.yaml --out kept --force seed=-1").err, "seed");
    assert_has(run(2, "train mlp.yaml --out kept --force data.kind=idx data.path=/nowhere").err,
               "");
    for (int i = 0; i < 4; i++)
        assert_files_equal(format("kept/%s", names[i]), format("copy%d", i));

    text_file("kept/note.txt", "mine");
    text_file("kept/quantized.h5", "of the old run");
    run(0, "train mlp.yaml --out kept --force train.epochs=2");
    assert_string_equal(file_text("kept/note.txt"), "mine");
    assert_false(file_exists("kept/quantized.h5"));
    Json *json = json_of(file_text("kept/summary.json"));
    assert_true(number_of(json, "steps") == 16);
    json_free(json);
    text_file("plain", "a file");
    assert_has(run(2, "train mlp.yaml --out plain").err, "plain");
    assert_string_equal(file_text("plain"), "a file");
}

static void test_lost_output_is_a_failure(void **state) {
    (void)state;
    text_file("mlp.yaml", MLP);
    run(0, "train mlp.yaml --out lost train.epochs=1");
    Result result = program_run((Start){.output = "/dev/full"}, "eval lost --json");
    assert_code(result, 1, "eval into a full device");
    assert_has(result.err, "standard output");
}

/* ---- train.init ---- */

static void test_init(void **state) {
    (void)state;
    text_file("mlp.yaml", MLP);
    run(0, "train mlp.yaml --out base");
    /* the accuracy of the base, after one step too small to matter */
    run(0, "train mlp.yaml --out tuned quant.bits=8 train.init=base train.steps=1 "
           "optimizer.lr=0.000001");
    double accuracy = float_accuracy("base");
    assert_true(fabs(accuracy - float_accuracy("tuned")) < 0.02);
    run(0, "train mlp.yaml --out tuned2 train.init=base/checkpoint.h5 train.steps=1");
    /* in the run's own place: its weights are read before --force removes them */
    run(0, "train mlp.yaml --out tuned --force quant.bits=8 train.init=tuned train.steps=1 "
           "optimizer.lr=0.000001");
    assert_true(fabs(accuracy - float_accuracy("tuned")) < 0.02);
    assert_has(run(2, "train mlp.yaml --out t3 train.init=/nowhere").err,
               "start a run whose train.init says where it lies");
    assert_has(run(2, "train mlp.yaml --out t4 train.init=base model.widths=[17]").err,
               "train.init");
}

/* A run with averaged weights reports these, and they are what another one starts from. */
static void test_init_takes_averages(void **state) {
    (void)state;
    text_file("mlp.yaml", MLP);
    run(0, "train mlp.yaml --out averaged optimizer.ema=0.999");
    run(0, "train mlp.yaml --out plain_end");
    const char *still = "train.steps=1 optimizer.lr=0.0000001";
    run(0, "train mlp.yaml --out from_averaged train.init=averaged %s", still);
    run(0, "train mlp.yaml --out from_file train.init=averaged/checkpoint.h5 %s", still);
    double averaged = float_accuracy("averaged");
    assert_true(fabs(averaged - float_accuracy("plain_end")) > 0.1); /* else nothing is shown */
    assert_true(fabs(averaged - float_accuracy("from_averaged")) < 0.02);
    assert_true(fabs(averaged - float_accuracy("from_file")) < 0.02);
    /* what was never updated has no average: before quant.start learned scales stand still */
    run(0,
        "train mlp.yaml --out late optimizer.ema=0.5 quant.bits=4 quant.start=0.6 train.steps=8");
    run(0, "train mlp.yaml --out from_late train.init=late quant.bits=4 quant.start=0.6 %s", still);
    assert_true(fabs(float_accuracy("late") - float_accuracy("from_late")) < 0.02);
}

/* ---- Looking at files ---- */

static void test_inspect(void **state) {
    (void)state;
    text_file("mlp.yaml", MLP);
    run(0, "train mlp.yaml --out seen quant.bits=4 train.epochs=1");
    run(0, "convert seen");
    const char *text = run(0, "inspect seen/checkpoint.h5").out;
    assert_has(text, "verified");
    assert_has(text, "@step = 8");
    assert_has(text, "momentum/");
    assert_has(text, "hidden1.weight");
    text = run(0, "inspect seen/quantized.h5").out;
    assert_has(text, "codes  u8 [512]"); /* 64 x 16 of 4 bits */
    assert_lacks(text, "momentum");
    assert_has(run(2, "inspect mlp.yaml").err, "mlp.yaml");
    assert_has(run(2, "inspect seen").err, "give one of its files: seen/checkpoint.h5");
    /* HDF5's own tool reads it, where it is installed */
    if (system("command -v h5dump >/dev/null") == 0) {
        assert_int_equal(system("h5dump -A seen/checkpoint.h5 >dump 2>&1"), 0);
        assert_has(file_text("dump"), "\"metric_lines\"");
        assert_int_equal(system("h5dump -A seen/quantized.h5 >dump 2>&1"), 0);
        assert_has(file_text("dump"), "\"scale_dtype\"");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_usage),
        cmocka_unit_test(test_spellings),
        cmocka_unit_test(test_help_on_settings),
        cmocka_unit_test(test_missing_directories),
        cmocka_unit_test(test_help_topics),
        cmocka_unit_test(test_help_is_yaml),
        cmocka_unit_test(test_float_run),
        cmocka_unit_test(test_quantized_run),
        cmocka_unit_test(test_config_yaml_repeats_the_run),
        cmocka_unit_test(test_out_is_refused),
        cmocka_unit_test(test_lost_output_is_a_failure),
        cmocka_unit_test(test_init),
        cmocka_unit_test(test_init_takes_averages),
        cmocka_unit_test(test_inspect),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
