/* Names of classes that an HDF5 file has, as h5py stores what its users give it
 * (tests/golden/h5/make_names.py): they go with the model to its predictions. */
#include "tests/program.h"

static const char *top; /* of the source: tests run in a folder of their own */

static int enter(void **state) {
    static char here[4096];
    top = getcwd(here, sizeof here);
    return !top || program_folder_enter(state);
}

static void configure(const char *kind, const char *more) {
    text_file("names.yaml",
              arena_format(program_arena,
                           "model: {kind: mlp, widths: [4]}\n"
                           "data: {kind: hdf5, path: %s/tests/golden/h5/names_%s.h5, batch: 2, "
                           "validation: 0%s}\ntrain: {steps: 2}\nquant: {bits: 8}\n",
                           top, kind, more));
}

/* What a prediction calls the classes, and what it calls them after training with others. */
static void test_names_go_with_the_model(void **state) {
    (void)state;
    static const char *const kinds[] = {"variable", "fixed",     "objects",
                                        "utf8",     "attribute", "attribute_fixed"};
    static const unsigned char image[2];
    file_write("image", image, sizeof image);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        configure(kinds[i], "");
        run(0, "train names.yaml --out run --force");
        run(0, "convert run");
        const char *out = run(0, "predict run image --shape 1,2,1 --top 3").out;
        assert_has(out, " (cat) ");
        assert_has(out, strstr(kinds[i], "fixed") ? " (dog) " : " (d\xc3\xb6g) ");
        assert_has(out, " (bird) ");
        run(0, "convert run data.class_names=[x,y,z]");
        assert_has(run(0, "predict run image --shape 1,2,1 --top 3").out, " (y) ");
    }
}

static void check_refused(const char *kind, const char *message) {
    configure(kind, "");
    const char *error = run(2, "train names.yaml --out never").err;
    assert_has(error, "names.yaml:2:");
    assert_has(error, arena_format(program_arena, "names_%s.h5", kind));
    assert_has(error, message);
    configure(kind, ", class_names: [x, y, z]"); /* the file's are not looked at */
    run(0, "train names.yaml --out never --force");
    remove_tree("never");
}

static void test_other_names_are_refused(void **state) {
    (void)state;
    check_refused("four",
                  ", class_names has 4 names, but there are 3 classes; set data.classes, or "
                  "name them by data.class_names");
    configure("four", ", classes: 4");
    run(0, "train names.yaml --out run --force");
    check_refused("lines", ", class_names: name 1 must be one line of 1 to 256 bytes");
    check_refused("numbers", "\"class_names\" holds integers, expected text, [classes]");
    check_refused("group", "\"class_names\" is no data set, expected text, [classes]");
    check_refused("table", "\"class_names\" is text with 2 dimensions, expected [classes]");
}

/* A conversion reads the test images alone, whose labels may not show every class. */
static void test_a_conversion_checks_them_too(void **state) {
    (void)state;
    configure("variable", "");
    run(0, "train names.yaml --out run --force");
    assert_has(run(2, "convert run data.path=%s/tests/golden/h5/names_four.h5", top).err,
               "class_names has 4 names, but there are 3 classes");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_go_with_the_model),
        cmocka_unit_test(test_other_names_are_refused),
        cmocka_unit_test(test_a_conversion_checks_them_too),
    };
    return cmocka_run_group_tests(tests, enter, program_folder_leave);
}
