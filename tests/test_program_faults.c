/* What goes wrong while a run is under way: damaged checkpoints, full disks, numbers that overflow.
 */
#include "tests/program.h"

#include <math.h>

#include "data/h5.h"

#define MLP                                                                                        \
    "model: {kind: mlp, widths: [16]}\n" PROGRAM_DATA PROGRAM_OPTIMIZER "quant: {bits: 4}\n"       \
    "train: {epochs: 4, log_every: 4, checkpoint_every: 2}\n"

/* ---- Checkpoints of something else ---- */

/* A run that stands at step 6, and the checkpoint of the same run at its end. */
static void paused_run(const char *directory) {
    text_file("mlp.yaml", MLP);
    run(0, "train mlp.yaml --out %s train.steps=6", directory);
    if (!file_exists("whole")) run(0, "train mlp.yaml --out whole");
    file_copy(format("%s/checkpoint.h5", directory), "good.h5");
    file_copy(format("%s/checkpoint.prev.h5", directory), "good.prev.h5");
}

static void sealed_file(const char *path, int version) {
    Error err = {0};
    H5Writer *w = h5_write_begin(path, 0, program_arena, &err);
    h5_write_int(w, "", "format_version", version);
    h5_write_text(w, "config", "seed: 1");
    assert_true(h5_write_commit(w, NULL, &err));
}

static void test_other_runs_checkpoints(void **state) {
    (void)state;
    paused_run("mine");
    run(0, "train mlp.yaml --out wider model.widths=[17] train.steps=6");
    file_copy("wider/checkpoint.h5", "mine/checkpoint.h5");
    Result result = run(2, "train --resume mine");
    assert_has(result.err,
               "was saved by another configuration: 'widths: [17]' there, 'widths: [16]'");
    sealed_file("mine/checkpoint.h5", 4);
    assert_has(run(2, "train --resume mine").err, "format version 4");
    sealed_file("mine/checkpoint.h5", 3);
    assert_has(run(2, "train --resume mine").err, "mine/checkpoint.h5: has no \"data\"");
    file_copy("good.h5", "mine/checkpoint.h5");
    run(0, "train --resume mine");
    /* a configuration that was edited behind the run's back */
    const char *text = file_text("mine/config.yaml");
    char *lr = strstr(text, "lr: 0.1");
    assert_non_null(lr);
    lr[6] = '2';
    text_file("mine/config.yaml", text);
    assert_has(run(2, "train --resume mine").err, "'lr: 0.1' there, 'lr: 0.2' now");
    assert_has(run(2, "eval mine").err, "another configuration");
}

/* The log of a run that goes on after something happened to it. */
static void check_log(const char *content, int kept, int missing, int unread) {
    paused_run("cut");
    run(0, "train --resume cut train.steps=14");
    if (content) text_file("cut/metrics.jsonl", content);
    if (!content) remove("cut/metrics.jsonl");
    Result result = run(0, "train --resume cut train.steps=0");
    if (missing)
        assert_has(result.err,
                   format("cut/metrics.jsonl: %d of the %d lines before the checkpoint are missing",
                          missing, kept + missing));
    else
        assert_lacks(result.err, "metrics.jsonl");
    assert_files_equal("cut/checkpoint.h5", "whole/checkpoint.h5");
    const char *log = file_text("cut/metrics.jsonl"), *whole = file_text("whole/metrics.jsonl");
    int lines = 0, expected = 0, marked = 0;
    for (const char *c = log; *c; c++) lines += *c == '\n';
    for (const char *c = whole; *c; c++) expected += *c == '\n';
    for (const char *c = log; (c = strstr(c, "{\"missing\":true}\n")); c++) marked++;
    assert_int_equal(lines, expected);
    assert_int_equal(marked, missing);
    const char *note = format("Lines of metrics.jsonl that could not be read: %d", unread);
    const char *page = file_text("cut/report.html");
    if (unread)
        assert_has(page, note);
    else
        assert_lacks(page, "could not be read");
    assert_has(page, "Validation accuracy");
    result = run(0, "train --resume cut train.steps=0"); /* told once */
    assert_lacks(result.err, "metrics.jsonl");
    remove_tree("cut");
}

static void test_lost_metrics(void **state) {
    (void)state;
    /* losses at steps 4, 8 and 12, an evaluation at 8 */
    check_log(NULL, 0, 4, 4);
    check_log("", 0, 4, 4);
    check_log("{\"step\":4,\"loss\":1}\n", 1, 3, 3);
    check_log("{\"step\":4,\"loss\":1}\n{\"step\":8,\"lo", 1, 3, 3); /* torn */
    check_log("{\"st", 0, 4, 4);
    check_log("\x01\x02 garbage\n\xff\xfe\n{}\n{\"step\":12}\n", 4, 0, 3); /* changed */
    check_log("{\"step\":4}\n{\"step\":8}\n{\"step\":8}\n{\"step\":12}\nmo\nre", 4, 0, 0); /* cut */
}

