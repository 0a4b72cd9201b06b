/* Files of other programs: what libhdf5 reads of them, what is refused, and that chunks are
 * inflated once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <hdf5.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/file.h"
#include "data/h5_foreign.h"

static Arena *arena;
static char folder[] = "/tmp/test_h5_foreign_XXXXXX";
static char golden[4096]; /* the path of foreign.h5 */

enum { VALUES = 60 };

static int enter(void **state) {
    (void)state;
    arena = arena_new("test");
    return !realpath("tests/golden/h5/foreign.h5", golden) || !mkdtemp(folder) || chdir(folder);
}

static int leave(void **state) {
    (void)state;
    arena_free(arena);
    return chdir("/") || rmdir(folder);
}

static H5Foreign *foreign_open(const char *path, Error *err) {
    size_t bytes;
    *err = (Error){0};
    const char *content = file_read(path, SIZE_MAX, arena, &bytes, err);
    return content ? h5_foreign_open(path, content, bytes, arena, err) : NULL;
}

/* libhdf5 reads what we write. */
static void test_libhdf5_agrees(void **state) {
    (void)state;
    Error err = {0};
    const char *path = "plain.h5", *name = "params/stage1.0.conv.weight";
    H5Writer *writer = h5_write_begin(path, 0, arena, &err);
    float weights[VALUES];
    for (int i = 0; i < VALUES; i++) weights[i] = (float)i / 3.0f;
    h5_write_tensor(writer, name, H5_F32, SHAPE(3, 2, 2, 5), weights);
    h5_write_text(writer, "config", "seed: 1\n");
    for (int i = 0; i < 40; i++) h5_write_int(writer, "many", arena_format(arena, "n%d", i), i);
    for (int i = 0; i < 400; i++)
        h5_write_tensor(writer, arena_format(arena, "many/%0300d", i), H5_I32, SHAPE(1), &i);
    assert_true(h5_write_export(writer, &err));
    H5Foreign *file = foreign_open(path, &err);
    if (!file) fail_msg("%s", err.message);
    H5Info info;
    float values[VALUES];
    if (!h5_foreign_info(file, name, &info, &err)) fail_msg("%s", err.message);
    assert_true(info.what == H5_TENSOR && shape_equal(info.shape, SHAPE(3, 2, 2, 5)));
    assert_true(h5_foreign_rows(file, name, 0, 3, values, &err));
    for (int i = 0; i < VALUES; i++) assert_true(values[i] == weights[i]);
    assert_true(h5_foreign_info(file, "config", &info, &err));
    assert_true(info.what == H5_TEXT && info.bytes == 8);
    for (int i = 0; i < 400; i++) {
        int32_t value;
        assert_true(
            h5_foreign_rows(file, arena_format(arena, "many/%0300d", i), 0, 1, &value, &err));
        assert_int_equal(value, i);
    }
    h5_foreign_close(file);
    unlink(path);
}

/* tests/golden/h5/foreign.h5 (make.py beside it) holds what is not accepted, and a few that are.
 */
static void test_foreign_features_are_refused(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"soft", "link to elsewhere"},
        {"beyond", "link to elsewhere"},
        {"soft_group/good", "link to elsewhere"},
        {"outside", "stored outside"},
        {"virtual", "stored outside"},
        {"szip_like", "filter"},
        {"rank5", "more than 4 dimensions"},
        {"compound", "element type"},
        {"varlen", "element type"},
        {"reference", "element type"},
        {"huge", "too many bytes"},
        {"named_type", "neither group nor tensor"},
    };
    Error err = {0};
    H5Foreign *file = foreign_open(golden, &err);
    if (!file) fail_msg("%s", err.message);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        H5Info info;
        err = (Error){0};
        if (h5_foreign_info(file, cases[i][0], &info, &err))
            fail_msg("%s was accepted", cases[i][0]);
        if (!strstr(err.message, cases[i][1]))
            fail_msg("%s: \"%s\" lacks \"%s\"", cases[i][0], err.message, cases[i][1]);
    }
    float good[6];
    static const char *const accepted[] = {"group/good", "chunked", "big_endian"};
    for (int i = 0; i < 3; i++) {
        err = (Error){0};
        if (!h5_foreign_rows(file, accepted[i], 0, 2, good, &err)) fail_msg("%s", err.message);
        for (int k = 0; k < 6; k++) assert_true(good[k] == (float)k);
    }
    h5_foreign_close(file);
}

