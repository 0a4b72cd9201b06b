/* State that was never set is never used: quantizers without a range are refused by whatever would
 * use them, and take it from training images when asked to; never from test images. */
#include "tests/program.h"

#include "data/h5.h"
#include "qat/quantizer.h"

#define CNN                                                                                        \
    "model: {kind: cnn, widths: [4, 6], hidden: 12}\n" PROGRAM_DATA PROGRAM_OPTIMIZER              \
    "train: {epochs: 5}\n"
#define MLP                                                                                        \
    "model: {kind: mlp, widths: [16, 12]}\n" PROGRAM_DATA PROGRAM_OPTIMIZER "train: {epochs: 5}\n"

/* 8 steps an epoch, 40 in all. */
#define BEFORE_START "quant.start=0.9 train.steps=5"

/* Every quantizer that can fail to be calibrated is in the network, and it alone quantizes. */
static const char *settings_of(const Quantizer *row, bool is_weight) {
    const char *tensor = is_weight ? "weights" : "activations";
    const char *other = is_weight ? "activations" : "weights";
    bool is_dorefa = !strcmp(row->kind.name, "dorefa");
    return format(
        "quant.bits=4 quant.%s.quantizer=%s quant.%s.bits=32 quant.freeze_observers=0%s%s", tensor,
        row->kind.name, other, is_dorefa && is_weight ? " quant.weights.granularity=tensor" : "",
        is_weight ? "" : " quant.rules=[{\"layers\":first,\"activation_bits\":32}]");
}

static void check_refusal(const char *directory, const char *command) {
    const char *message = run(2, "%s %s", command, directory).err;
    assert_has(message, "has no range yet: the run stopped at step 5 of 40, and fake-quant starts "
                        "at step 37 (quant.start 0.9)");
    assert_has(message, format("nibble train --resume %s train.steps=0", directory));
    assert_has(message, "--calibrate N");
}

static void check_shipped(const char *directory, const char *options) {
    const char *said = run(0, "convert %s %s", directory, options).err;
    if (*options) assert_has(said, "without a range took one from");
    assert_has(run(0, "verify %s", directory).out, " 0 differing bits");
}

static void check_row(const Quantizer *row, bool is_weight) {
    const char *name = format("%s_%s", row->kind.name, is_weight ? "weights" : "activations");
    run(0, "train cnn.yaml --out %s " BEFORE_START " %s", name, settings_of(row, is_weight));
    Json *json = json_of(file_text(format("%s/summary.json", name)));
    double ignored;
    fraction_of(json, "shadow.accuracy");
    assert_int_equal(json_get_number(json, "quantized.accuracy", &ignored), !row->observe);
    json_free(json);
    if (!row->observe) { /* its range is a setting or a constant, or it starts at one */
        check_shipped(name, "");
        return;
    }
    check_refusal(name, "convert");
    check_refusal(name, "eval");
    assert_false(file_exists(format("%s/quantized.h5", name)));
    check_shipped(name, "--calibrate 50");
    Json *found = json_of(run(0, "eval %s --json --calibrate 50", name).out);
    fraction_of(found, "quantized.accuracy");
    json_free(found);
}

static void test_every_quantizer(void **state) {
    (void)state;
    text_file("cnn.yaml", CNN);
    for (int i = 0; i < quantizer_kinds.count; i++) {
        const Quantizer *row = (const Quantizer *)quantizer_kinds.kinds[i];
        if (row->flags & QUANTIZER_FOR_WEIGHTS) check_row(row, true);
        if (row->flags & QUANTIZER_FOR_ACTIVATIONS) check_row(row, false);
    }
}

/* Everything at once, as the configurations of `configs` have it, and scales per token. */
static void test_mixtures(void **state) {
    (void)state;
    text_file("cnn.yaml", CNN);
    text_file("mlp.yaml", MLP);
    run(0, "train cnn.yaml --out mixed quant.bits=4 " BEFORE_START);
    check_refusal("mixed", "convert");
    check_shipped("mixed", "--calibrate 64");
    run(0, "train mlp.yaml --out token quant.bits=4 quant.activations.quantizer=minmax "
           "quant.activations.granularity=token " BEFORE_START);
    check_refusal("token", "convert"); /* for its weights */
    check_shipped("token", "--calibrate 8");
    run(0, "train mlp.yaml --out watched quant.bits=4 quant.weights.quantizer=minmax "
           "quant.activations.quantizer=ema " BEFORE_START);
    check_shipped("watched", ""); /* observers saw the training images before fake-quant started */
}

