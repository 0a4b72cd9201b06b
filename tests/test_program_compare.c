/* nibble compare: what it leaves, that it goes on wherever it was stopped, and what it refuses. */
#include <sys/file.h>

#include "tests/program.h"

/* Two epochs of 8 steps each. */
#define EXPERIMENT                                                                                 \
    "experiment:\n"                                                                                \
    "  model: {kind: cnn, widths: [4, 6], hidden: 8}\n"                                            \
    "  data: {kind: synthetic, height: 8, width: 8, classes: 4, train: 320, test: 100, "           \
    "validation: 64, batch: 32, eval_batch: 50, noise: 0.4}\n"                                     \
    "  optimizer: {kind: sgd, lr: 0.05, momentum: 0.9}\n"                                          \
    "  train: {epochs: 2, log_every: 1}\n"                                                         \
    "  quant: {start: 0.5}\n"
#define METHODS                                                                                    \
    "methods: [{kind: qat, bits: [8, w2a4]}, {kind: ptq, bits: [w2a4], calibration: {rows: "       \
    "100}}]\n"

static void write_config(const char *path, const char *seeds, const char *methods) {
    text_file(path, format("%sseeds: %s\n%s", EXPERIMENT, seeds, methods));
}

/* Two seeds of four rows in `whole`, which was never interrupted. */
static void ensure_whole(void) {
    if (file_exists("whole/results.json")) return;
    write_config("c.yaml", "[1, 2]", METHODS);
    run(0, "compare c.yaml --out whole");
}

enum { HELD_MAX = 512 };
static Json *held[HELD_MAX]; /* until the end, so that an assertion may name them in passing */
static int held_count;

static Json *kept(const char *text) {
    assert_true(held_count < HELD_MAX);
    return held[held_count++] = json_of(text);
}

static const Json *results(const char *directory) {
    return kept(file_text(format("%s/results.json", directory)));
}

/* ---- What it leaves ---- */

static void test_results(void **state) {
    (void)state;
    ensure_whole();
    const Json *json = results("whole");
    bool is_complete = false;
    assert_true(json_get_bool(json, "is_complete", &is_complete) && is_complete);
    assert_int_equal(json_count(json, "rows"), 8);
    assert_int_equal(json_count(json, "groups"), 4);
    static const char *const rows[] = {"fp32", "qat-w8a8", "qat-w2a4", "ptq-w2a4"};
    for (int i = 0; i < 8; i++) {
        const Json *row = json_element(json, "rows", i);
        assert_string_equal(json_get_text(row, "row"), rows[i % 4]);
        assert_string_equal(json_get_text(row, "run"), format("%s-s%d", rows[i % 4], i / 4 + 1));
        assert_true(number_of(row, "seed") == i / 4 + 1);
        Json *summary =
            kept(file_text(format("whole/runs/%s/summary.json", json_get_text(row, "run"))));
        assert_true(fraction_of(row, "accuracy") == number_of(summary, "test.accuracy"));
        assert_true(number_of(row, "bytes") == number_of(summary, "quantized_bytes"));
        assert_true(number_of(row, "bits_per_weight") == number_of(summary, "bits_per_weight"));
        assert_true(number_of(row, "train_seconds") > 0);
        assert_true(number_of(row, "epochs") == 2);
        assert_true(file_exists(format("whole/%s", json_get_text(row, "evaluation"))));
    }
    const Json *narrow = json_element(json, "rows", 2);
    assert_true(number_of(narrow, "weight_bits") == 2 && number_of(narrow, "activation_bits") == 4);
    assert_true(number_of(json, "data.test_rows") == 100);
    assert_string_equal(json_get_text(json, "task"), "classify");
}

/* The table's figures are those of the rows. */
static void test_groups(void **state) {
    (void)state;
    ensure_whole();
    const Json *json = results("whole");
    const Json *group = json_element(json, "groups", 2);
    double a[2], base[2];
    for (int i = 0; i < 2; i++) {
        a[i] = number_of(json_element(json, "rows", 4 * i + 2), "accuracy");
        base[i] = number_of(json_element(json, "rows", 4 * i), "accuracy");
    }
    assert_string_equal(json_get_text(group, "label"), "QAT W2A4");
    assert_float_equal(number_of(group, "accuracy.mean"), (a[0] + a[1]) / 2, 1e-12);
    double difference = (a[0] - base[0] + a[1] - base[1]) / 2;
    assert_float_equal(number_of(group, "difference.mean"), difference, 1e-12);
    double rows = number_of(group, "mcnemar.better") - number_of(group, "mcnemar.worse");
    assert_float_equal(rows / 200, difference, 1e-12);
    assert_string_equal(json_get_text(group, "difference.paired_by"), "seed");
}

