/* Digests of training images, and what is said of other ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "data/facts.h"

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

/* Of XXH3-128 with seed 0, as xxhsum -H2 prints it for a file of these bytes. */
static const char digest_of_nothing[] = "99aa06d3014798d86001c324468d497f";

static const unsigned char pixels[8] = {1, 2, 3, 4, 5, 6, 7, 8}, others[8] = {1, 2, 3, 4, 5, 6, 7};
static const int32_t labels[2] = {0, 1}, swapped[2] = {1, 0};

static DataFacts facts(int64_t images, const void *values, const int32_t *classes) {
    Dataset dataset = {.class_count = 2,
                       .height = 2,
                       .width = 2,
                       .channels = 1,
                       .train = {images, values, classes}};
    return facts_of(&dataset);
}

static void the_digests_are_those_of_other_tools(void **state) {
    (void)state;
    DataFacts none = facts(0, pixels, labels);
    assert_string_equal(none.images_digest, digest_of_nothing);
    assert_string_equal(none.labels_digest, digest_of_nothing);
    DataFacts two = facts(2, pixels, labels);
    assert_string_equal(two.images_digest, "2ab463fddb09a0b83e8675c57268fb02");
    assert_string_equal(two.labels_digest, "cf68e872ea7766f66c3911ab3c2c7521");
}

static void differences_are_named(void **state) {
    (void)state;
    DataFacts then = facts(2, pixels, labels), now = facts(2, pixels, labels);
    assert_null(facts_difference(&then, &now, arena));
    now = facts(2, pixels, swapped);
    assert_string_equal(facts_difference(&then, &now, arena), "other labels of the same images");
    now = facts(2, others, labels);
    assert_string_equal(facts_difference(&then, &now, arena), "other images with the same labels");
    now = facts(2, others, swapped);
    assert_string_equal(facts_difference(&then, &now, arena),
                        "other images and labels, as many and as large");
    now = facts(1, pixels, labels);
    assert_string_equal(facts_difference(&then, &now, arena),
                        "1 images of 2x2x1 (bytes) in 2 classes instead of 2 of 2x2x1 (bytes) in "
                        "2 classes");
}

static void another_size_does_not_fit(void **state) {
    (void)state;
    DataFacts then = facts(2, pixels, labels);
    then.path = "run/best.h5";
    for (int what = 0; what < 6; what++) {
        DataFacts now = facts(2, pixels, labels);
        Error err = {0};
        if (what == 0) now.images = 7;
        if (what == 1) now.height = 7;
        if (what == 2) now.width = 7;
        if (what == 3) now.channels = 7;
        if (what == 4) now.class_count = 7;
        if (what == 5) now.pixel_type = PIXEL_F32;
        assert_int_equal(facts_check_fit(&then, &now, "test", &err), what == 0);
        if (what == 0) continue;
        assert_int_equal(err.code, ERROR_INPUT);
        assert_non_null(strstr(err.message, "the test images are "));
        assert_non_null(
            strstr(err.message, ", but the network of run/best.h5 was trained on 2x2x1 "));
    }
}

/* Where both are known; of an older file nothing is. */
static void another_tokenizer_does_not_fit(void **state) {
    (void)state;
    static const char *const digests[] = {"0123456789abcdef0123456789abcdef",
                                          "1123456789abcdef0123456789abcdef", NULL};
    for (int a = 0; a < 3; a++)
        for (int b = 0; b < 3; b++) {
            Dataset dataset = {.class_count = 2, .height = 2, .width = 1, .channels = 1};
            dataset.tokenizer_digest = digests[a];
            DataFacts then = facts_of(&dataset);
            dataset.tokenizer_digest = digests[b];
            dataset.tokenizer = "NAME";
            DataFacts now = facts_of(&dataset);
            Error err = {0};
            bool fits = a == b || !digests[a] || !digests[b];
            assert_int_equal(facts_check_fit(&then, &now, "test", &err), fits);
            if (fits) continue;
            assert_int_equal(err.code, ERROR_INPUT);
            assert_memory_equal(err.message, "NAME is not the tokenizer that the network", 42);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_digests_are_those_of_other_tools, set_up, tear_down),
        cmocka_unit_test_setup_teardown(differences_are_named, set_up, tear_down),
        cmocka_unit_test_setup_teardown(another_size_does_not_fit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(another_tokenizer_does_not_fit, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
