/* What a packed file and its record say they were made of: other images, other files and other
 * kernels are told apart from a network that is wrong. */
#include "tests/reseal.h"

#define RUN_SHORTLY "train: {epochs: 2, log_every: 8}\n"
#define CNN                                                                                        \
    "model: {kind: cnn, widths: [4, 6], hidden: 12, dropout: 0.1}\n" PROGRAM_DATA                  \
        PROGRAM_OPTIMIZER RUN_SHORTLY

/* ---- Data that change after training ---- */

#define IDX                                                                                        \
    "model: {kind: cnn, widths: [4], hidden: 6}\n"                                                 \
    "data: {kind: idx, path: set, batch: 8, validation: 8}\n" PROGRAM_OPTIMIZER                    \
    "train: {epochs: 2}\n"

/* Other pixels, half as many of them, none at all, the whole set elsewhere: the model holds the
 * normalisation that it was trained with. */
static void test_verify_needs_no_training_images(void **state) {
    (void)state;
    idx_folder("set");
    text_file("idx.yaml", IDX);
    run(0, "train idx.yaml --out stands quant.bits=4");
    run(0, "convert stands");
    run(0, "verify stands");
    idx_part("set", "train", 48, 4);
    assert_has(run(0, "verify stands").out, "24 test images, 0 differing bits");
    remove("set/train-images-idx3-ubyte");
    remove("set/train-labels-idx1-ubyte");
    assert_has(run(0, "verify stands").out, "24 test images, 0 differing bits");
    assert_int_equal(rename("set", "elsewhere"), 0);
    assert_has(run(2, "verify stands").err, "set: No such file or directory");
    assert_has(run(0, "verify stands data.path=elsewhere").out, " 0 differing bits");
    assert_has(run(2, "verify stands optimizer.lr=1").err,
               "'optimizer.lr=1' cannot change in a run; these can: ");
    assert_has(run(2, "verify stands data.classes=3").err,
               "'data.classes=3' cannot change in a run; these can: ");
    assert_has(run(2, "verify stands again").err, "'again' is no setting: expected NAME=VALUE");
    idx_part("elsewhere", "t10k", 23, 8);
    assert_has(run(2, "verify stands data.path=elsewhere").err,
               "there are 23 test images, but logits of [24, 3] were recorded: the test images "
               "have changed");
    idx_part("elsewhere", "t10k", 24, 9);
    assert_has(run(2, "verify stands data.path=elsewhere").err,
               "verify: stands/logits.h5: the test images are [9, 9, 1], but the model takes "
               "[8, 8, 1]; bring those back that it was trained for (data.path=... says");
    unsigned char dark[24 * 64] = {0};
    idx_file("elsewhere/t10k-images-idx3-ubyte", 3, (int[]){24, 8, 8}, dark, sizeof dark);
    assert_has(run(2, "verify stands data.path=elsewhere").err,
               "the test images have changed; bring them back (data.path=... says where they lie), "
               "or run 'nibble convert stands' again");
    run(0, "convert stands data.path=elsewhere");
    run(0, "verify stands data.path=elsewhere");
}

/* ---- Records ---- */

static void test_older_records_are_refused(void **state) {
    (void)state;
    text_file("old.yaml", CNN);
    run(0, "train old.yaml --out record quant.bits=4");
    run(0, "convert record");
    file_copy("record/logits.h5", "logits.h5");
    reseal_edited("logits.h5", "record/logits.h5", (Edit){"images_digest", NULL, NULL, 0, false});
    assert_has(run(2, "verify record").err,
               "record/logits.h5 does not say of which test images it is; run 'nibble convert "
               "record' again");
}

/* A convert that was killed between its two files leaves a new one and an old one. */
static void test_mixed_pair_is_refused(void **state) {
    (void)state;
    text_file("flip.yaml", CNN);
    run(0, "train flip.yaml --out mixed quant.bits=4");
    run(0, "convert mixed");
    file_copy("mixed/logits.h5", "old.h5");
    run(0, "train flip.yaml --out mixed --force quant.bits=4 seed=2");
    run(0, "convert mixed");
    file_copy("mixed/logits.h5", "new.h5");
    file_copy("old.h5", "mixed/logits.h5");
    const char *message = run(1, "verify mixed").err;
    assert_has(message, "mixed/quantized.h5 is not the file that convert wrote with "
                        "mixed/logits.h5");
    assert_has(message, "run 'nibble convert mixed' again");
    file_copy("new.h5", "mixed/logits.h5");
    run(0, "verify mixed");
}

/* Test images `scale` times as bright as those of training. */
static void floats_file(const char *path, float scale) {
    enum { ROWS = 24, PIXELS = 64 };
    float dim[ROWS][PIXELS], bright[ROWS][PIXELS];
    int32_t labels[ROWS];
    for (int i = 0; i < ROWS; i++) {
        labels[i] = i % 3;
        for (int p = 0; p < PIXELS; p++)
            dim[i][p] = (float)(80 * labels[i] + (i * 31 + p * 17) % 60) / 255;
        for (int p = 0; p < PIXELS; p++) bright[i][p] = scale * dim[i][p];
    }
    Error err = {0};
    H5Writer *w = h5_write_begin(path, 0, program_arena, &err);
    h5_write_tensor(w, "train_images", H5_F32, SHAPE(ROWS, 8, 8), dim);
    h5_write_tensor(w, "train_labels", H5_I32, SHAPE(ROWS), labels);
    h5_write_tensor(w, "test_images", H5_F32, SHAPE(ROWS, 8, 8), bright);
    h5_write_tensor(w, "test_labels", H5_I32, SHAPE(ROWS), labels);
    if (!h5_write_export(w, &err)) fail_msg("%s", err.message);
}

