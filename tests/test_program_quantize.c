/* nibble quantize: from a trained run to a run of its quantized network. */
#include "tests/program.h"

#include <math.h>
#include <time.h>

#include "data/h5.h"
#include "qat/ptq.h"

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

/* Converted, which evaluates it, and verified: to the bit. */
static void check_ships(const char *directory) {
    run(0, "convert %s", directory);
    assert_has(run(0, "verify %s", directory).out, " 0 differing bits");
}

static void test_run_directory(void **state) {
    (void)state;
    Result result = run(0, "quantize fp32 w4a4.yaml --out q");
    assert_has(result.err, "quantize.0: round");
    assert_has(result.out, "test accuracy");
    assert_has(result.out, "validation accuracy");
    assert_has(file_text("q/config.yaml"), "quantize:\n  - kind: round\n");
    assert_has(file_text("q/metrics.jsonl"), "\"method\": \"round\"");
    Json *json = json_of(file_text("q/summary.json"));
    double quantized = fraction_of(json, "quantized.accuracy");
    assert_true(number_of(json, "steps") == 40);
    json_free(json);
    Json *source = json_of(file_text("fp32/summary.json"));
    json = json_of(run(0, "eval q --json").out);
    assert_true(fraction_of(json, "quantized.accuracy") == quantized);
    assert_lacks(run(0, "inspect q/checkpoint.h5").out, "origin"); /* round leaves the masters */
    assert_true(fraction_of(json, "shadow.accuracy") == fraction_of(source, "test.accuracy"));
    assert_has(result.out, format("%.2f%%", 100 * fraction_of(source, "test.accuracy")));
    assert_has(result.out, format("%.2f%%", 100 * quantized));
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
    assert_has(message, "quantize: training runs no PTQ methods");
    assert_has(message, "train.init=DIR");
    assert_has(run(2, "train cnn.yaml --out never quantize=[round]").err,
               "quantize: training runs no PTQ methods");
    assert_false(file_exists("never"));
}

/* How well layers were fitted, by rows that no method has seen, too: of few rows GPTQ makes more of
 * those than of others. */
static void test_fit(void **state) {
    (void)state;
    run(0, "quantize fp32 w4a4.yaml --out fit quantize=[gptq] quant.bits=3 calibration.rows=4");
    Json *json = json_of(file_text("fit/summary.json"));
    double fitted = 0, others = 0;
    for (int i = 0; i < 4; i++) {
        fitted += number_of(json, format("layers.%d.fit.calibration_db", i));
        others += number_of(json, format("layers.%d.fit.held_out_db", i));
    }
    assert_true(fitted > others + 4 && others > 10);
    json_free(json);
    const char *html = file_text("fit/report.html");
    assert_has(html, "Fitted, dB</th>");
    assert_has(html, "over calibration data and over validation data");
    run(0, "train cnn.yaml --out undivided data.validation=0 train.steps=5");
    run(0, "quantize undivided w4a4.yaml --out fit --force");
    json = json_of(file_text("fit/summary.json"));
    assert_int_equal(json_type_at(json, "layers.0.fit.held_out_db"), JSON_NOTHING);
    json_free(json);
    assert_lacks(file_text("fp32/report.html"), "Fitted");
}

/* What is there when the disk is full is taken away: the next try needs no --force. */
static void test_full_disk(void **state) {
    (void)state;
    for (int64_t bytes = 100; bytes < 12000; bytes = bytes * 3) {
        Result result =
            program_run((Start){.file_bytes = (long)bytes}, "quantize fp32 w4a4.yaml --out full");
        assert_code(result, 1, "quantize");
        assert_int_equal(files_with("full", "."), 2); /* itself and what it is in */
    }
    run(0, "quantize fp32 w4a4.yaml --out full");
}

/* A signal ends it with a word. */
static void test_stopped(void **state) {
    (void)state;
    pid_t child =
        program_start((Start){0}, "quantize fp32 w4a4.yaml --out stopped "
                                  "quantize=[{\"kind\":\"adaround\",\"iterations\":1000000}]");
    while (!strstr(file_text("stderr"), "adaround")) usleep(1000);
    kill(child, SIGTERM);
    Result result = program_wait(child);
    assert_int_equal(result.code, 143);
    assert_has(result.err,
               "nibble: stopped by SIGTERM; stopped holds no whole run: quantize again, "
               "with --force\n");
    assert_false(file_exists("stopped/checkpoint.h5"));
}