static void test_evaluations(void **state) {
    (void)state;
    ensure_whole();
    Json *fp32 = kept(file_text("whole/evaluations/fp32-s1.json"));
    Json *narrow = kept(file_text("whole/evaluations/qat-w2a4-s1.json"));
    int64_t a[100], b[100], labels[100], changed = 0, right = 0, told = -1;
    assert_true(json_get_ints(fp32, "predictions", a, 100));
    assert_true(json_get_ints(narrow, "predictions", b, 100));
    assert_true(json_get_ints(narrow, "labels", labels, 100));
    for (int i = 0; i < 100; i++) {
        changed += a[i] != b[i];
        right += b[i] == labels[i];
    }
    assert_true(json_get_int(narrow, "changed", &told) && told == changed);
    assert_float_equal(number_of(narrow, "accuracy"), (double)right / 100, 1e-12);
    assert_true(number_of(narrow, "kl") > 0);
    assert_false(json_get_int(fp32, "changed", &told));
    assert_int_equal(json_count(narrow, "confusion"), 4);
    assert_int_equal(json_count(narrow, "layers"), 4);
    assert_true(number_of(narrow, "layers.1.weight_bits") == 2);
}

/* The first FP32 run says what each layer's weights cost, as eval --sensitivity does. */
static void test_costs_of_layers(void **state) {
    (void)state;
    ensure_whole();
    Json *first = kept(file_text("whole/evaluations/fp32-s1.json"));
    Json *ranked = kept(run(0, "eval whole/runs/fp32-s1 --sensitivity --json").out);
    static const char *const paths[] = {"bits_8.kl", "bits_4.kl", "bits_3.kl", "bits_2.kl"};
    assert_int_equal(json_count(first, "costs"), 4);
    assert_true(number_of(first, "costs_rows") == 64 && number_of(first, "costs_bits.1") == 4);
    for (int i = 0; i < 4; i++) {
        const Json *cost = json_element(first, "costs", i);
        const Json *layer = json_element(ranked, "sensitivity", 0);
        for (int k = 1; strcmp(json_get_text(layer, "name"), json_get_text(cost, "layer")); k++)
            layer = json_element(ranked, "sensitivity", k);
        for (int j = 0; j < 4; j++)
            assert_true(number_of(cost, format("kl.%d", j)) == number_of(layer, paths[j]));
        assert_true(number_of(cost, "parameters") == number_of(layer, "parameters"));
    }
    assert_int_equal(json_count(kept(file_text("whole/evaluations/fp32-s2.json")), "costs"), 0);
    assert_int_equal(json_count(kept(file_text("whole/evaluations/qat-w2a4-s1.json")), "costs"), 0);
}

/* The page and what it is made of. */
static void test_page(void **state) {
    (void)state;
    ensure_whole();
    Json *narrow = kept(file_text("whole/evaluations/qat-w2a4-s1.json"));
    assert_int_equal(json_count(narrow, "histograms"), 8); /* four layers, weights and inputs */
    int64_t changed = 0, a[100], b[100], index;
    assert_true(json_get_int(narrow, "changed", &changed));
    assert_true(json_get_ints(narrow, "predictions", b, 100));
    Json *fp32 = kept(file_text("whole/evaluations/fp32-s1.json"));
    assert_true(json_get_ints(fp32, "predictions", a, 100));
    assert_int_equal(json_count(fp32, "histograms"), 0);
    assert_int_equal(json_count(narrow, "examples"), changed < 12 ? changed : 12);
    for (int i = 0; i < json_count(narrow, "examples"); i++) {
        const Json *example = json_element(narrow, "examples", i);
        assert_true(json_get_int(example, "index", &index) && a[index] != b[index]);
        assert_int_equal(json_count(example, "pixels"), 8 * 8);
    }
    const char *html = file_text("whole/report.html");
    static const char *const parts[] = {"<h1>cnn on synthetic, quantized</h1>",
                                        "id=\"results\"",
                                        "id=\"charts\"",
                                        "id=\"layers\"",
                                        "id=\"costs\"",
                                        "id=\"histograms\"",
                                        "id=\"training\"",
                                        "id=\"changes\"",
                                        "id=\"confusion\"",
                                        "id=\"settings\"",
                                        "kind: ptq"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) assert_has(html, parts[i]);
    assert_null(strstr(html, "not complete"));
}

