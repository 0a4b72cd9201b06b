/* The largest images and the most classes: what is trained can be converted, opened and reported.
 */
#include "tests/program.h"

#include "data/dataset.h"
#include "data/h5.h"

enum { COUNT = 6 };

/* COUNT images of one pixel with `channels` numbers, the same for training and test. */
static void write_images(const char *path, int64_t channels) {
    static const int32_t labels[COUNT] = {0, 1, 0, 1, 0, 1};
    unsigned char *pixels = arena_zalloc(program_arena, (size_t)(COUNT * channels));
    for (int64_t i = 0; i < COUNT * channels; i++) pixels[i] = (unsigned char)(i * 7 % 251);
    Error err = {0};
    H5Writer *w = h5_write_begin(path, 0, program_arena, &err);
    h5_write_tensor(w, "train_images", H5_U8, SHAPE(COUNT, channels), pixels);
    h5_write_tensor(w, "train_labels", H5_I32, SHAPE(COUNT), labels);
    h5_write_tensor(w, "test_images", H5_U8, SHAPE(COUNT, channels), pixels);
    h5_write_tensor(w, "test_labels", H5_I32, SHAPE(COUNT), labels);
    if (!h5_write_export(w, &err)) fail_msg("%s", err.message);
}

static void configure(const char *more) {
    text_file(
        "limits.yaml",
        format("model: {kind: mlp, widths: [2]}\n"
               "data: {kind: hdf5, path: images.h5, batch: 2, eval_batch: 2, validation: 0%s}\n"
               "train: {steps: 2}\nquant: {bits: 8}\n",
               more));
}

static void check_shipped(int64_t channels) {
    write_images("images.h5", channels);
    configure("");
    run(0, "train limits.yaml --out run --force");
    run(0, "convert run");
    run(0, "verify run");
}

static void test_the_largest_images_are_shipped(void **state) {
    (void)state;
    check_shipped(70000);
    run(0, "predict run images.h5");
    run(0, "train --resume run train.steps=3");
    check_shipped(DATASET_SIDE_MAX);
}

static void test_larger_images_are_refused_before_training(void **state) {
    (void)state;
    write_images("images.h5", DATASET_SIDE_MAX + 1);
    configure("");
    assert_has(run(2, "train limits.yaml --out never").err,
               "images.h5: images of channels 1048577, expected 1 to 1048576: make them smaller");
    assert_false(file_exists("never"));
}

/* A matrix of more classes is not read by anyone, and would be the whole file; the scores stay. */
static void check_matrix(int classes, bool is_there) {
    configure(format(", classes: %d", classes));
    run(0, "train limits.yaml --out run --force");
    Json *summary = json_of(file_text("run/summary.json"));
    assert_int_equal(json_count(summary, "confusion"), is_there ? classes : 0);
    fraction_of(summary, "test.accuracy");
    assert_true(json_count(summary, "layers") > 0);
    json_free(summary);
    const char *report = file_text("run/report.html");
    const char *told = "There are too many classes for a matrix.";
    assert_true(is_there == (strstr(report, "<table class=\"matrix") != NULL));
    assert_true(is_there == (strstr(report, told) == NULL));
}

static void test_many_classes_make_no_matrix(void **state) {
    (void)state;
    write_images("images.h5", 4);
    check_matrix(200, true);
    check_matrix(201, false);
}

static void test_the_matrix_has_the_names_of_the_classes(void **state) {
    (void)state;
    write_images("images.h5", 4);
    configure(", class_names: [cat, <dog>]");
    run(0, "train limits.yaml --out run --force");
    Json *summary = json_of(file_text("run/summary.json"));
    assert_int_equal(json_count(summary, "classes"), 2);
    assert_string_equal(json_get_text(summary, "classes.1"), "<dog>");
    json_free(summary);
    assert_has(file_text("run/report.html"), "<th scope=\"row\">&lt;dog&gt;</th>");
    configure("");
    run(0, "train limits.yaml --out run --force");
    summary = json_of(file_text("run/summary.json"));
    assert_int_equal(json_count(summary, "classes"), 0);
    json_free(summary);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_largest_images_are_shipped),
        cmocka_unit_test(test_larger_images_are_refused_before_training),
        cmocka_unit_test(test_many_classes_make_no_matrix),
        cmocka_unit_test(test_the_matrix_has_the_names_of_the_classes),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
