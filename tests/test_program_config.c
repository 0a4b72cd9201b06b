/* What bad input gets: every mistake of a configuration in one pass, bad data files named, exit
 * code 2, and nothing left behind. */
#include "tests/program.h"

#include <time.h>

#define MLP                                                                                        \
    "model: {kind: mlp, widths: [16]}\n" PROGRAM_DATA PROGRAM_OPTIMIZER "train: {epochs: 1}\n"
#define IDX                                                                                        \
    "model: {kind: mlp, widths: [8]}\n"                                                            \
    "data: {kind: idx, path: data, validation: 16, batch: 16, eval_batch: 24}\n"                   \
    "train: {epochs: 2}\n"

/* ---- Every mistake in one pass ---- */

static void test_all_mistakes_in_one_pass(void **state) {
    (void)state;
    text_file("bad.yaml", "seed: -3\n"
                          "sead: 4\n"
                          "model: {kind: mlpp, widths: [16]}\n"
                          "data:\n"
                          "  kind: idx\n"
                          "  path: /nowhere\n"
                          "  batch: many\n"
                          "  augment: {flop: true}\n"
                          "quant:\n"
                          "  bits: 9\n"
                          "  rules:\n"
                          "    - {layers: 'conv*', bits: 4}\n"
                          "optimizer: {kind: sgd, lr: 0.1, lr: 0.2, momentun: 0.9}\n"
                          "schedule: {kind: cosine, warmup: -1}\n"
                          "train: {epochs: 0x, steps: 1.5}\n"
                          "tarin: {}\n");
    static const char *const faults[] = {
        "bad.yaml:1:7: 'seed' must be from 0 to ",
        "bad.yaml:2:1: unknown setting 'sead'; did you mean 'seed'?",
        "bad.yaml:3:15: unknown model 'mlpp'; did you mean 'mlp'?",
        "bad.yaml:7:10: 'data.batch': expected an integer, found 'many'",
        "bad.yaml:8:13: unknown setting 'flop'; did you mean 'flip'?",
        "bad.yaml:10:9: unknown bits '9'",
        "bad.yaml:13:33: duplicate setting 'lr'; it is first on line 13",
        "bad.yaml:13:42: unknown setting 'momentun'; did you mean 'momentum'?",
        "bad.yaml:14:34: 'schedule.warmup' must be from 0 to ",
        "bad.yaml:15:17: 'train.epochs': expected a number, found '0x'",
        "bad.yaml:15:28: 'train.steps': expected an integer, found '1.5'",
        "bad.yaml:16:1: unknown setting 'tarin'; did you mean 'train'?",
        "command line: optimizer.lrr=1: unknown setting 'lrr'; did you mean 'lr'?",
        "command line: seed=x: 'seed': expected an integer, found 'x'",
    };
    Result result = run(2, "train bad.yaml --out bad optimizer.lrr=1 seed=x");
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        if (i != 0) assert_has(result.err, faults[i]); /* seed: the command line's value counts */
    assert_lacks(result.err, "/nowhere");              /* no data was looked for */
    assert_lacks(result.err, "weight ");
    assert_has(run(2, "train bad.yaml --out bad").err, faults[0]);
    assert_has(result.err, "bad.yaml: 13 mistakes in the configuration");
    assert_false(file_exists("bad"));
}

/* What depends on a setting that is required is not looked at without it. */
static void test_a_required_setting_without_a_value(void **state) {
    (void)state;
    text_file("bad.yaml", "model: {kind: pretrained, path: ''}\ndata: {kind: synthetic}\n");
    assert_has(run(2, "plan bad.yaml").err,
               "bad.yaml:1:33: 'model.path': expected text, found empty text");
    text_file("bad.yaml", "model: {kind: pretrained}\ndata: {kind: synthetic}\n");
    assert_has(run(2, "plan bad.yaml").err, "bad.yaml:1:8: missing setting 'model.path'");
}

/* ---- Settings that are right alone but not together ---- */