/* Until its fake-quant starts, a QAT run is the FP32 run of the same seed, bit for bit. */
static void test_twins(void **state) {
    (void)state;
    ensure_whole();
    const char *a = file_text("whole/runs/fp32-s2/metrics.jsonl");
    const char *b = file_text("whole/runs/qat-w8a8-s2/metrics.jsonl");
    for (int line = 0; line < 17; line++) { /* with the validation of the first epoch */
        const char *end = strstr(a, ",\"lr\""), *same = strstr(b, ",\"lr\"");
        if (line < 8) assert_true(end - a == same - b && !strncmp(a, b, (size_t)(end - a)));
        if (line == 16) assert_true(end - a != same - b || strncmp(a, b, (size_t)(end - a)));
        a = strchr(a, '\n') + 1;
        b = strchr(b, '\n') + 1;
        if (line == 7) assert_true(!strncmp(a, "{\"step\":8,\"epoch\":1,\"validation\"", 31));
    }
}

static void test_table(void **state) {
    (void)state;
    ensure_whole();
    const char *out = run(0, "compare --resume whole").out;
    assert_has(out, "\nFP32 ");
    assert_has(out, "\nQAT W8A8 ");
    assert_has(out, "\nQAT W2A4 ");
    assert_has(out, "accuracy: mean of 2 seeds, 95 % interval (Student's t)");
    assert_has(out, "whole/results.json");
    assert_has(out, "whole/report.html");
    const char *csv = file_text("whole/results.csv");
    assert_has(csv, "row,method,weight_bits,activation_bits,seed,accuracy,loss,bits_per_weight,"
                    "bytes,train_seconds,epochs\nfp32,fp32,32,32,1,0.");
    assert_has(csv, "\nqat-w2a4,qat,2,4,2,0.");
}

/* Data are called by the last name of their path. */
static void test_data_have_a_name(void **state) {
    (void)state;
    idx_folder("clothes");
    text_file("idx.yaml", "experiment:\n"
                          "  model: {kind: mlp, widths: [4]}\n"
                          "  data: {kind: idx, path: clothes/, batch: 16, validation: 16}\n"
                          "  train: {epochs: 1}\n"
                          "methods: [{kind: ptq, bits: [8], calibration: {rows: 8}}]\n");
    run(0, "compare idx.yaml --out named");
    assert_string_equal(json_get_text(results("named"), "data.name"), "clothes");
    assert_has(file_text("named/report.html"), "<h1>mlp on clothes, quantized</h1>");
}

/* ---- Going on ---- */

/* All but the times are those of the comparison that nobody stopped. */
static void assert_same_as_whole(const char *directory) {
    const Json *a = results("whole"), *b = results(directory);
    assert_int_equal(json_count(b, "rows"), json_count(a, "rows"));
    for (int i = 0; i < json_count(a, "rows"); i++) {
        const Json *x = json_element(a, "rows", i), *y = json_element(b, "rows", i);
        const char *name = json_get_text(x, "run");
        assert_string_equal(name, json_get_text(y, "run"));
        assert_true(number_of(x, "accuracy") == number_of(y, "accuracy"));
        assert_true(number_of(x, "loss") == number_of(y, "loss"));
        assert_files_equal(format("whole/runs/%s/checkpoint.h5", name),
                           format("%s/runs/%s/checkpoint.h5", directory, name));
    }
    for (int i = 0; i < json_count(a, "groups"); i++) {
        const Json *x = json_element(a, "groups", i), *y = json_element(b, "groups", i);
        assert_true(number_of(x, "accuracy.low") == number_of(y, "accuracy.low"));
    }
}

/* Whether its runs are all gone: none still holds the directory. */
static void kill_after(const char *command, useconds_t pause) {
    pid_t child = program_start((Start){0}, command);
    usleep(pause);
    kill(child, SIGKILL);
    program_wait(child);
}

