/* What a run knows of its images: results do not depend on what lies there later, other images are
 * told from these, and runs and images may move. */
#include "tests/program.h"

#include "data/h5.h"

#define NETWORK                                                                                    \
    "model: {kind: cnn, widths: [4], hidden: 8}\nquant: {bits: 4}\ntrain: {epochs: 4}\n"           \
    "data: {kind: idx, path: images, batch: 16, validation: 16}\n" PROGRAM_OPTIMIZER

#define TRAIN_IMAGES "images/train-images-idx3-ubyte"
#define TRAIN_LABELS "images/train-labels-idx1-ubyte"

/* 5 steps an epoch, 20 in all. */
static void train(const char *name, const char *settings) {
    remove_tree("images");
    idx_folder("images");
    text_file("network.yaml", NETWORK);
    run(0, "train network.yaml --out %s %s", name, settings);
}

static void change_byte(const char *path, size_t at, int change) {
    size_t bytes;
    unsigned char *content = file_read(path, &bytes);
    assert_true(at < bytes);
    content[at] = (unsigned char)(content[at] + change);
    file_write(path, content, bytes);
}

/* ---- Training images that are no longer those ---- */

static void check_same_results(const char *evaluation) {
    assert_string_equal(run(0, "eval stored --json").out, evaluation);
    run(0, "convert stored");
    assert_files_equal("stored/quantized.h5", "quantized.h5");
    assert_files_equal("stored/logits.h5", "logits.h5");
    assert_has(run(0, "verify stored").out, " 0 differing bits");
}

static void test_changed_training_images_change_no_bit(void **state) {
    (void)state;
    train("stored", "");
    const char *evaluation = run(0, "eval stored --json").out;
    run(0, "convert stored");
    file_copy("stored/quantized.h5", "quantized.h5");
    file_copy("stored/logits.h5", "logits.h5");
    idx_part("images", "train", 48, 8);
    check_same_results(evaluation);
    assert_int_equal(remove(TRAIN_IMAGES) | remove(TRAIN_LABELS), 0);
    check_same_results(evaluation);
}

static void test_test_images_must_fit(void **state) {
    (void)state;
    train("fit", "");
    idx_part("images", "t10k", 24, 9);
    assert_has(run(2, "eval fit").err, "the test images are 9x9x1 (bytes) in 3 classes, but the "
                                       "network of fit/best.h5 was trained on 8x8x1 (bytes) in 3 "
                                       "classes");
    idx_folder("images");
    change_byte("images/t10k-labels-idx1-ubyte", 8, 3);
    assert_has(run(2, "eval fit").err, "row 0 has label 3, expected 0 to 2; the network of "
                                       "fit/best.h5 was trained on 3 classes");
}

static void check_refused(const char *difference) {
    const char *message = run(2, "train --resume other train.steps=7").err;
    assert_has(message, "other/checkpoint.h5 was made with other training images: ");
    assert_has(message, difference);
    assert_has(message, "data.path=...");
    assert_has(message, "data.changed=allow");
}

static void test_resume_on_other_images(void **state) {
    (void)state;
    train("other", "train.steps=3");
    change_byte(TRAIN_LABELS, 8, 1);
    check_refused("other labels of the same images");
    change_byte(TRAIN_IMAGES, 16, 1);
    check_refused("other images and labels, as many and as large");
    change_byte(TRAIN_LABELS, 8, -1);
    check_refused("other images with the same labels");
    idx_part("images", "train", 48, 8);
    check_refused(
        "48 images of 8x8x1 (bytes) in 3 classes instead of 96 of 8x8x1 (bytes) in 3 classes");
    change_byte("other/checkpoint.h5", 100, 1); /* nothing was written, nor is this read */
    assert_has(run(2, "train --resume other train.steps=7").err, "damaged");
}

static void test_other_images_may_be_allowed(void **state) {
    (void)state;
    train("allowed", "train.steps=3");
    change_byte(TRAIN_IMAGES, 16, 1);
    const char *command = "train --resume allowed data.changed=allow train.steps=";
    assert_has(run(0, "%s5", command).err,
               "warning: the training images have changed: other images with the same labels");
    assert_lacks(run(0, "%s7", command).err, "have changed");
    change_byte(TRAIN_IMAGES, 16, -1); /* by now the others are its own */
    run(2, "train --resume allowed data.changed=refuse train.steps=9");
    idx_part("images", "train", 96, 9);
    idx_part("images", "t10k", 24, 9);
    assert_has(run(2, "%s9", command).err, "the training images are 9x9x1");
}

/* The network goes on with the normalisation that it was trained with. */
static void test_the_normalisation_stays(void **state) {
    (void)state;
    train("scaled", "train.steps=3");
    for (size_t i = 0; i < 96; i++) change_byte(TRAIN_IMAGES, 16 + 64 * i, 90);
    run(0, "train --resume scaled data.changed=allow train.steps=4");
    run(0, "train network.yaml --out fresh train.steps=1");
    Error err = {0};
    float mean[3];
    static const char *const runs[] = {"scaled", "fresh", "first"};
    train("first", "train.steps=1");
    for (int i = 0; i < 3; i++) {
        H5Reader *r = h5_read_open(format("%s/checkpoint.h5", runs[i]), program_arena, &err);
        assert_non_null(r);
        assert_true(h5_read_tensor(r, "data/mean", H5_F32, SHAPE(1), &mean[i], &err));
    }
    assert_true(mean[0] == mean[2] && mean[1] != mean[2]);
}