/* ---- A full disk: no file may grow beyond a limit ---- */

static Result run_limited(long bytes, const char *command) {
    return program_run((Start){.file_bytes = bytes}, command);
}

static void test_full_disk_while_training(void **state) {
    (void)state;
    paused_run("full");
    size_t bytes;
    file_read("good.h5", &bytes);
    const long limits[] = {2500, 4096, (long)bytes / 2, (long)bytes - 100, (long)bytes - 1};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        Result result = run_limited(limits[i], "train --resume full train.steps=0");
        assert_code(result, 1, format("train with at most %ld bytes in a file", limits[i]));
        assert_has(result.err, "full/");
        assert_files_equal("full/checkpoint.h5", "good.h5");
        assert_files_equal("full/checkpoint.prev.h5", "good.prev.h5");
        run(0, "inspect full/checkpoint.h5");
    }
    run(0, "train --resume full train.steps=0");
    assert_files_equal("full/checkpoint.h5", "whole/checkpoint.h5");
    assert_int_equal(files_with("full", ".tmp."), 0);
}

static void test_full_disk_at_the_start(void **state) {
    (void)state;
    text_file("mlp.yaml", MLP);
    Result result = run_limited(400, "train mlp.yaml --out nothing");
    assert_code(result, 1, "train with at most 400 bytes in a file");
    assert_has(result.err, "nothing/config.yaml");
}

static void test_full_disk_while_converting(void **state) {
    (void)state;
    paused_run("pack");
    run(0, "convert pack");
    file_copy("pack/quantized.h5", "packed.h5");
    Result result = run_limited(2000, "convert pack");
    assert_code(result, 1, "convert with at most 2000 bytes in a file");
    assert_has(result.err, "pack/quantized.h5");
    assert_files_equal("pack/quantized.h5", "packed.h5");
    run(0, "verify pack");
    assert_int_equal(files_with("pack", ".tmp."), 0);
}

static void test_directory_that_cannot_be(void **state) {
    (void)state;
    text_file("mlp.yaml", MLP);
    assert_has(run(2, "train mlp.yaml --out mlp.yaml/run").err,
               "cannot make the directory mlp.yaml");
    assert_has(run(2, "train mlp.yaml --out /proc/run").err, "cannot make the directory /proc/run");
}

/* ---- Numbers that are not finite ---- */

static void check_finite_tensor(const H5Reader *r, const char *name) {
    H5Info info;
    Error err = {0};
    assert_true(h5_read_info(r, name, &info, &err));
    if (info.what == H5_GROUP) {
        const char **names;
        int count;
        assert_true(h5_read_names(r, name, program_arena, &names, &count, &err));
        for (int i = 0; i < count; i++)
            check_finite_tensor(r, *name ? format("%s/%s", name, names[i]) : names[i]);
    }
    if (info.what != H5_TENSOR || info.element != H5_F32) return;
    float *values = arena_zalloc(program_arena, (size_t)info.bytes + 1);
    assert_true(h5_read_tensor(r, name, H5_F32, info.shape, values, &err));
    for (int64_t i = 0; i < info.bytes / 4; i++)
        if (!isfinite(values[i])) fail_msg("%s[%ld] is %g", name, (long)i, (double)values[i]);
}

static void check_finite_file(const char *path) {
    if (!file_exists(path)) return;
    Error err = {0};
    H5Reader *r = h5_read_open(path, program_arena, &err);
    if (!r) fail_msg("%s", err.message);
    check_finite_tensor(r, "");
}

static void check_overflow(const char *settings) {
    Result result =
        run(1, "train mlp.yaml --out huge --force train.checkpoint_every=1 %s", settings);
    assert_has(result.err, "nibble: step ");
    assert_has(result.err, "not finite");
    bool names_layer = strstr(result.err, "hidden1") || strstr(result.err, "classes") ||
                       strstr(result.err, "conv") || strstr(result.err, "hidden");
    assert_true(names_layer);
    assert_has(result.err, "optimizer.lr");
    assert_has(result.err, "optimizer.clip_norm");
    const char *kept = file_exists("huge/checkpoint.h5") ? "is intact" : "No checkpoint was saved";
    assert_has(result.err, kept);
    check_finite_file("huge/checkpoint.h5");
    check_finite_file("huge/checkpoint.prev.h5");
    check_finite_file("huge/best.h5");
    assert_false(file_exists("huge/summary.json"));
    assert_int_equal(files_with("huge", ".tmp."), 0);
}