static void test_killed_at_any_moment_it_goes_on(void **state) {
    (void)state;
    ensure_whole();
    for (useconds_t pause = 1000; pause < 400000; pause = pause * 8 / 5)
        kill_after("compare c.yaml --out killed", pause);
    run(0, "compare c.yaml --out killed");
    assert_same_as_whole("killed");
    assert_int_equal(files_with("killed", ".tmp."), 0);
}

static void test_a_signal_stops_it_after_a_save(void **state) {
    (void)state;
    ensure_whole();
    pid_t child = program_start((Start){0}, "compare c.yaml --out stopped");
    while (!file_exists("stopped/runs/qat-w8a8-s1/metrics.jsonl")) usleep(1000);
    kill(child, SIGTERM);
    Result result = program_wait(child);
    assert_int_equal(result.code, 143);
    assert_has(result.err, "stopped by SIGTERM; 1 of 8 runs are done. Go on with 'nibble compare "
                           "--resume stopped'");
    run(0, "compare --resume stopped");
    assert_same_as_whole("stopped");
}

/* What is damaged is made again. */
static void test_lost_files_are_made_again(void **state) {
    (void)state;
    ensure_whole();
    write_config("one.yaml", "[1]", METHODS);
    run(0, "compare one.yaml --out lost");
    const char *before = file_text("lost/evaluations/fp32-s1.json");
    text_file("lost/evaluations/fp32-s1.json", "{\"checkpoint_digest\": \"0\"}");
    unlink("lost/runs/qat-w8a8-s1/summary.json");
    unlink("lost/results.json");
    unlink("lost/runs/qat-w2a4-s1/report.html");
    text_file("lost/evaluations/fp32-s1.json.tmp.1", "half");
    run(0, "compare one.yaml --out lost");
    assert_string_equal(file_text("lost/evaluations/fp32-s1.json"), before);
    assert_true(file_exists("lost/runs/qat-w8a8-s1/summary.json"));
    assert_true(file_exists("lost/runs/qat-w2a4-s1/report.html"));
    assert_int_equal(files_with("lost/evaluations", ".tmp."), 0);
}

/* What other runs are compared with is found once, and again where it was lost. */
static void test_outputs_of_fp32_are_kept(void **state) {
    (void)state;
    static const char outputs[] = "kept/evaluations/fp32-s1.h5",
                      config[] = "kept/runs/fp32-s1/config.yaml",
                      evaluation[] = "kept/evaluations/qat-w2a4-s1.json";
    write_config("two.yaml", "[1, 2]", "methods: [{kind: qat, bits: [w2a4]}]\n");
    run(0, "compare two.yaml --out kept");
    const char *before = file_text(evaluation);
    unlink(evaluation);
    rename(config, "away"); /* nothing of that run is opened */
    run(0, "compare two.yaml --out kept");
    assert_string_equal(file_text(evaluation), before);
    rename("away", config);
    for (int i = 0; i < 3; i++) { /* damaged, of another network, absent */
        unlink(evaluation);
        if (i == 0) text_file(outputs, "half");
        if (i == 1) rename("kept/evaluations/fp32-s2.h5", outputs);
        if (i == 2) unlink(outputs);
        run(0, "compare two.yaml --out kept");
        assert_string_equal(file_text(evaluation), before);
    }
}

/* A run of another seed, or of another row, in a run's place is no run of this comparison. */
static void test_another_run_is_not_believed(void **state) {
    (void)state;
    ensure_whole();
    write_config("two.yaml", "[1, 2]", METHODS);
    run(0, "compare two.yaml --out swapped");
    run(0, "compare two.yaml --out swapped"); /* as it is, it is */
    rename("swapped/runs/fp32-s1", "swapped/runs/was");
    rename("swapped/runs/fp32-s2", "swapped/runs/fp32-s1");
    assert_has(run(2, "compare two.yaml --out swapped").err,
               "swapped/runs/fp32-s1/config.yaml is not of the run fp32-s1: it has another seed");
    rename("swapped/runs/fp32-s1", "swapped/runs/fp32-s2");
    rename("swapped/runs/was", "swapped/runs/fp32-s1");
    rename("swapped/runs/qat-w8a8-s1", "swapped/runs/was");
    rename("swapped/runs/qat-w2a4-s1", "swapped/runs/qat-w8a8-s1");
    assert_has(run(2, "compare two.yaml --out swapped").err,
               "move swapped/runs/qat-w8a8-s1 away, and that run is made again");
    rename("swapped/runs/qat-w8a8-s1", "swapped/runs/qat-w2a4-s1");
    run(0, "compare two.yaml --out swapped"); /* what is away is made again */
}