static void test_contradictions_are_placed_in_the_same_pass(void **state) {
    (void)state;
    text_file("both.yaml", "model:\n"
                           "  resnet: {depth: 9, widths: [4, 4, 4]}\n"
                           "data: {kind: idx, path: /nowhere, bach: 4}\n"
                           "optimizer:\n"
                           "  kind: sgd\n"
                           "  momentum: 0\n"
                           "  nesterov: true\n");
    Result result = run(2, "train both.yaml --out both");
    assert_has(result.err, "both.yaml:2:19: model.depth must be 6 n + 2");
    assert_has(result.err, "both.yaml:3:35: unknown setting 'bach'");
    assert_has(result.err, "both.yaml:7:13: optimizer.nesterov needs optimizer.momentum above 0");
    assert_has(result.err, "both.yaml: 3 mistakes");
    assert_lacks(result.err, "'/nowhere'");
}

/* What only shows when the model is built for the data has its place too. */
static void test_mistakes_that_the_data_show_are_placed(void **state) {
    (void)state;
    text_file("late.yaml", MLP "quant:\n"
                               "  bits: 4\n"
                               "  rules:\n"
                               "    - {layers: first, bits: 8}\n"
                               "    - {bits: 8, layers: 'last, nosuch*'}\n");
    const Result rule = run(2, "train late.yaml --out late");
    assert_has(rule.err, "late.yaml:");
    assert_has(rule.err, ":25: quant.rules.1: no layer with weights matches 'nosuch*'");
    text_file("warm.yaml", "schedule:\n"
                           "  cosine: {warmup: 1000}\n" MLP);
    assert_has(run(2, "train warm.yaml --out late").err,
               "warm.yaml:2:20: schedule.warmup is 1000 steps");
    assert_has(run(2, "train late.yaml --out late quant.rules=[] schedule.warmup=1.5").err,
               "command line: schedule.warmup=1.5: schedule.warmup is 1.5");
    assert_has(
        run(2, "train late.yaml --out late quant.rules.1.layers=classes train.init=gone").err,
        "command line: train.init=gone: ");
    assert_false(file_exists("late"));
}

/* ---- One mistake each ---- */

typedef struct Mistake {
    const char *settings; /* on the command line */
    const char *message;
} Mistake;

static void test_settings_that_do_not_fit(void **state) {
    (void)state;
    text_file("input.yaml", "model: {kind: cnn, widths: [4]}\n" PROGRAM_DATA "quant:\n"
                            "  bits: 4\n  activations: {affine: true, quantizer: minmax}\n"
                            "  input: lsq\n");
    assert_has(run(2, "plan input.yaml").err, ":10: input of conv1: quantizer 'lsq'");
    text_file("mlp.yaml", MLP);
    static const Mistake mistakes[] = {
        {"quant.rules=[{\"layers\":\"nosuch*\",\"bits\":4}]",
         "no layer with weights matches 'nosuch*'"},
        {"model.kind=cnn ~model.widths data.height=1 data.width=1", "smaller than the 2x2 window"},
        {"model={\"kind\":resnet,\"depth\":9}", "depth"},
        {"model={\"kind\":sequential,\"layers\":[{\"kind\":flatten},{\"kind\":linear,\"units\":7}]"
         "}",
         "end with a linear layer of 4 units"},
        {"model={\"kind\":sequential,\"layers\":[]}", "layers"},
        {"model={\"kind\":sequential,\"layers\":[{\"kind\":conv,\"filters\":4,\"kernel\":9,"
         "\"padding\":0}]}",
         "conv"},
        {"model={\"kind\":sequential,\"layers\":[{\"kind\":conv,\"filters\":4,\"groups\":3}]}",
         "groups"},
        {"data.validation=320", "validation"},
        {"data.batch=1000", "do not fill one batch of 1000"},
        {"optimizer.momentum=0 optimizer.nesterov=true",
         "optimizer.nesterov needs optimizer.momentum"},
        {"train.epochs=0", "nothing to train"},
        {"train.accumulate=1000", "nothing to train"},
        {"schedule={\"kind\":cosine,\"warmup\":1000}", "warmup"},
        {"quant.weights.granularity=token quant.bits=4", "unknown granularity 'token'"},
        {"quant.bits=1.58", "an activation: weights alone have 1.58 bits; give activations 2 to 8"},
        {"quant.bits=8 quant.weights.bits=1", "use 'paretoq' for 1 bit"},
        {"quant.activations.granularity=token quant.bits=4", "token"},
        {"quant.input=pact quant.bits=4", "quantizer 'pact'"},
        {"quant.weights.quantizer=dorefa quant.bits=4", "granularity"},
        {"quant.bits=4 quant.weights.affine=true", "learns no offset"},
        {"precision=f64", "unknown precision 'f64'"},
        {"train.threads=2", "unknown setting 'threads'"},
        {"train.init=nowhere", "train.init"},
        {"nonsense", "expected NAME=VALUE"},
        {"model.widths.3=4", "widths"},
        {"model.widths=[4", "command line"},
    };
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        assert_has(run(2, "train mlp.yaml --out left %s", mistakes[i].settings).err,
                   mistakes[i].message);
        assert_false(file_exists("left"));
    }
}