static void test_overflow_is_named_and_not_saved(void **state) {
    (void)state;
    text_file("mlp.yaml", MLP);
    check_overflow("optimizer.lr=1e20 quant.bits=32");
    check_overflow("optimizer.lr=1e30 train.steps=1 quant.bits=32"); /* evaluation finds it */
    check_overflow("optimizer.lr=1e30");
    check_overflow("optimizer.lr=1e20");
    check_overflow("optimizer.lr=1e20 model={\"kind\":cnn,\"widths\":[4]}");
    check_overflow("optimizer.lr=1e20 model={\"kind\":cnn,\"widths\":[4]} quant.bits=32");
    check_overflow("optimizer={\"kind\":adam,\"lr\":1e30} quant.bits=32");
    check_overflow("optimizer.lr=1e20 optimizer.ema=0.9");
    check_overflow("optimizer.lr=1e20 schedule={\"kind\":constant,\"warmup\":5}");
}

/* Inputs beyond f16 are no matter of the learning rate. */
static void test_inputs_beyond_half(void **state) {
    (void)state;
    enum { ROWS = 64, SIDE = 4 };
    Error err = {0};
    float *images = arena_new_array(program_arena, float, ROWS *SIDE *SIDE);
    uint8_t labels[ROWS];
    for (int i = 0; i < ROWS * SIDE * SIDE; i++) images[i] = 1e5f * (float)(i % 7);
    for (int i = 0; i < ROWS; i++) labels[i] = (uint8_t)(i % 2);
    H5Writer *w = h5_write_begin("large.h5", 0, program_arena, &err);
    h5_write_tensor(w, "train_images", H5_F32, SHAPE(ROWS, SIDE, SIDE), images);
    h5_write_tensor(w, "train_labels", H5_U8, SHAPE(ROWS), labels);
    h5_write_tensor(w, "test_images", H5_F32, SHAPE(ROWS, SIDE, SIDE), images);
    h5_write_tensor(w, "test_labels", H5_U8, SHAPE(ROWS), labels);
    assert_true(h5_write_export(w, &err));
    text_file("large.yaml", "model: {kind: mlp, widths: [4]}\nprecision: f16\n"
                            "data: {kind: hdf5, path: large.h5, batch: 8, normalize: none}\n");
    Result result = run(1, "train large.yaml --out large");
    assert_has(result.err, "values of the input (data) are beyond f16's 65,504");
    assert_has(result.err, "data.normalize: standard");
    assert_lacks(result.err, "optimizer.lr");
    for (int i = 0; i < ROWS * SIDE * SIDE; i++) images[i] *= 10;
    w = h5_write_begin("larger.h5", 0, program_arena, &err);
    h5_write_tensor(w, "train_images", H5_F32, SHAPE(ROWS, SIDE, SIDE), images);
    h5_write_tensor(w, "train_labels", H5_U8, SHAPE(ROWS), labels);
    h5_write_tensor(w, "test_images", H5_F32, SHAPE(ROWS, SIDE, SIDE), images);
    h5_write_tensor(w, "test_labels", H5_U8, SHAPE(ROWS), labels);
    assert_true(h5_write_export(w, &err));
    result = run(2, "train large.yaml --out scaled data.path=larger.h5 precision=f32 "
                    "quant={\"bits\":2,\"activations\":{\"quantizer\":minmax,\"scale\":f16}}");
    assert_has(result.err, "is beyond f16: set quant.activations.scale: bf16 or f32");
    assert_has(result.err, "data.normalize: standard");
}

static void test_overflow_keeps_the_checkpoint_before(void **state) {
    (void)state;
    text_file("mlp.yaml", MLP);
    /* the first steps of the warm-up are harmless */
    run(1, "train mlp.yaml --out grown optimizer.lr=1e4 optimizer.clip_norm=1e9 quant.bits=32 "
           "train.epochs=100 train.checkpoint_every=1 "
           "schedule={\"kind\":linear,\"warmup\":100,\"final\":1} optimizer.weight_decay=1");
    assert_true(file_exists("grown/checkpoint.h5"));
    check_finite_file("grown/checkpoint.h5");
    run(0, "eval grown");
    Result again = run(1, "train --resume grown"); /* the same bits, the same end */
    assert_has(again.err, "not finite");
}

int main(void) {
    signal(SIGXFSZ, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_other_runs_checkpoints),
        cmocka_unit_test(test_lost_metrics),
        cmocka_unit_test(test_full_disk_while_training),
        cmocka_unit_test(test_full_disk_at_the_start),
        cmocka_unit_test(test_full_disk_while_converting),
        cmocka_unit_test(test_directory_that_cannot_be),
        cmocka_unit_test(test_overflow_is_named_and_not_saved),
        cmocka_unit_test(test_inputs_beyond_half),
        cmocka_unit_test(test_overflow_keeps_the_checkpoint_before),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
