/* Files of ours, and libhdf5, without memory: each allocation fails in turn; no message blames the
 * file, and none is written wrongly. */
#include "tests/starve.h"

#include "core/file.h"
#include "data/envelope.h"
#include "data/h5.h"
#include "data/h5_foreign.h"
#include "data/images.h"

/* ---- A file, read in every way there is ---- */

static char folder[] = "/tmp/test_h5_memory_XXXXXX";
static Arena *arena;

enum { COUNT = 1000 };

static int enter(void **state) {
    (void)state;
    arena = arena_new("test");
    return !mkdtemp(folder) || chdir(folder);
}

static int leave(void **state) {
    (void)state;
    arena_free(arena);
    unlink("file.h5");
    return chdir("/") || rmdir(folder);
}

static bool write_file(const char *path, Error *err) {
    float *values = arena_new_array(arena, float, COUNT);
    H5Writer *w = h5_write_begin(path, 0, arena, err);
    if (!w) return false;
    h5_write_tensor(w, "group/tensor", H5_F32, SHAPE(COUNT), values);
    h5_write_text(w, "text", "some words");
    h5_write_int(w, "group", "number", 7);
    h5_write_float(w, "group/tensor", "real", 0.5);
    return h5_write_commit(w, NULL, err);
}

/* What is there is read, what is not there is found absent, or `err` says why not. */
static bool read_parts(const H5Reader *r, Error *err) {
    bool exists = true, has = true;
    H5Info info;
    float values[COUNT];
    const char **names;
    int count;
    H5Number *numbers;
    int64_t number = 0;
    double real = 0;
    TRY(h5_read_exists(r, "absent", &exists, err));
    assert_false(exists);
    TRY(h5_read_exists(r, "group/tensor", &exists, err));
    assert_true(exists);
    TRY(h5_read_info(r, "group/tensor", &info, err));
    assert_int_equal(info.what, H5_TENSOR);
    TRY(h5_read_tensor(r, "group/tensor", H5_F32, SHAPE(COUNT), values, err));
    TRY(h5_read_rows(r, "group/tensor", 10, 20, values, err));
    const char *text = h5_read_text(r, "text", arena, err);
    if (!text) return false;
    assert_string_equal(text, "some words");
    TRY(h5_read_has_number(r, "group", "absent", &has, err));
    assert_false(has);
    TRY(h5_read_has_number(r, "group", "number", &has, err));
    assert_true(has);
    TRY(h5_read_int(r, "group", "number", &number, err));
    assert_int_equal(number, 7);
    TRY(h5_read_float(r, "group/tensor", "real", &real, err));
    TRY(h5_read_names(r, "", arena, &names, &count, err));
    assert_int_equal(count, 2);
    TRY(h5_read_numbers(r, "group", arena, &numbers, &count, err));
    assert_int_equal(count, 1);
    return true;
}

static bool read_sealed(Error *err) {
    Arena *file = arena_new("file");
    H5Reader *r = h5_read_open("file.h5", file, err);
    bool ok = r && read_parts(r, err);
    arena_free(file);
    return ok;
}

static bool write_images(const char *path, Error *err) {
    H5Writer *w = h5_write_begin(path, 0, arena, err);
    if (!w) return false;
    h5_write_tensor(w, "images", H5_U8, SHAPE(10, 10, 10), arena_zalloc(arena, COUNT));
    return h5_write_export(w, err);
}

static bool read_images(Error *err) {
    Images images;
    Arena *own = arena_new("images");
    bool ok = hdf5_read_images("images.h5", "images", own, &images, err);
    arena_free(own);
    return ok;
}

static bool read_foreign(Error *err) {
    FileMap map;
    H5Info info;
    float values[COUNT];
    const char **strings;
    int64_t count;
    TRY(file_map("file.h5", &map, err));
    H5Foreign *file = h5_foreign_open("file.h5", map.bytes, map.count, arena, err);
    bool ok = file && h5_foreign_info(file, "group/tensor", &info, err) &&
              h5_foreign_rows(file, "group/tensor", 10, 20, values, err) &&
              h5_foreign_strings(file, "absent", arena, &strings, &count, err);
    starve_allowed = -1;
    h5_foreign_close(file);
    file_unmap(map);
    return ok;
}

/* Our own code ends the program where there is no memory, and says so; it never crashes. */
static void check_each_allocation(bool (*use)(Error *)) {
    long counts[STARVE_OUTCOMES];
    Error err = {0};
    assert_true(write_file("file.h5", &err));
    starve_each(NULL, use, counts);
    assert_int_equal(counts[STARVE_CRASHED], 0);
    assert_true(counts[STARVE_EXIT] + counts[STARVE_FAILED] > 0);
}

/* The same bytes come to be as with all the memory it wants, or none. */
static bool write_again(Error *err) {
    bool is_written = write_file("again.h5", err);
    starve_allowed = -1;
    Envelope first, again;
    Error ignored = {0};
    bool is_there = envelope_open("again.h5", arena, &again, &ignored);
    if (!envelope_open("file.h5", arena, &first, &ignored)) return false;
    bool is_same = is_there && !memcmp(first.digest, again.digest, sizeof first.digest);
    unlink("again.h5");
    if (is_written ? is_same : !is_there) return is_written;
    *err = (Error){0}; /* what is neither is blamed wrongly */
    return FAIL(err, ERROR_INPUT, is_written ? "other bytes were written" : "a file was left");
}

static void test_writing(void **state) {
    (void)state;
    if (!sandbox_bounds_memory()) skip();
    check_each_allocation(write_again);
}

static void test_sealed_files(void **state) {
    (void)state;
    if (!sandbox_bounds_memory()) skip();
    check_each_allocation(read_sealed);
}

/* In the process that may die, what is a crash is a message. */
static void test_data_sets(void **state) {
    (void)state;
    if (!sandbox_bounds_memory()) skip();
    long counts[STARVE_OUTCOMES];
    Error err = {0};
    assert_true(write_images("images.h5", &err));
    starve_step = 11; /* no divisor of what libhdf5 does again and again */
    starve_each("hdf5", read_images, counts);
    starve_step = 1;
    assert_true(counts[STARVE_FAILED] > 10);
    assert_int_equal(counts[STARVE_CRASHED], 0);
    assert_int_equal(counts[STARVE_EXIT], 0);
    unlink("images.h5");
}

/* libhdf5 itself crashes after some: it is let near a file only where it may. */
static void test_foreign_files(void **state) {
    (void)state;
    if (!sandbox_bounds_memory()) skip();
    long counts[STARVE_OUTCOMES];
    Error err = {0};
    assert_true(write_file("file.h5", &err));
    starve_each("hdf5", read_foreign, counts);
    assert_true(counts[STARVE_FAILED] > 50);
    assert_int_equal(counts[STARVE_EXIT], 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_writing), cmocka_unit_test(test_sealed_files),
        cmocka_unit_test(test_foreign_files), cmocka_unit_test(test_data_sets)};
    return cmocka_run_group_tests(tests, enter, leave);
}