/* Of a network that was quantized already, the shadow is no baseline. */
static void test_a_quantized_network_is_told(void **state) {
    (void)state;
    static const char message[] = "is of a network that was quantized already";
    run(0, "quantize fp32 w4a4.yaml --out once");
    assert_lacks(run(0, "quantize fp32 w4a4.yaml --out twice --force").err, message);
    assert_has(run(0, "quantize once w4a4.yaml --out twice --force").err,
               format("warning: once/checkpoint.h5 %s", message));
    run(0, "train cnn.yaml --out qat quant.bits=4");
    assert_has(run(0, "quantize qat w4a4.yaml --out twice --force").err, message);
}

static void test_settings(void **state) {
    (void)state;
    assert_has(run(2, "quantize fp32 cnn.yaml --out s").err,
               "cnn.yaml:1:1: 'model' comes from fp32/config.yaml: here stand quant, calibration "
               "and quantize alone");
    assert_has(run(2, "quantize fp32 w4a4.yaml --out s seed=2").err,
               "'seed=2' comes from the run and stays; these can be given: quant, calibration, "
               "quantize, data.prefetch, ");
    assert_has(run(2, "quantize fp32 w4a4.yaml --out s train.steps=3").err,
               "'train.steps=3' comes from the run and stays");
    assert_has(run(2, "quantize fp32 w4a4.yaml --out s calibration.rows=1000").err,
               "calibration.rows is 1000, but there are 256 training images");
    assert_has(run(2, "quantize fp32 w4a4.yaml --out s quant.bits=32 ~quant.weights "
                      "~quant.activations")
                   .err,
               "nothing is quantized: set quant.bits, or quant.weights.bits, below 32");
    assert_has(
        run(2, "quantize fp32 w4a4.yaml --out s quant.rules=[{\"layers\":conv7,\"bits\":8}]").err,
        "quant.rules.0: no layer with weights matches 'conv7'; did you mean 'conv1'?");
    text_file("empty.yaml", "");
    assert_has(run(2, "quantize fp32 empty.yaml --out s").err, "empty.yaml:1:1: nothing is quant");
    assert_has(run(2, "quantize fp32 absent.yaml --out s").err, "cannot open 'absent.yaml'");
    assert_false(file_exists("s"));
    run(0, "quantize fp32 w4a4.yaml --out s calibration.rows=7 quant.bits=8");
    assert_has(file_text("s/config.yaml"), "calibration:\n  rows: 7\n");
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

/* ---- Methods ---- */

/* Convolutions, grouped and depthwise too, with and without norms, a residual block, ReLU6. */
#define MIXED                                                                                      \
    "model: {kind: sequential, layers: [conv: {filters: 6}, batch_norm, relu6, "                   \
    "residual: {main: [conv: {filters: 6, bias: false}, batch_norm]}, relu, "                      \
    "conv: {depthwise: true}, relu, conv: {filters: 8, kernel: 1, groups: 2}, relu, max_pool, "    \
    "flatten, linear: {units: 12}, relu, linear: {units: 4}]}\n" PROGRAM_DATA PROGRAM_OPTIMIZER    \
    "train: {epochs: 2}\n"

static const char *const ways[] = {
    "quant.bits=4 quant.weights.quantizer=minmax quant.activations.quantizer=mse",
    "quant.bits=32 quant.weights.bits=3 quant.weights.quantizer=mse "
    "quant.weights.granularity=group",
    "quant.bits=8 quant.weights.affine=true quant.weights.quantizer=minmax "
    "quant.weights.granularity=tensor quant.activations.quantizer=percentile",
    "quant.bits=4 quant.weights.quantizer=lsq quant.activations.quantizer=lsq_plus",
};

/* The shadow is the network that was quantized, whatever a method did to the masters; then and
 * later. Where that changed the float network, it is the same but for rounding. */
static void check_shadow(const char *directory, const char *source, bool is_changed) {
    Json *of = json_of(file_text(format("%s/summary.json", source)));
    Json *then = json_of(file_text(format("%s/summary.json", directory)));
    Json *now = json_of(run(0, "eval %s --json", directory).out);
    double loss = number_of(of, "test.loss");
    double away = fabs(number_of(then, "shadow.loss") - loss) / loss;
    assert_true(is_changed ? away < 1e-4 : away == 0);
    assert_true(number_of(now, "shadow.loss") == number_of(then, "shadow.loss"));
    assert_true(number_of(now, "quantized.loss") == number_of(then, "quantized.loss"));
    json_free(of);
    json_free(then);
    json_free(now);
}

/* A method as an item of `quantize`, shortened where its defaults take long. */
static const char *item_of(const char *method) {
    return strcmp(method, "adaround") ? method : "{\"kind\":\"adaround\",\"iterations\":20}";
}

/* Every row, alone and behind another, under every kind of scales: the network that is left is
 * verified to the bit, and no result depends on the threads. */
static void test_every_method(void **state) {
    (void)state;
    text_file("mixed.yaml", MIXED);
    run(0, "train mixed.yaml --out mixed");
    for (int i = 0; i < ptq_kinds.count; i++)
        for (size_t j = 0; j < sizeof ways / sizeof *ways; j++) {
            const PtqMethod *method = (const PtqMethod *)ptq_kinds.kinds[i];
            const char *name = method->kind.name;
            bool is_first = method->flags & PTQ_KEEPS_FUNCTION;
            const char *directory = format("%s%d", name, (int)j), *item = item_of(name);
            run(0, "quantize mixed w4a4.yaml --out %s quantize=[%s%s] %s", directory, item,
                is_first ? ",bias_correct" : "", ways[j]);
            check_ships(directory);
            check_shadow(directory, "mixed", is_first);
            assert_has(file_text(format("%s/metrics.jsonl", directory)),
                       format("\"method\": \"%s\"", name));
            if (j) continue;
            run(0, "quantize mixed w4a4.yaml --out two%s quantize=[%s%s] %s --threads 2", name,
                item, is_first ? ",bias_correct" : "", ways[j]);
            assert_files_equal(format("two%s/checkpoint.h5", name),
                               format("%s/checkpoint.h5", directory));
        }
}

/* Every observed range, for every granularity, symmetric and affine, 2 to 8 bits. */
static void test_every_range(void **state) {
    (void)state;
    static const char *const granularities[] = {"tensor", "channel", "group"};
    int bits = 0;
    for (int i = 0; i < quantizer_kinds.count; i++) {
        const Quantizer *row = (const Quantizer *)quantizer_kinds.kinds[i];
        const char *name = row->kind.name;
        bool is_for_both =
            row->flags & QUANTIZER_FOR_WEIGHTS && row->flags & QUANTIZER_FOR_ACTIVATIONS;
        if (!is_for_both || !row->observe || row->learns) continue;
        for (int j = 0; j < 6; j++, bits++) {
            const char *affine = j % 2 ? "true" : "false";
            const char *directory = format("range%d", bits);
            run(0,
                "quantize fp32 w4a4.yaml --out %s quant.bits=%d quant.weights.quantizer=%s "
                "quant.weights.granularity=%s quant.weights.affine=%s "
                "quant.activations.quantizer=%s quant.activations.affine=%s",
                directory, 2 + bits % 7, name, granularities[j / 2], affine, name, affine);
            check_ships(directory);
        }
    }
    assert_true(bits >= 24);
}

/* What is shipped in configs/ptq, on fewer rows. */
static void test_configurations(void **state) {
    (void)state;
    const char *folder = format("%s/configs/ptq", program_source_root);
    DIR *listing = opendir(folder);
    assert_non_null(listing);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(listing));) {
        if (!strstr(entry->d_name, ".yaml")) continue;
        const char *directory = format("shipped%d", count++);
        run(0, "quantize fp32 %s/%s --out %s calibration.rows=64", folder, entry->d_name,
            directory);
        check_ships(directory);
    }
    closedir(listing);
    assert_true(count > 0);
}