static void test_calibration_is_on_those_images(void **state) {
    (void)state;
    train("early", "quant.start=0.9 train.steps=3");
    run(0, "eval early --calibrate 16");
    change_byte(TRAIN_IMAGES, 16, 1);
    assert_has(run(2, "eval early --calibrate 16").err, "other images with the same labels");
    run(0, "convert early --calibrate 16 data.changed=allow");
}

/* ---- Moving ---- */

static void check_everywhere(const char *directory) {
    run(0, "eval %s", directory);
    run(0, "convert %s", directory);
    run(0, "verify %s", directory);
    run(0, "train --resume %s train.steps=0", directory);
}

static void test_a_run_works_from_any_directory(void **state) {
    (void)state;
    train("anywhere", "train.steps=6");
    mkdir("inner", 0777);
    assert_int_equal(chdir("inner"), 0);
    check_everywhere("../anywhere");
    assert_int_equal(chdir(".."), 0);
    run(0, "train anywhere/config.yaml --out again"); /* whose paths are absolute */
    assert_int_equal(rename("anywhere", "inner/moved"), 0);
    check_everywhere("inner/moved");
}

static void check_lost(const char *command) {
    const char *message = run(2, "%s", command).err;
    assert_has(message, "lost/config.yaml:");
    assert_has(message, "/images: No such file or directory");
    assert_has(message, "data.path=...");
}

static void test_images_move(void **state) {
    (void)state;
    train("lost", "train.steps=6");
    remove_tree("elsewhere");
    assert_int_equal(rename("images", "elsewhere"), 0);
    run(2, "verify lost");
    check_lost("eval lost");
    check_lost("convert lost");
    check_lost("train --resume lost");
    run(0, "convert lost data.path=elsewhere");
    check_lost("verify lost");
    run(0, "verify lost data.path=elsewhere");
    run(0, "eval lost data.path=elsewhere");
    assert_has(run(2, "eval lost data.path=nowhere").err,
               "command line: data.path=nowhere: nowhere: No such file or directory");
    run(0, "train --resume lost data.path=elsewhere train.steps=0");
    run(0, "eval lost"); /* which knows by now */
}

static void test_first_weights_are_not_there(void **state) {
    (void)state;
    idx_folder("images");
    text_file("network.yaml", NETWORK);
    const char *message = run(2, "train network.yaml --out never train.init=gone").err;
    assert_has(message, "gone is no checkpoint, nor a run directory with one");
    assert_has(message, "start a run whose train.init says where it lies");
}

/* ---- Checkpoints of before ---- */

/* What `from` holds of weights, as the first version of the format has it. */
static void write_first_version(const char *from, const char *to) {
    Error err = {0};
    H5Reader *r = h5_read_open(from, program_arena, &err);
    H5Writer *w = h5_write_begin(to, 0, program_arena, &err);
    const char **names;
    int count = 0;
    assert_true(r && w && h5_read_names(r, "params", program_arena, &names, &count, &err));
    h5_write_int(w, "", "format_version", 1);
    h5_write_text(w, "config", h5_read_text(r, "config", program_arena, &err));
    for (int i = 0; i < count; i++) {
        const char *name = format("params/%s", names[i]);
        H5Info info;
        assert_true(h5_read_info(r, name, &info, &err));
        void *values = arena_zalloc(program_arena, (size_t)info.bytes);
        assert_true(h5_read_tensor(r, name, info.element, info.shape, values, &err));
        h5_write_tensor(w, name, info.element, info.shape, values);
    }
    assert_true(h5_write_commit(w, NULL, &err));
}

static void test_first_version_gives_weights_alone(void **state) {
    (void)state;
    train("old", "");
    write_first_version("old/checkpoint.h5", "first.h5");
    file_copy("first.h5", "old/checkpoint.h5");
    remove("old/best.h5");
    assert_has(
        run(2, "eval old").err,
        "old/checkpoint.h5: format version 1, which does not say what images the network "
        "was trained on; train again (train.init=old/checkpoint.h5 starts from its weights)");
    run(2, "train --resume old");
    run(0, "train network.yaml --out new train.init=old/checkpoint.h5");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_changed_training_images_change_no_bit),
        cmocka_unit_test(test_test_images_must_fit),
        cmocka_unit_test(test_resume_on_other_images),
        cmocka_unit_test(test_other_images_may_be_allowed),
        cmocka_unit_test(test_the_normalisation_stays),
        cmocka_unit_test(test_calibration_is_on_those_images),
        cmocka_unit_test(test_a_run_works_from_any_directory),
        cmocka_unit_test(test_images_move),
        cmocka_unit_test(test_first_weights_are_not_there),
        cmocka_unit_test(test_first_version_gives_weights_alone),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