static float scale_of(const char *path, const char *edge) {
    Error err = {0};
    float scale = 0;
    H5Reader *r = h5_read_open(path, program_arena, &err);
    const char *name = format("edges/%s/scales", edge);
    if (!r || !h5_read_tensor(r, name, H5_F32, SHAPE(1), &scale, &err)) fail_msg("%s", err.message);
    return scale;
}

/* The input's range was observed from the first step on; that of the first pooling was to be
 * learned later. */
static void test_what_is_calibrated_stays(void **state) {
    (void)state;
    text_file("cnn.yaml", CNN);
    run(0, "train cnn.yaml --out stays quant.bits=4 "
           "quant.input={\"kind\":\"percentile\",\"quantile\":0.9} " BEFORE_START);
    run(0, "convert stays --calibrate 2");
    float input = scale_of("stays/quantized.h5", "input.out4");
    float learned = scale_of("stays/quantized.h5", "pool1.out4");
    run(0, "convert stays --calibrate 30");
    assert_true(scale_of("stays/quantized.h5", "input.out4") == input);
    assert_true(scale_of("stays/quantized.h5", "pool1.out4") != learned);
}

/* A float run's weights bring no ranges, nor does the start of training. */
static void test_weights_from_a_float_run(void **state) {
    (void)state;
    text_file("cnn.yaml", CNN);
    run(0, "train cnn.yaml --out float");
    run(0, "train cnn.yaml --out fine quant.bits=4 train.init=float " BEFORE_START);
    check_refusal("fine", "convert");
    assert_false(file_exists("fine/best.h5"));
    run(0, "train --resume fine train.steps=0");
    check_shipped("fine", "");
    const char *message = run(0, "convert fine --calibrate 9").err;
    assert_has(message, "every quantizer has its range from training");
}

/* Ranges of 8 bits mean nothing to 4, nor do those of another kind; those of the same are kept. */
static void test_ranges_of_another_quantizer(void **state) {
    (void)state;
    text_file("cnn.yaml", CNN);
    run(0, "train cnn.yaml --out wide quant.bits=8");
    run(0, "train cnn.yaml --out narrow quant.bits=4 train.init=wide " BEFORE_START);
    check_refusal("narrow", "convert");
    run(0, "train cnn.yaml --out other quant.bits=8 quant.weights.quantizer=lsq_plus "
           "train.init=wide " BEFORE_START);
    check_refusal("other", "convert");
    run(0, "train cnn.yaml --out same quant.bits=8 train.init=wide " BEFORE_START);
    check_shipped("same", "");
}

/* ---- What is said ---- */

static void test_the_summary_claims_nothing(void **state) {
    (void)state;
    text_file("cnn.yaml", CNN);
    const char *out = run(0, "train cnn.yaml --out early quant.bits=4 " BEFORE_START).out;
    assert_has(out, "no quantized accuracy: 'conv1.weight' has no range yet");
    assert_has(out, "test accuracy                  none ");
    assert_has(file_text("early/summary.json"), "\"reason\": \"'conv1.weight' has no range yet");
    assert_has(file_text("early/summary.json"), "\"accuracy\": null");
    assert_has(file_text("early/report.html"), "There is no quantized accuracy");
    assert_has(file_text("early/report.html"), "fake-quant starts at step 37");
    out = run(0, "train --resume early train.steps=0").out;
    assert_lacks(out, "no quantized accuracy");
    assert_lacks(file_text("early/report.html"), "There is no quantized accuracy");
}

static void test_options_are_checked(void **state) {
    (void)state;
    text_file("cnn.yaml", CNN);
    run(0, "train cnn.yaml --out options quant.bits=4 " BEFORE_START);
    assert_has(run(2, "convert options --calibrate none").err, "a number of training images");
    assert_has(run(2, "convert options --calibrate 0").err, "a number of training images");
    assert_has(run(2, "eval options --calibrate 257").err, "there are 256 training images");
    assert_has(run(2, "eval options optimizer.lr=1").err,
               "'optimizer.lr=1' cannot change in a run");
    assert_has(run(0, "eval options --calibrate 256 data.prefetch=true").err,
               "7 quantizers without a range took one from 256 training images");
}

/* ---- Images decide nothing but what they should ---- */