/* What cannot be evaluated is not shipped, and what was shipped before stays. */
static void test_failed_convert_changes_nothing(void **state) {
    (void)state;
    text_file("fails.yaml",
              "model: {kind: mlp, widths: [8]}\n"
              "data: {kind: hdf5, path: floats.h5, batch: 8, validation: 8}\n"
              "quant: {weights: {bits: 4}}\n" PROGRAM_OPTIMIZER "train: {epochs: 2}\n");
    floats_file("floats.h5", 1);
    floats_file("huge.h5", 3e38f);
    run(0, "train fails.yaml --out fails");
    assert_has(run(1, "convert fails data.path=huge.h5").err, "not finite");
    assert_false(file_exists("fails/quantized.h5"));
    run(0, "convert fails");
    file_copy("fails/quantized.h5", "good.h5");
    run(1, "convert fails data.path=huge.h5");
    assert_files_equal("fails/quantized.h5", "good.h5");
    run(0, "verify fails");
}

/* Products of levels are the same on every instruction set; sums of floats are not, and a record
 * of another set is named. */
static void test_instruction_sets(void **state) {
    (void)state;
    text_file("isa.yaml", CNN);
    run(0, "train isa.yaml --out isa quant.bits=4");
    run(0, "convert isa");
    Start baseline = {.variable = "NIBBLE_ISA", .value = "baseline"};
    assert_code(program_run(baseline, "verify isa"), 0, "verify on the baseline");
    file_copy("isa/logits.h5", "logits.h5");
    reseal_flipped("logits.h5", "isa/logits.h5", (Flip){"logits", 403, 0, false});
    assert_lacks(run(1, "verify isa").err, "NIBBLE_ISA");
    file_copy("isa/logits.h5", "logits.h5");
    reseal_edited("logits.h5", "isa/logits.h5", (Edit){"kernels", NULL, "other", 0, false});
    const char *message = run(1, "verify isa").err;
    assert_has(message, "1 of 400 logits differ");
    assert_has(message, "They were recorded with kernels 'other' and computed with '");
    assert_has(message, "verify with NIBBLE_ISA=other, or run 'nibble convert isa' here");
}

/* ---- What it was made of ---- */

/* A training that goes on makes another network than the one that was shipped. */
static void test_shipped_network_goes_stale(void **state) {
    (void)state;
    idx_folder("images");
    const char *images = "images/t10k-images-idx3-ubyte";
    text_file("stale.yaml", "model: {kind: cnn, widths: [4], hidden: 6}\n"
                            "data: {kind: idx, path: images, batch: 8, validation: 0}\n"
                            "quant: {bits: 4}\n" PROGRAM_OPTIMIZER "train: {epochs: 2}\n");
    run(0, "train stale.yaml --out stale train.steps=8");
    run(0, "convert stale");
    assert_lacks(run(0, "eval stale").err, "was not made of");
    run(0, "predict stale %s", images);
    run(0, "train --resume stale train.steps=0");
    assert_has(run(1, "verify stale").err,
               "stale/quantized.h5 was not made of the network that stale reports now, of step 24; "
               "run 'nibble convert stale' again");
    assert_has(run(1, "predict stale %s", images).err,
               "run 'nibble convert stale' again, or name stale/quantized.h5 to predict with it");
    assert_has(run(0, "eval stale").err, "stale/quantized.h5 was not made of this network; run "
                                         "'nibble convert stale' again");
    run(0, "predict stale/quantized.h5 %s", images);
    run(0, "convert stale");
    run(0, "verify stale");
    run(0, "predict stale %s", images);
    assert_lacks(run(0, "eval stale").err, "was not made of");
    /* a file of before, which does not say */
    file_copy("stale/quantized.h5", "good.h5");
    reseal_edited("good.h5", "stale/quantized.h5", (Edit){"network_digest", NULL, NULL, 0, false});
    assert_has(run(1, "verify stale").err, "was not made of the network");
    /* networks that are lost cannot be compared with */
    file_copy("good.h5", "stale/quantized.h5");
    text_file("stale/checkpoint.h5", "lost");
    remove("stale/checkpoint.prev.h5");
    Result lost = run(0, "verify stale");
    assert_has(lost.err, "Whether stale/quantized.h5 is of the run's network is not known");
    remove("stale/checkpoint.h5");
    assert_lacks(run(0, "verify stale").err, "is not known");
}

/* A checkpoint that names no best network has none, whatever lies there: what ships is its own. */
static void test_unnamed_best_is_not_shipped(void **state) {
    (void)state;
    Error err = {0};
    text_file("pause.yaml", CNN);
    run(0, "train pause.yaml --out whole quant.bits=4");
    run(0, "train pause.yaml --out pause quant.bits=4 train.steps=3");
    assert_false(file_exists("pause/best.h5")); /* which would outlive a resume */
    file_copy("whole/best.h5", "pause/best.h5");
    assert_lacks(run(0, "convert pause").err, "best.h5");
    H5Reader *r = h5_read_open("pause/quantized.h5", program_arena, &err);
    if (!r) fail_msg("%s", err.message);
    assert_string_equal(h5_read_text(r, "network_digest", program_arena, &err),
                        digest_of("pause/checkpoint.h5"));
    run(0, "verify pause");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verify_needs_no_training_images),
        cmocka_unit_test(test_older_records_are_refused),
        cmocka_unit_test(test_mixed_pair_is_refused),
        cmocka_unit_test(test_failed_convert_changes_nothing),
        cmocka_unit_test(test_instruction_sets),
        cmocka_unit_test(test_shipped_network_goes_stale),
        cmocka_unit_test(test_unnamed_best_is_not_shipped),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