/* What a method says stands in the metrics, a line for each layer. */
static void test_what_methods_say(void **state) {
    (void)state;
    text_file("mixed.yaml", MIXED);
    run(0, "train mixed.yaml --out told_of");
    const char *said =
        run(0, "quantize told_of w4a4.yaml --out told quantize=[batch_norm,bias_correct] "
               "quant.weights.granularity=tensor")
            .err;
    assert_has(said, "warning: batch_norm1: its variance stays, since the channels of conv1 share "
                     "a scale");
    const char *metrics = file_text("told/metrics.jsonl");
    assert_has(metrics, "\"method\": \"batch_norm\", \"layer\": \"batch_norm1\", "
                        "\"levels_changed\": 0.0, \"channels_kept\": 0.0, \"skipped\": \"its");
    assert_has(metrics, "\"method\": \"bias_correct\", \"layer\": \"conv1\", "
                        "\"largest_correction\": ");
    assert_has(file_text("told/config.yaml"), "  - kind: batch_norm\n  - kind: bias_correct\n");
    assert_has(run(2, "eval told --sensitivity").err,
               "the weights were quantized without training (nibble quantize): ask what layers "
               "cost of the run that they are of");
    assert_lacks(file_text("told/report.html"), "could not be read");
    assert_has(run(2, "quantize told_of w4a4.yaml --out never quantize=[bias_corect]").err,
               "did you mean 'bias_correct'?");
}