static const float *logits_of(const char *directory) {
    Error err = {0};
    float *logits = arena_new_array(program_arena, float, 400);
    H5Reader *r = h5_read_open(format("%s/logits.h5", directory), program_arena, &err);
    if (!r || !h5_read_tensor(r, "logits", H5_F32, SHAPE(100, 4), logits, &err))
        fail_msg("%s", err.message);
    return logits;
}

static void test_the_size_of_batches_in_evaluation(void **state) {
    (void)state;
    text_file("cnn.yaml", CNN);
    const float *first = NULL;
    for (int size = 7; size <= 100; size += 93) {
        const char *name = format("by%d", size);
        run(0, "train cnn.yaml --out %s quant.bits=4 data.eval_batch=%d " BEFORE_START, name, size);
        check_shipped(name, "--calibrate 50");
        if (first) assert_memory_equal(first, logits_of(name), sizeof(float) * 400);
        first = logits_of(name);
    }
    run(0, "convert by7 --calibrate 20");
    assert_memory_not_equal(first, logits_of("by7"), sizeof(float) * 400);
}

/* Images of zeros say nothing about a range. */
static void test_nothing_but_zeros(void **state) {
    (void)state;
    static const unsigned char zeros[40 * 16];
    unsigned char labels[40];
    for (int i = 0; i < 40; i++) labels[i] = (unsigned char)(i % 3);
    mkdir("zeros", 0777);
    static const char *const parts[] = {"train", "t10k"};
    for (int i = 0; i < 2; i++) {
        idx_file(format("zeros/%s-images-idx3-ubyte", parts[i]), 3, (int[]){40, 4, 4}, zeros,
                 sizeof zeros);
        idx_file(format("zeros/%s-labels-idx1-ubyte", parts[i]), 1, (int[]){40}, labels, 40);
    }
    text_file("zeros.yaml", "model: {kind: mlp, widths: [6]}\nquant: {bits: 4}\n"
                            "data: {kind: idx, path: zeros, batch: 10, normalize: none}\n"
                            "train: {epochs: 2}\n" PROGRAM_OPTIMIZER);
    run(0, "train zeros.yaml --out dead");
    assert_false(file_exists("dead/best.h5"));
    assert_has(file_text("dead/summary.json"), "'flatten.out4' has no range: until step 6 of 6 it "
                                               "saw nothing but zeros");
    const char *refused = run(2, "convert dead").err; /* a resumption would have nothing to do */
    assert_has(refused, "saw nothing but zeros");
    assert_has(refused, ". Calibrate on training images with --calibrate N");
    assert_lacks(refused, "--resume");
    assert_has(run(2, "convert dead --calibrate 20").err,
               "--calibrate 20: 'flatten.out4' saw nothing but zeros");
    assert_lacks(run(2, "convert dead").err, "--resume");
}

/* Training on is no remedy for a fake-quant that starts after the last step. */
static void test_a_start_that_never_comes(void **state) {
    (void)state;
    text_file("cnn.yaml", CNN);
    run(0, "train cnn.yaml --out never quant.bits=4 quant.start=1e6 train.steps=5");
    const char *message = run(2, "convert never").err;
    assert_has(message, "fake-quant starts at step 1000001");
    assert_has(message, "Calibrate on training images with --calibrate N");
    assert_lacks(message, "--resume");
    check_shipped("never", "--calibrate 20");
}

/* Learned ranges of activations come from the first batch, of 32. */
static void test_how_many_images_gave_a_range(void **state) {
    (void)state;
    text_file("cnn.yaml", CNN);
    run(0, "train cnn.yaml --out count quant.bits=4 " BEFORE_START);
    assert_has(run(0, "convert count --calibrate 256").err,
               "from 256 training images (of these, 3 learned from the first 32 images alone, a "
               "batch)");
    assert_has(run(0, "convert count --calibrate 32").err, "from 32 training images\n");
    assert_has(run(0, "help convert").out, "learned ranges from the first batch");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_quantizer),
        cmocka_unit_test(test_mixtures),
        cmocka_unit_test(test_what_is_calibrated_stays),
        cmocka_unit_test(test_weights_from_a_float_run),
        cmocka_unit_test(test_ranges_of_another_quantizer),
        cmocka_unit_test(test_the_summary_claims_nothing),
        cmocka_unit_test(test_options_are_checked),
        cmocka_unit_test(test_the_size_of_batches_in_evaluation),
        cmocka_unit_test(test_nothing_but_zeros),
        cmocka_unit_test(test_a_start_that_never_comes),
        cmocka_unit_test(test_how_many_images_gave_a_range),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