static void test_rows_and_seeds_can_be_added(void **state) {
    (void)state;
    ensure_whole();
    write_config("small.yaml", "[2]", "methods: [{kind: qat, bits: [w2a4]}]\n");
    Result one = run(0, "compare small.yaml --out grown");
    assert_has(one.out, "against FP32: points; one seed: 95 % interval over test images");
    run(0, "compare c.yaml --out grown");
    assert_int_equal(json_count(results("grown"), "rows"), 8);
    assert_true(number_of(results("grown"), "groups.2.accuracy.low") ==
                number_of(results("whole"), "groups.2.accuracy.low"));
}

static void test_full_disk(void **state) {
    (void)state;
    write_config("c1.yaml", "[1]", METHODS);
    Result result = program_run((Start){.file_bytes = 9000}, "compare c1.yaml --out full");
    assert_code(result, 1, "compare");
    assert_has(result.err, "FP32, seed 1: full/runs/fp32-s1/checkpoint.h5");
    assert_has(result.err, "What is done stays: 'nibble compare --resume full' goes on");
    run(0, "compare --resume full");
    assert_int_equal(json_count(results("full"), "rows"), 4);
}

/* ---- What fails ---- */

static void test_a_training_that_diverges_fails_alone(void **state) {
    (void)state;
    write_config("wild.yaml", "[1]",
                 "methods:\n"
                 "  - {kind: qat, name: wild, bits: [4], optimizer: {lr: 1e30}}\n"
                 "  - {kind: qat, bits: [8]}\n");
    Result result = run(1, "compare wild.yaml --out wild");
    assert_has(result.err, "1 of 3 runs failed");
    assert_has(result.out, "wild W4A4, seed 1 failed: step ");
    assert_has(result.out, "wild/logs/wild-w4a4-s1.txt");
    assert_int_equal(json_count(results("wild"), "rows"), 2);
    assert_string_equal(json_get_text(results("wild"), "failed.0.run"), "wild-w4a4-s1");
    bool is_complete = true;
    assert_true(json_get_bool(results("wild"), "is_complete", &is_complete) && !is_complete);
}

static void refused(const char *config, const char *arguments, const char *message) {
    text_file("bad.yaml", config);
    Result result = run(2, "compare bad.yaml --out bad%s", arguments);
    assert_has(result.err, message);
    assert_false(file_exists("bad/results.json"));
}