static void test_help(void **state) {
    (void)state;
    const char *all = run(0, "help methods").out;
    for (int i = 0; i < ptq_kinds.count; i++) {
        const Kind *kind = ptq_kinds.kinds[i];
        assert_has(all, kind->name);
        assert_has(run(0, "help %s", kind->name).out, kind->help);
    }
    assert_has(run(0, "help calibration").out, "rows: 512");
}

/* ---- Training from it ---- */

static void read_param(const char *directory, const char *name, int count, float *values) {
    Error err = {0};
    H5Reader *r = h5_read_open(format("%s/checkpoint.h5", directory), program_arena, &err);
    name = format("params/%s", name);
    if (!r || !h5_read_tensor(r, name, H5_F32, SHAPE(count), values, &err))
        fail_msg("%s", err.message);
}

static void read_scales(const char *directory, float scales[12]) {
    read_param(directory, "hidden.weight.scale", 12, scales);
}

/* QAT goes on from the ranges that were found, where it quantizes as `quantize` did; else they are
 * found anew. */
static void test_training_from_it(void **state) {
    (void)state;
    float found[12], taken[12];
    text_file("lsq.yaml", "quant: {bits: 4, weights: {quantizer: mse}, freeze_observers: 1}\n"
                          "calibration: {rows: 64}\n");
    run(0, "quantize fp32 lsq.yaml --out ranges");
    read_scales("ranges", found);
    const char *still = "optimizer.lr=1e-12 quant.freeze_observers=0 train.epochs=1";
    run(0,
        "train cnn.yaml --out goes_on train.init=ranges quant.bits=4 "
        "quant.weights.quantizer=mse %s",
        still);
    read_scales("goes_on", taken);
    assert_memory_equal(found, taken, sizeof found);
    run(0,
        "train cnn.yaml --out other train.init=ranges quant.bits=5 "
        "quant.weights.quantizer=mse %s",
        still);
    read_scales("other", taken);
    assert_memory_not_equal(found, taken, sizeof found);
}

/* Of a run that quantizes alike, the weights are taken and its ranges are not: these are those of
 * 64 rows, in two batches. */
static void test_ranges_are_found_anew(void **state) {
    (void)state;
    float batches = 0;
    text_file("alike.yaml", "quant: {bits: 4, weights: {quantizer: mse}}\n"
                            "calibration: {rows: 64}\n");
    run(0, "train cnn.yaml --out trained quant.bits=4 quant.weights.quantizer=mse");
    read_param("trained", "hidden.weight.count", 1, &batches);
    assert_true(batches == 40);
    run(0, "quantize trained alike.yaml --out anew");
    read_param("anew", "hidden.weight.count", 1, &batches);
    assert_true(batches == 2);
}

