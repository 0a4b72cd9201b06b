/* Readers without memory: each allocation fails in turn, and no message blames the file. */
#include "tests/starve.h"

#include <png.h>
#include <zlib.h>

#include "core/json.h"
#include "core/settings/yaml.h"
#include "data/idx.h"
#include "data/images.h"

static char folder[] = "/tmp/test_memory_XXXXXX";

static int enter(void **state) {
    (void)state;
    return !mkdtemp(folder) || chdir(folder);
}

static int leave(void **state) {
    (void)state;
    return chdir("/") || rmdir(folder);
}

/* What ends the program says why. */
static void check(bool (*read)(Error *), long least) {
    long counts[STARVE_OUTCOMES];
    starve_each(NULL, read, counts);
    assert_int_equal(counts[STARVE_CRASHED], 0);
    assert_true(counts[STARVE_EXIT] + counts[STARVE_FAILED] >= least);
}

static bool read_yaml(Error *err) {
    static const char text[] = "model: {kind: mlp, widths: [16, 16]}\ntrain: {epochs: 4}\n";
    Arena *arena = arena_new("test");
    Faults faults = {.arena = arena};
    Node *root = NULL;
    bool is_read = yaml_read_text(text, strlen(text), "text", arena, &root, &faults, err);
    arena_free(arena);
    return is_read;
}

static bool read_json(Error *err) {
    static const char text[] = "{\"steps\": 3, \"name\": \"some words\", \"list\": [1, 2.5, {}]}";
    Json *json = json_read_text(text, strlen(text), "text", err);
    json_free(json);
    return json != NULL;
}

enum { SIDE = 8 };

static bool read_png(Error *err) {
    ImagesRequest request = {.path = "image.png", .size = SHAPE(SIDE, SIDE, 1), .type = PIXEL_U8};
    Images images;
    Arena *arena = arena_new("test");
    bool is_read = images_read(&request, arena, &images, err);
    arena_free(arena);
    return is_read;
}

static bool read_gzip(Error *err) {
    IdxArray array;
    Arena *arena = arena_new("test");
    bool is_read = idx_read("array.gz", arena, &array, err);
    arena_free(arena);
    return is_read;
}

static void test_yaml(void **state) {
    (void)state;
    if (!sandbox_bounds_memory()) skip();
    check(read_yaml, 20);
}

static void test_json(void **state) {
    (void)state;
    if (!sandbox_bounds_memory()) skip();
    check(read_json, 10);
}

static void test_png(void **state) {
    (void)state;
    if (!sandbox_bounds_memory()) skip();
    unsigned char pixels[SIDE * SIDE] = {0};
    png_image image = {
        .version = PNG_IMAGE_VERSION, .width = SIDE, .height = SIDE, .format = PNG_FORMAT_GRAY};
    assert_true(png_image_write_to_file(&image, "image.png", 0, pixels, 0, NULL));
    check(read_png, 5);
    unlink("image.png");
}

static void test_gzip(void **state) {
    (void)state;
    if (!sandbox_bounds_memory()) skip();
    static const unsigned char array[] = {0, 0, 8, 1, 0, 0, 0, 3, 1, 2, 3};
    gzFile file = gzopen("array.gz", "wb");
    assert_int_equal(gzwrite(file, array, sizeof array), sizeof array);
    gzclose(file);
    check(read_gzip, 3);
    unlink("array.gz");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_yaml), cmocka_unit_test(test_json),
                                       cmocka_unit_test(test_png), cmocka_unit_test(test_gzip)};
    return cmocka_run_group_tests(tests, enter, leave);
}
