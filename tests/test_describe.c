/* What is said of data, and when it is warned. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

#include "data/describe.h"

static Arena *arena;

static int set_up(void **state) {
    (void)state;
    arena = arena_new("test");
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    arena_free(arena);
    return 0;
}

/* `images` of so many rows, whose labels run through `labels` classes from `first` on. */
static Dataset data_of(int64_t height, int64_t width, int64_t channels, int64_t images,
                       int32_t first, int32_t labels) {
    Dataset d = {.class_count = first + labels,
                 .height = height,
                 .width = width,
                 .channels = channels,
                 .pixel_type = PIXEL_U8};
    uint8_t *pixels = arena_zalloc(arena, (size_t)(images * height * width * channels));
    int32_t *own = arena_new_array(arena, int32_t, images);
    pixels[1] = 200;
    for (int64_t i = 0; i < images; i++) own[i] = first + (int32_t)(i % labels);
    d.train = d.test = (DatasetPart){images, pixels, own};
    return d;
}

static void test_lines(void **state) {
    (void)state;
    Dataset even = data_of(4, 5, 1, 30, 0, 3);
    assert_string_equal(dataset_description(&even, arena),
                        "data: 30 training and 30 test images of 4 x 5 x 1 (height, width, "
                        "channels), bytes from 0 to 200; 3 classes, 10 images each");
    Dataset uneven = data_of(4, 5, 1, 31, 0, 3);
    uneven.test.count = 2;
    assert_non_null(strstr(dataset_description(&uneven, arena), "3 classes of 11, 10, 10 images"));
    assert_non_null(strstr(dataset_description(&uneven, arena), "31 training and 2 test images"));
    Dataset many = data_of(4, 5, 1, 101, 0, 50);
    assert_non_null(strstr(dataset_description(&many, arena), "50 classes of 2 to 3 images"));
    Dataset most_shown = data_of(4, 5, 1, 41, 0, 20);
    assert_non_null(strstr(dataset_description(&most_shown, arena), "20 classes of 3, 2, 2, "));
    Dataset tests = data_of(4, 5, 1, 30, 0, 3);
    tests.train = (DatasetPart){0, NULL, NULL};
    memset((uint8_t *)(uintptr_t)tests.test.pixels, 7, 30 * 4 * 5);
    assert_string_equal(dataset_description(&tests, arena),
                        "data: 30 test images of 4 x 5 x 1 (height, width, channels), bytes from 7 "
                        "to 7; 3 classes, 10 images each");
    float values[20] = {-1.5f, 3};
    int32_t label = 0;
    Dataset floats = {.class_count = 2, .height = 4, .width = 5, .channels = 1};
    floats.pixel_type = PIXEL_F32;
    floats.train = (DatasetPart){1, values, &label};
    assert_non_null(strstr(dataset_description(&floats, arena), "floats from -1.5 to 3; "));
    assert_non_null(strstr(dataset_description(&floats, arena), "2 classes of 1, 0 images"));
    for (int i = 0; i < 20; i++) values[i] = -2 - 0.25f * (float)i;
    assert_non_null(strstr(dataset_description(&floats, arena), "floats from -6.75 to -2; "));
}

static void test_suspicions(void **state) {
    (void)state;
    Dataset d = data_of(28, 28, 1, 30, 0, 3);
    assert_null(dataset_suspicion(&d, arena));
    d = data_of(32, 32, 3, 30, 0, 3);
    assert_null(dataset_suspicion(&d, arena));
    d = data_of(1, 1, 784, 30, 0, 3); /* features */
    assert_null(dataset_suspicion(&d, arena));
    d = data_of(3, 3, 3, 30, 0, 3);
    assert_null(dataset_suspicion(&d, arena));
    d = data_of(4, 32, 4, 30, 0, 3);
    assert_null(dataset_suspicion(&d, arena));
    d = data_of(4, 32, 32, 30, 0, 3);
    assert_non_null(strstr(dataset_suspicion(&d, arena), "channels seem to come first"));
    d = data_of(3, 32, 32, 30, 0, 3);
    assert_non_null(strstr(dataset_suspicion(&d, arena), "channels seem to come first"));
    d = data_of(1, 28, 20, 30, 0, 3);
    assert_non_null(strstr(dataset_suspicion(&d, arena), "channels seem to come first"));
    d = data_of(28, 28, 1, 30, 1, 3);
    assert_non_null(strstr(dataset_suspicion(&d, arena), "labels seem to begin at 1"));
    d = data_of(28, 28, 1, 30, 2, 3); /* two numbers are unused: another reason */
    assert_null(dataset_suspicion(&d, arena));
}

static void test_declared_classes(void **state) {
    (void)state;
    Dataset d = data_of(4, 4, 1, 30, 1, 3);
    Error err = {0};
    int64_t classes;
    assert_false(dataset_classes("labels", &d.train, 3, &classes, &err));
    assert_non_null(
        strstr(err.message, "row 2 has label 3, expected 0 to 2; labels seem to begin"));
    d = data_of(4, 4, 1, 30, 0, 4);
    err = (Error){0};
    assert_false(dataset_classes("labels", &d.train, 3, &classes, &err));
    assert_null(strstr(err.message, "begin"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_lines, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_suspicions, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_declared_classes, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