static void test_mistakes_have_their_place(void **state) {
    (void)state;
    refused("methods: []\n", "",
            "bad.yaml: give `experiment`, its settings, or `config`, its file");
    refused(EXPERIMENT "  quantize: [round]\nmethods: [{kind: qat, bits: [4]}]\n", "",
            "quantize: training runs no PTQ methods");
    refused(EXPERIMENT "methods: [{kind: qat}]\n", "",
            "bad.yaml:7:11: missing setting "
            "'methods.0.bits'");
    assert_has(run(2, "compare bad.yaml --out bad").err,
               "bad.yaml: 1 mistake in the configuration; 'nibble help comparison' lists every "
               "setting");
    refused(EXPERIMENT "methods: [{kind: qat, bits: [9]}]\n", "",
            "bad.yaml:7:30: '9' are no bits: w4a8 (weights, activations), 4 (both) or w4 (weights "
            "alone), of 1, 1.58, 2 to 8, 32 and auto");
    refused(EXPERIMENT "methods: [{kind: qat, bits: []}]\n", "",
            "bad.yaml:7:11: no row: 'bits' is "
            "empty");
    refused(EXPERIMENT "methods: [{kind: qat, bits: [4, w4a4]}]\n", "",
            "there are two rows 'qat-w4a4': give one of them another name");
    refused(EXPERIMENT "methods: [{kind: qat, name: a/b, bits: [4]}]\n", "",
            "bad.yaml:7:29: a name has at most 40 letters, digits, and . _ + -, a letter or digit "
            "first");
    refused(EXPERIMENT "methods: [{kind: qat, bits: [4], quant: {bist: 3}}]\n", "",
            "bad.yaml:7:42: unknown setting 'bist'; did you mean 'bits'?");
    refused(EXPERIMENT "methods: [{kind: ptq, bits: [4], quantize: [rond]}]\n", "",
            "did you mean 'round'");
    refused(EXPERIMENT "methods: [{kind: ptq, bits: [4], calibration: {rows: 0}}]\n", "",
            "'calibration.rows' must be from 1 to 2147483647, not 0");
    refused(EXPERIMENT "methods: [{kind: qta, bits: [4]}]\n", "", "did you mean 'qat'");
    refused(EXPERIMENT "methods: []\n", "",
            "bad.yaml:7:10: nothing is compared with FP32: list a method, such as {kind: qat, "
            "bits: [4]}");
    refused(EXPERIMENT "methods: [{kind: qat, bits: [8, 32]}]\n", "",
            "bad.yaml:7:33: 32 bits quantize nothing: that is FP32, which is always there");
    refused(EXPERIMENT "methods: [{kind: ptq, bits: [1.58]}]\n", "",
            "bad.yaml:7:30: activations have 2 bits or more: give w1.58a8, or w1.58 for weights "
            "alone");
    refused(EXPERIMENT "methods: [{kind: ptq, name: fp32, bits: [4]}]\n", "",
            "bad.yaml:7:29: FP32 is what the network trained with nothing quantized is called: "
            "give another name");
    assert_false(file_exists("bad"));
    refused(EXPERIMENT "seeds: []\nmethods: []\n", "",
            "bad.yaml:7:8: no seed: there is nothing to "
            "train");
    refused(EXPERIMENT "seeds: [3, 1, 3]\nmethods: []\n", "",
            "bad.yaml:7:15: seed 3 is there "
            "twice");
    refused("config: none.yaml\nmethods: []\n", "", "none.yaml");
    refused(EXPERIMENT "methods: []\n", " experiment.train.epohcs=3",
            "command line: experiment.train.epohcs=3: unknown setting 'epohcs'");
}

/* A method that needs the FP32 run of a seed is told where that failed. */
static void test_what_is_made_of_a_failed_run_fails_too(void **state) {
    (void)state;
    write_config("none.yaml", "[1]",
                 "methods: [{kind: fp32, optimizer: {lr: 1e30}}, {kind: ptq, bits: [4], "
                 "calibration: {rows: 9}}]\n");
    Result result = run(1, "compare none.yaml --out none");
    assert_has(result.err, "2 of 2 runs failed");
    assert_has(result.out, "PTQ W4A4, seed 1 failed: there is no FP32 run to make it of");
}

/* The FP32 run of the seed teaches. */
static void test_a_teacher(void **state) {
    (void)state;
    write_config(
        "taught.yaml", "[1, 2]",
        "methods:\n"
        "  - {kind: qat, bits: [2]}\n"
        "  - {kind: qat, name: taught, bits: [2], distill: true, train: {distill: {weight: "
        "0.25}}}\n");
    run(0, "compare taught.yaml --out taught");
    const char *text = file_text("taught/runs/taught-w2a2-s2/config.yaml");
    assert_has(text, "/taught/runs/fp32-s2\"\n");
    assert_has(text, "    weight: 0.25\n");
    assert_lacks(file_text("taught/runs/qat-w2a2-s2/config.yaml"), "teacher");
    assert_false(files_equal("taught/runs/qat-w2a2-s1/checkpoint.h5",
                             "taught/runs/taught-w2a2-s1/checkpoint.h5"));
    assert_int_equal(json_count(results("taught"), "rows"), 6);
}