/* A run that keeps averages is quantized as it is reported: averaged. */
static void test_averages(void **state) {
    (void)state;
    run(0, "train cnn.yaml --out averaged optimizer.ema=0.9");
    run(0, "quantize averaged w4a4.yaml --out of_averaged");
    Json *source = json_of(file_text("averaged/summary.json"));
    Json *json = json_of(run(0, "eval of_averaged --json").out);
    assert_true(number_of(json, "shadow.loss") == number_of(source, "test.loss"));
    json_free(json);
    json_free(source);
    check_ships("of_averaged");
    run(0, "train cnn.yaml --out onwards optimizer.ema=0.9 train.init=of_averaged train.epochs=1");
}

/* The labels of 96 images, of three classes. */
static void sort_by_class(const char *path) {
    size_t bytes;
    unsigned char *content = file_read(path, &bytes);
    for (int i = 0; i < 96; i++) content[bytes - 96 + (size_t)i] = (unsigned char)(i / 32);
    file_write(path, content, bytes);
}

/* Predicted from, moved, sorted, of another shape: images of files. */
static void test_files(void **state) {
    (void)state;
    idx_folder("set");
    text_file("idx.yaml", "model: {kind: cnn, widths: [4], hidden: 8}\n"
                          "data: {kind: idx, path: set, batch: 8, validation: 16, "
                          "class_names: [dark, half, bright]}\n"
                          "train: {epochs: 2}\n" PROGRAM_OPTIMIZER);
    run(0, "train idx.yaml --out idx");
    run(0, "quantize idx w4a4.yaml --out idx_q calibration.rows=80");
    run(0, "convert idx_q");
    assert_has(run(0, "predict idx_q set/t10k-images-idx3-ubyte").out, "bright");
    rename("set", "moved");
    assert_has(run(2, "quantize idx w4a4.yaml --out lost calibration.rows=80").err, "set");
    run(0, "quantize idx w4a4.yaml --out found calibration.rows=80 data.path=moved");
    assert_has(run(2, "quantize idx w4a4.yaml --out more data.path=moved").err,
               "calibration.rows is 100, but there are 80 training images");
    sort_by_class("moved/train-labels-idx1-ubyte");
    assert_has(run(0, "quantize idx w4a4.yaml --out sorted calibration.rows=20 data.path=moved "
                      "data.changed=allow")
                   .err,
               "warning: the first 20 training images, which calibrate, are of 1 of 3 classes: the "
               "data set seems sorted; shuffle it, or raise calibration.rows");
    assert_lacks(run(0, "quantize idx w4a4.yaml --out mostly calibration.rows=50 data.path=moved "
                        "data.changed=allow")
                     .err,
                 "seems sorted");
    mkdir("smaller", 0777);
    idx_part("smaller", "train", 96, 4);
    idx_part("smaller", "t10k", 24, 4);
    assert_has(run(2, "quantize idx w4a4.yaml --out more calibration.rows=80 data.path=smaller "
                      "data.changed=allow")
                   .err,
               "the training images");
    assert_false(file_exists("more"));
}

/* ---- Interruptions ---- */

static void wait_milliseconds(long milliseconds) {
    nanosleep(&(struct timespec){.tv_nsec = 1000000 * milliseconds}, NULL);
}

/* Killed while methods work, it leaves an empty directory, which is no obstacle. */
static void test_killed(void **state) {
    (void)state;
    char *list = arena_zalloc(program_arena, 1 << 14);
    for (int i = 0; i < 400; i++) strcat(list, i ? ", bias_correct" : "bias_correct");
    text_file("long.yaml", format(W4A4 "quantize: [%s]\n", list));
    pid_t child = program_start((Start){0}, "quantize fp32 long.yaml --out killed");
    for (int i = 0; !file_exists("killed") && i < 20000; i++) wait_milliseconds(1);
    wait_milliseconds(20);
    kill(child, SIGKILL);
    assert_int_equal(program_wait(child).signal, SIGKILL);
    assert_has(run(2, "eval killed").err, "killed is not a run directory: it has no config.yaml");
    run(0, "quantize fp32 w4a4.yaml --out killed");
    run(0, "quantize fp32 w4a4.yaml --out whole");
    assert_files_equal("killed/checkpoint.h5", "whole/checkpoint.h5");
}