/* ---- Chunks ---- */

static void chunked_add(hid_t file, const char *name, Shape shape, Shape chunk) {
    hsize_t dims[SHAPE_RANK_MAX], chunks[SHAPE_RANK_MAX];
    for (int i = 0; i < shape.rank; i++) {
        dims[i] = (hsize_t)shape.dim[i];
        chunks[i] = (hsize_t)chunk.dim[i];
    }
    hsize_t most[] = {H5S_UNLIMITED, H5S_UNLIMITED, H5S_UNLIMITED, H5S_UNLIMITED};
    hid_t space = H5Screate_simple(shape.rank, dims, most), options = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(options, shape.rank, chunks);
    H5Pset_deflate(options, 6);
    hid_t data = H5Dcreate2(file, name, H5T_STD_U8LE, space, H5P_DEFAULT, options, H5P_DEFAULT);
    assert_true(data >= 0);
    H5Dclose(data);
    H5Pclose(options);
    H5Sclose(space);
}

static void test_chunks_are_bounded(void **state) {
    (void)state;
    static const struct {
        Shape shape, chunk;
        int64_t rows;       /* or */
        const char *reason; /* why not */
    } cases[] = {
        {SHAPE(1000, 28, 28), SHAPE(64, 28, 28), 64, NULL},
        {SHAPE(1000, 28, 28), SHAPE(64, 14, 7), 64, NULL},
        {SHAPE(1000, 28, 28), SHAPE(1, 28, 28), 1, NULL},
        {SHAPE(10), SHAPE(4096), 4096, NULL}, /* as one that grows begins */
        {SHAPE(1 << 24, 8, 8), SHAPE(1 << 24, 8, 2), 0,
         "a row of its chunks takes 1073741824 bytes"},
        {SHAPE(10), SHAPE(1 << 30), 0, "store it in chunks of fewer rows"},
        {SHAPE(1 << 20, 1, 1), SHAPE(1, 1024, 1), 0,
         "\"x\": its chunks take 1073741824 bytes, "
         "itself 1048576; store it in smaller chunks"},
        {SHAPE((int64_t)1 << 33, 1 << 28, 2), SHAPE(1, 1, 1), 1,
         NULL}, /* refused by who asks for its bytes */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Error err;
        int64_t rows;
        hid_t id = H5Fcreate("chunks.h5", H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
        chunked_add(id, "x", cases[i].shape, cases[i].chunk);
        H5Fclose(id);
        H5Foreign *file = foreign_open("chunks.h5", &err);
        if (!file) fail_msg("%s", err.message);
        bool is_accepted = h5_foreign_chunk_rows(file, "x", &rows, &err);
        h5_foreign_close(file);
        assert_int_equal(is_accepted, !cases[i].reason);
        if (is_accepted) assert_int_equal(rows, cases[i].rows);
        if (!is_accepted && !strstr(err.message, cases[i].reason)) fail_msg("%s", err.message);
    }
    unlink("chunks.h5");
}

static void test_what_is_no_hdf5_file(void **state) {
    (void)state;
    Error err = {0};
    assert_null(h5_foreign_open("words", "words, words, words", 19, arena, &err));
    assert_non_null(strstr(err.message, "words: cannot open as HDF5: "));
    err = (Error){0};
    assert_null(h5_foreign_open("words", NULL, 0, arena, &err));
    assert_string_equal(err.message, "words: cannot open as HDF5: the file is empty");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_libhdf5_agrees),
        cmocka_unit_test(test_foreign_features_are_refused),
        cmocka_unit_test(test_chunks_are_bounded),
        cmocka_unit_test(test_what_is_no_hdf5_file),
    };
    return cmocka_run_group_tests(tests, enter, leave);
}