/* Rows that begin from other rows' runs, and bits that are chosen by what the FP32 run shows. */
static void test_rows_of_rows(void **state) {
    (void)state;
    static const char methods[] =
        "methods:\n"
        "  - {kind: ptq, bits: [4, auto], quant: {budget_bytes: 1000}, calibration: {rows: 100}}\n"
        "  - {kind: qat, name: tuned, bits: [4], init: ptq}\n"
        "  - {kind: qat, bits: [auto], quant: {budget_bytes: 1000}}\n";
    write_config("rows.yaml", "[1, 2]", methods);
    run(0, "compare rows.yaml --out rows");
    assert_has(file_text("rows/runs/tuned-w4a4-s2/config.yaml"), "/rows/runs/ptq-w4a4-s2\"\n");
    assert_has(file_text("rows/runs/qat-auto-s2/config.yaml"), "/rows/runs/fp32-s2\"\n");
    run(0, "train rows/configs/tuned-w4a4.yaml --out alone seed=2 "
           "train.init=rows/runs/ptq-w4a4-s2");
    assert_files_equal("alone/checkpoint.h5", "rows/runs/tuned-w4a4-s2/checkpoint.h5");
    run(0, "train rows/configs/qat-auto.yaml --out chosen seed=2 train.init=rows/runs/fp32-s2");
    assert_files_equal("chosen/checkpoint.h5", "rows/runs/qat-auto-s2/checkpoint.h5");
    const Json *json = results("rows");
    for (int i = 2; i < 5; i += 2) {
        const Json *row = json_element(json, "rows", i);
        assert_int_equal(json_type_at(row, "weight_bits"), JSON_NOTHING);
        assert_true(number_of(row, "bytes") <= 1000 && number_of(row, "bits_per_weight") > 2);
    }
    /* Stopped and gone on with, it is the same. */
    for (useconds_t pause = 20000; pause < 400000; pause *= 2)
        kill_after("compare rows.yaml --out gone", pause);
    run(0, "compare rows.yaml --out gone");
    assert_files_equal("gone/runs/tuned-w4a4-s2/checkpoint.h5", "alone/checkpoint.h5");
    assert_files_equal("gone/runs/qat-auto-s2/checkpoint.h5", "chosen/checkpoint.h5");
    assert_has(run(2, "compare rows.yaml --out rows methods.1.init=fp32").err,
               "tuned W4A4 was 'init: \"/the-run-of-the-seed/ptq-w4a4\"', and now it is 'init: "
               "\"/the-run-of-the-seed/fp32\"'");
}

/* Before anything is trained. */
static void test_mistakes_in_rows_of_rows(void **state) {
    (void)state;
    refused(EXPERIMENT "methods: [{kind: qat, bits: [4], init: ptq}, {kind: ptq, bits: [4]}]\n", "",
            "bad.yaml:7:40: no row 'ptq', nor 'ptq-w4a4', is listed before this one; 'fp32' always "
            "is there");
    refused(EXPERIMENT "methods: [{kind: qat, bits: [auto]}]\n", "",
            "quant.bits: auto needs quant.budget_bytes");
    static const char *const kinds[] = {"qat", "ptq"};
    for (int i = 0; i < 2; i++) {
        write_config("tight.yaml", "[1]",
                     format("methods: [{kind: %s, bits: [auto], quant: {budget_bytes: 100}%s}]\n",
                            kinds[i], i ? ", calibration: {rows: 9}" : ""));
        assert_has(run(2, "compare tight.yaml --out tight%d", i).err,
                   format("AUTO: tight%d/configs/%s-auto.yaml:", i, kinds[i]));
        assert_has(run(2, "compare tight.yaml --out tight%d", i).err,
                   "quant.budget_bytes: no choice of bits meets 100 bytes");
        assert_false(file_exists(format("tight%d/runs/fp32-s1", i)));
    }
}

/* What only shows once a network is built is found before anything is trained. */
static void test_rows_are_looked_at_before_training(void **state) {
    (void)state;
    write_config("late.yaml", "[1]", "methods: [{kind: qat, bits: [w1a8]}]\n");
    Result result = run(2, "compare late.yaml --out late");
    assert_has(result.err, "QAT W1A8: ");
    assert_has(result.err, "late/configs/qat-w1a8.yaml:");
    assert_false(file_exists("late/runs/fp32-s1/config.yaml"));
    write_config("late.yaml", "[1]",
                 "methods: [{kind: ptq, bits: [8], calibration: {rows: 300}}]\n");
    assert_has(run(2, "compare late.yaml --out later").err,
               "PTQ W8A8: later/configs/ptq-w8a8.yaml:26:9: calibration.rows is 300, but there are "
               "256 training images");
    assert_false(file_exists("later/runs/fp32-s1/config.yaml"));
}