/* Killed between two of its files, it is no run, or has no summary, and says what to do. */
static void test_killed_while_writing(void **state) {
    (void)state;
    run(0, "quantize fp32 w4a4.yaml --out w");
    unlink("w/summary.json");
    unlink("w/report.html");
    const char *again = "quantize fp32 w4a4.yaml --out w";
    assert_has(run(2, "%s", again).err, "(config.yaml); replace it with --force");
    unlink("w/config.yaml");
    assert_has(run(2, "eval w").err, "w is not a run directory: it has no config.yaml");
    assert_has(run(2, "%s", again).err, "or a part of one (env.json); replace it with --force");
    run(0, "%s --force", again);
    check_ships("w");
}

/* ---- What it is made of ---- */

static void copy_run(const char *from, const char *to) {
    mkdir(to, 0777);
    static const char *const files[] = {"config.yaml", "checkpoint.h5", "best.h5"};
    for (int i = 0; i < 3; i++)
        file_copy(format("%s/%s", from, files[i]), format("%s/%s", to, files[i]));
}

static void test_untrained(void **state) {
    (void)state;
    pid_t child = program_start((Start){0}, "train cnn.yaml --out young train.epochs=100000 "
                                            "train.checkpoint_every=1000000");
    for (int i = 0; !file_exists("young/checkpoint.h5") && i < 20000; i++) wait_milliseconds(1);
    kill(child, SIGKILL);
    program_wait(child);
    assert_has(run(2, "quantize young w4a4.yaml --out never").err,
               "young holds no trained network yet; train it first");
    assert_false(file_exists("never"));
}

/* A run's weights that are not those of its settings. */
static void test_other_layers(void **state) {
    (void)state;
    copy_run("fp32", "edited");
    char *config = arena_strdup(program_arena, file_text("edited/config.yaml"));
    char *units = strstr(config, "hidden: 12");
    assert_non_null(units);
    memcpy(units, "hidden: 13", 10);
    text_file("edited/config.yaml", config);
    const char *message = run(2, "quantize edited w4a4.yaml --out never").err;
    assert_has(message, "edited/best.h5: \"params/");
    assert_has(message, ": the run's config.yaml does not fit its weights; undo what was changed");
    assert_false(file_exists("never"));
}

/* Directories of before there were these settings, which checkpoints do not know. */
static void test_older_runs(void **state) {
    (void)state;
    copy_run("fp32", "old");
    char *config = arena_strdup(program_arena, file_text("old/config.yaml"));
    char *section = strstr(config, "calibration:");
    assert_non_null(section);
    *section = 0;
    text_file("old/config.yaml", config);
    run(0, "eval old");
    run(0, "quantize old w4a4.yaml --out of_old");
    assert_has(run(0, "train --resume old train.steps=0").err, "resuming after step 40");
    assert_lacks(run(0, "inspect fp32/checkpoint.h5").out, "calibration");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_run_directory),
        cmocka_unit_test(test_weights_only),
        cmocka_unit_test(test_training_refuses),
        cmocka_unit_test(test_settings),
        cmocka_unit_test(test_stopped),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_fit),
        cmocka_unit_test(test_a_quantized_network_is_told),
        cmocka_unit_test(test_directories),
        cmocka_unit_test(test_every_method),
        cmocka_unit_test(test_every_range),
        cmocka_unit_test(test_configurations),
        cmocka_unit_test(test_what_methods_say),
        cmocka_unit_test(test_help),
        cmocka_unit_test(test_training_from_it),
        cmocka_unit_test(test_ranges_are_found_anew),
        cmocka_unit_test(test_averages),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_killed),
        cmocka_unit_test(test_killed_while_writing),
        cmocka_unit_test(test_untrained),
        cmocka_unit_test(test_other_layers),
        cmocka_unit_test(test_older_runs),
    };
    return cmocka_run_group_tests(tests, enter, program_folder_leave);
}