/* The input has its own quantizer, with the rest from activations. */
static void test_the_input_s_quantizer_is_placed(void **state) {
    (void)state;
    text_file("input.yaml", "model: {kind: mlp, widths: [6]}\n" PROGRAM_DATA PROGRAM_OPTIMIZER
                            "quant:\n  bits: 8\n"
                            "  activations: {affine: true, quantizer: minmax}\n  input: lsq\n");
    const char *message = run(2, "train input.yaml --out left").err;
    assert_has(message, ": input of ");
    assert_has(message, "learns no offset");
    int line = 1;
    const char *text = file_text("input.yaml"), *at = strstr(text, "input: lsq");
    for (; text < at; text++) line += *text == '\n';
    assert_has(message, format("input.yaml:%d:", line));
    assert_has(run(0, "help quant").out, "are those of activations");
}

/* ---- Files that are no configuration ---- */

static void check_file(const char *text, size_t bytes, const char *message) {
    file_write("odd.yaml", text, bytes);
    clock_t started = clock();
    Result result = run(2, "train odd.yaml --out odd");
    assert_has(result.err, message);
    assert_true((double)(clock() - started) / CLOCKS_PER_SEC < 2);
    assert_false(file_exists("odd"));
}

static void test_files_that_are_no_configuration(void **state) {
    (void)state;
    enum { LONG = 128 << 10 };
    char *deep = arena_alloc(program_arena, LONG + 1);
    memset(deep, '[', LONG / 2);
    memset(deep + LONG / 2, ']', LONG / 2);
    check_file(deep, LONG, "odd.yaml:1:"); /* took a parser without limits 25 seconds */
    char *large = arena_alloc(program_arena, 2 << 20);
    memset(large, 'a', 2 << 20);
    check_file(large, 2 << 20, "larger than");
    static const struct {
        const char *text, *message;
    } files[] = {
        {"", "missing setting 'model'"},
        {"a: [", "odd.yaml:2:1: not valid YAML"},
        {"- 1\n- 2\n", "odd.yaml:1:1"},
        {"model: &m {kind: mlp}\ndata: *m\n", "odd.yaml:2:7: alias '*m'"},
        {"model: {kind: mlp}\n<<: {seed: 1}\ndata: synthetic\n", "odd.yaml:2:1"},
        {"model: {kind: mlp}\ndata: synthetic\n---\nseed: 1\n", "odd.yaml:3:1"},
        {"model: !!python/object {kind: mlp}\ndata: synthetic\n", "odd.yaml:1:8"},
        {"\xff\xfe", "UTF-8"},
        {"model: {kind: mlp}\ndata: {kind: synthetic}\nseed: 1e400\n", "odd.yaml:3:7"},
        {"model: {kind: mlp}\ndata: {kind: synthetic, noise: .nan}\n", "odd.yaml:2:32"},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        check_file(files[i].text, strlen(files[i].text), files[i].message);
}

/* ---- Data files ---- */

static const char train_images[] = "data/train-images-idx3-ubyte";
static const char train_labels[] = "data/train-labels-idx1-ubyte";
static const char test_images[] = "data/t10k-images-idx3-ubyte";

static void check_data(const char *file, const char *found, const char *expected) {
    Result result = run(2, "train idx.yaml --out idx");
    assert_has(result.err, file);
    assert_has(result.err, found);
    assert_has(result.err, expected);
    assert_false(file_exists("idx"));
    idx_folder("data");
}

static void test_data_files(void **state) {
    (void)state;
    text_file("idx.yaml", IDX);
    assert_has(run(2, "train idx.yaml --out idx").err, "data: "); /* there is no such directory */
    idx_folder("data");
    run(0, "train idx.yaml --out good");

    size_t bytes;
    unsigned char *images = file_read(train_images, &bytes);
    /* 16 bytes of header, 96 images of 64 bytes */
    file_write(train_images, images, bytes - 44);
    check_data(train_images, "6100", "6144");
    unsigned char *longer = arena_zalloc(program_arena, bytes + 1);
    memcpy(longer, images, bytes);
    file_write(train_images, longer, bytes + 1);
    check_data(train_images, "6145", "6144");
    file_write(train_images, images, 5);
    check_data(train_images, "1 bytes", "12");
    file_write(train_images, "", 0);
    check_data(train_images, "", "");
    images[2] = 9;
    file_write(train_images, images, bytes);
    check_data(train_images, "", "");
    images[2] = 8;
    memset(images + 4, 255, 12); /* sizes whose product is not a size */
    file_write(train_images, images, bytes);
    check_data(train_images, "", "");
    file_copy(train_labels, train_images);
    check_data(train_images, "", "");
    remove(train_labels);
    check_data("train-labels-idx1-ubyte", "", "");
    idx_part("data", "t10k", 24, 6);
    check_data(test_images, "6", "8");
    idx_part("data", "other", 90, 8);
    file_copy("data/other-labels-idx1-ubyte", train_labels);
    check_data(train_labels, "90", "96");
    run(0, "train idx.yaml --out idx"); /* it was the files */
}

static void test_labels_out_of_range(void **state) {
    (void)state;
    text_file("idx.yaml", IDX);
    idx_folder("data");
    assert_has(run(2, "train idx.yaml --out labels data.classes=2").err, train_labels);
    assert_false(file_exists("labels"));
}

/* Data that changed under a run's hands. */
static void test_data_of_another_shape(void **state) {
    (void)state;
    text_file("idx.yaml", IDX);
    idx_folder("data");
    run(0, "train idx.yaml --out moved quant.bits=4 train.steps=5");
    run(0, "convert moved");
    idx_part("data", "train", 96, 6);
    idx_part("data", "t10k", 24, 6);
    static const char *const commands[] = {"train --resume moved train.steps=0", "eval moved",
                                           "convert moved", "verify moved"};
    for (int i = 0; i < 4; i++) assert_has(run(2, "%s", commands[i]).err, "");
    mkdir("elsewhere", 0777);
    idx_folder("elsewhere");
    run(0, "train --resume moved train.steps=0 data.path=elsewhere");
    run(0, "eval moved");
}

/* ---- The configurations that come with the program ---- */

static void test_shipped_configurations(void **state) {
    (void)state;
    const char *directory = format("%s/configs", program_source_root);
    DIR *listing = opendir(directory);
    assert_non_null(listing);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(listing));) {
        const char *end = strrchr(entry->d_name, '.');
        if (!end || strcmp(end, ".yaml") != 0) continue;
        const char *path = format("%s/%s", directory, entry->d_name);
        /* which is the only thing wrong with it */
        bool has_files = !strstr(file_text(path), "kind: synthetic");
        const char *fault = has_files ? "data.path=/nowhere" : "train.epochs=0";
        if (strstr(file_text(path), "kind: pretrained")) /* of a directory that is there */
            fault = format("%s model.path=%s data.tokenizer=byte", fault,
                           format("%s/tests/golden/llm/qwen2", program_source_root));
        Result result = run(2, "train %s --out shipped %s", path, fault);
        assert_has(result.err, has_files ? "/nowhere" : "nothing to train");
        assert_lacks(result.err, "mistake");
        count++;
    }
    closedir(listing);
    assert_true(count > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_mistakes_in_one_pass),
        cmocka_unit_test(test_a_required_setting_without_a_value),
        cmocka_unit_test(test_contradictions_are_placed_in_the_same_pass),
        cmocka_unit_test(test_mistakes_that_the_data_show_are_placed),
        cmocka_unit_test(test_settings_that_do_not_fit),
        cmocka_unit_test(test_the_input_s_quantizer_is_placed),
        cmocka_unit_test(test_files_that_are_no_configuration),
        cmocka_unit_test(test_data_files),
        cmocka_unit_test(test_labels_out_of_range),
        cmocka_unit_test(test_data_of_another_shape),
        cmocka_unit_test(test_shipped_configurations),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