static void test_another_comparison_is_refused(void **state) {
    (void)state;
    ensure_whole();
    Result result = run(2, "compare c.yaml --out whole experiment.optimizer.lr=0.1");
    assert_has(result.err,
               "whole holds a comparison in which FP32 was 'lr: 0.05', and now it is "
               "'lr: 0.1'. Go on with the old one ('nibble compare --resume whole'), or "
               "give another --out");
    /* Of a setting that is a list, its first element. */
    write_config("listed.yaml", "[1, 2]",
                 "methods: [{kind: qat, bits: [8, w2a4]}, {kind: ptq, bits: [w2a4], calibration: "
                 "{rows: 100}, quantize: [batch_norm]}]\n");
    assert_has(run(2, "compare listed.yaml --out whole").err,
               "PTQ W2A4 was 'quantize: []', and now it is 'quantize: - kind: batch_norm'");
    result = run(2, "compare c.yaml --out whole seeds=[1]");
    assert_has(result.err, "with seed 2, which is not there any more");
    result = run(2, "compare c.yaml --out whole methods.0.bits=[8]");
    assert_has(result.err, "with the row QAT W2A4, which is not there any more");
    assert_has(run(2, "compare --resume whole/runs/fp32-s1").err,
               "whole/runs/fp32-s1 is not the directory of a comparison: its config.yaml lists no "
               "methods");
    assert_has(run(2, "compare --resume nothing").err, "nothing/config.yaml");
}

/* What is for runs says that this holds some. */
static void test_its_directory_is_no_run(void **state) {
    (void)state;
    ensure_whole();
    static const char message[] =
        "whole is the directory of a comparison: name one of its runs, whole/runs/ROW-sSEED, or go "
        "on with all of it ('nibble compare --resume whole')";
    text_file("w4.yaml", "quant: {bits: 4}\n");
    static const char *const commands[] = {"eval whole",
                                           "train --resume whole",
                                           "convert whole",
                                           "predict whole image.png",
                                           "quantize whole w4.yaml --out other",
                                           ("train whole/configs/fp32.yaml --out other "
                                            "train.init=whole")};
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        assert_has(run(2, "%s", commands[i]).err, message);
    run(0, "eval whole/runs/fp32-s1");
}

static void test_one_at_a_time(void **state) {
    (void)state;
    ensure_whole();
    mkdir("busy", 0777);
    int fd = open("busy", O_RDONLY | O_DIRECTORY);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_has(run(2, "compare c.yaml --out busy").err,
               "another process is comparing in busy; wait for it or stop it");
    close(fd);
}

static void test_arguments(void **state) {
    (void)state;
    ensure_whole();
    assert_has(run(2, "compare c.yaml").err, "give --out DIR");
    assert_has(run(2, "compare --out x").err, "usage: nibble compare CONFIG --out DIR");
    assert_has(run(2, "compare c.yaml --resume x").err, "usage: nibble compare");
    assert_has(run(2, "compare --out x --resume x").err, "give one of them");
}

static int leave(void **state) {
    while (held_count) json_free(held[--held_count]);
    return program_folder_leave(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_results),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_evaluations),
        cmocka_unit_test(test_costs_of_layers),
        cmocka_unit_test(test_page),
        cmocka_unit_test(test_data_have_a_name),
        cmocka_unit_test(test_twins),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_killed_at_any_moment_it_goes_on),
        cmocka_unit_test(test_a_signal_stops_it_after_a_save),
        cmocka_unit_test(test_lost_files_are_made_again),
        cmocka_unit_test(test_outputs_of_fp32_are_kept),
        cmocka_unit_test(test_rows_and_seeds_can_be_added),
        cmocka_unit_test(test_another_run_is_not_believed),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_a_training_that_diverges_fails_alone),
        cmocka_unit_test(test_what_is_made_of_a_failed_run_fails_too),
        cmocka_unit_test(test_a_teacher),
        cmocka_unit_test(test_mistakes_have_their_place),
        cmocka_unit_test(test_rows_of_rows),
        cmocka_unit_test(test_mistakes_in_rows_of_rows),
        cmocka_unit_test(test_rows_are_looked_at_before_training),
        cmocka_unit_test(test_another_comparison_is_refused),
        cmocka_unit_test(test_its_directory_is_no_run),
        cmocka_unit_test(test_one_at_a_time),
        cmocka_unit_test(test_arguments),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, leave);
}
