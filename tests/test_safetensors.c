/* Files that the safetensors package wrote (tests/golden/make_safetensors.py), our own, and bad
 * ones.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/storage.h"
#include "data/safetensors.h"

#define GOLDEN "tests/golden/safetensors/model.safetensors"

typedef struct Fixture {
    Arena *arena;
    char directory[64];
    SafeTensors st;
    Error err;
} Fixture;

static Fixture set_up(void) {
    Fixture f = {.arena = arena_new("test"), .directory = "/tmp/nibble-safetensors-XXXXXX"};
    assert_non_null(mkdtemp(f.directory));
    return f;
}

static void tear_down(Fixture *f) {
    safetensors_close(&f->st);
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", f->directory);
    assert_int_equal(system(command), 0);
    arena_free(f->arena);
}

static const char *in(Fixture *f, const char *name) {
    return arena_format(f->arena, "%s/%s", f->directory, name);
}

static void write_bytes(const char *path, const void *bytes, size_t count) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    fclose(file);
}

/* ---- Reading ---- */

static void check_values(Fixture *f, const char *name, const float *wanted, int count) {
    const SafeTensor *t = safetensors_find(&f->st, name);
    float values[8];
    assert_non_null(t);
    assert_true(safetensors_read(&f->st, t, 0, count, values, &f->err));
    assert_memory_equal(values, wanted, sizeof *values * (size_t)count);
}

static void test_golden(void **state) {
    (void)state;
    Fixture f = set_up();
    if (!safetensors_open(GOLDEN, f.arena, &f.st, &f.err)) fail_msg("%s", f.err.message);
    assert_int_equal(f.st.count, 6);
    static const float f32[] = {0.5f, -1.25f, 3e-5f, 65504, -0.0f, 2};
    static const float f16[] = {0.5f, -1.25f, 0x1.f7p-16f, 65504, -0.0f, 2};
    static const float bf16[] = {0.5f, -1.25f, 0x1.f8p-16f, 65536, -0.0f, 2};
    check_values(&f, "model.layers.0.f32", f32, 6);
    check_values(&f, "model.layers.0.f16", f16, 6);
    check_values(&f, "model.layers.0.bf16", bf16, 6);
    check_values(&f, "scalar", (const float[]){7}, 1);
    check_values(&f, "empty", NULL, 0);
    const SafeTensor *part = safetensors_find(&f.st, "model.layers.0.f16");
    float two[2];
    assert_true(safetensors_read(&f.st, part, 3, 2, two, &f.err));
    assert_memory_equal(two, f16 + 3, sizeof two);
    const SafeTensor *ids = safetensors_find(&f.st, "ids");
    int64_t numbers[5];
    assert_string_equal(ids->type, "I64");
    assert_true(safetensors_read_bytes(&f.st, ids, numbers, &f.err));
    for (int i = 0; i < 5; i++) assert_int_equal(numbers[i], i);
    assert_false(safetensors_read(&f.st, ids, 0, 1, two, &f.err));
    assert_string_equal(f.err.message,
                        GOLDEN ": tensor 'ids' is of I64, of which nibble reads no numbers");
    assert_null(safetensors_find(&f.st, "model"));
    tear_down(&f);
}

/* ---- Writing ---- */

static void test_written(void **state) {
    (void)state;
    enum { COUNT = 70000 }; /* more than is decoded at a time */
    Fixture f = set_up();
    float *x = arena_new_array(f.arena, float, COUNT),
          *again = arena_new_array(f.arena, float, COUNT);
    for (int i = 0; i < COUNT; i++) x[i] = (float)(i % 251) - 125;
    Storage storage = {.dtype = DTYPE_BF16};
    SafeTensorData data[] = {
        {"a \"quoted\"\n.name", {.dtype = DTYPE_F32, .shape = SHAPE(2, 2), .data = x}},
        {"large", {0}},
        {"none", {.dtype = DTYPE_F32, .shape = SHAPE(3, 0), .data = x}},
    };
    assert_true(
        tensor_encode(f.arena, x, SHAPE(COUNT / 100, 100), &storage, &data[1].tensor, &f.err));
    const char *const metadata[] = {"format", "pt", "by", "nibble", NULL};
    const char *path = in(&f, "model.safetensors");
    assert_true(safetensors_write(path, data, 3, metadata, &f.err));
    if (!safetensors_open(f.directory, f.arena, &f.st, &f.err)) fail_msg("%s", f.err.message);
    assert_int_equal(f.st.count, 3);
    check_values(&f, "a \"quoted\"\n.name", x, 4);
    const SafeTensor *large = safetensors_find(&f.st, "large");
    assert_true(shape_equal(large->shape, SHAPE(COUNT / 100, 100)));
    assert_true(safetensors_read(&f.st, large, 0, COUNT, again, &f.err));
    assert_memory_equal(again, x, sizeof *x * COUNT); /* small integers, which bf16 holds */
    unsigned char head[8];
    FILE *file = fopen(path, "r");
    assert_int_equal(fread(head, 1, 8, file), 8);
    fclose(file);
    assert_int_equal(head[0] % 8, 0); /* tensors are aligned */
    tear_down(&f);
}

/* ---- Directories ---- */

static void write_one(Fixture *f, const char *file, const char *name) {
    static float x[2] = {1, 2};
    SafeTensorData data = {name, {.dtype = DTYPE_F32, .shape = SHAPE(2), .data = x}};
    assert_true(safetensors_write(in(f, file), &data, 1, NULL, &f->err));
}

static void write_index(Fixture *f, const char *text) {
    write_bytes(in(f, "model.safetensors.index.json"), text, strlen(text));
}

static void test_index(void **state) {
    (void)state;
    Fixture f = set_up();
    write_one(&f, "one.safetensors", "a");
    write_one(&f, "two.safetensors", "b.c");
    write_index(&f, "{\"weight_map\": {\"b.c\": \"two.safetensors\", \"a\": \"one.safetensors\"}}");
    if (!safetensors_open(f.directory, f.arena, &f.st, &f.err)) fail_msg("%s", f.err.message);
    assert_int_equal(f.st.count, 2);
    check_values(&f, "a", (const float[]){1, 2}, 2);
    check_values(&f, "b.c", (const float[]){1, 2}, 2);
    tear_down(&f);
}

static void check_index(const char *index, const char *message) {
    Fixture f = set_up();
    write_one(&f, "one.safetensors", "a");
    write_one(&f, "again.safetensors", "a");
    if (index) write_index(&f, index);
    assert_false(safetensors_open(f.directory, f.arena, &f.st, &f.err));
    assert_int_equal(f.err.code, ERROR_INPUT);
    if (!strstr(f.err.message, message)) fail_msg("'%s' is not in '%s'", message, f.err.message);
    tear_down(&f);
}

static void test_bad_indexes(void **state) {
    (void)state;
    check_index(NULL, "holds neither model.safetensors nor model.safetensors.index.json");
    check_index("{}", "model.safetensors.index.json: has no 'weight_map'");
    check_index("{\"weight_map\": {\"a\": \"../one.safetensors\"}}",
                "'a' lies in a file that is not beside the index: '../one.safetensors'");
    check_index("{\"weight_map\": {\"a\": \"/etc/passwd\"}}",
                "'a' lies in a file that is not beside the index: '/etc/passwd'");
    check_index("{\"weight_map\": {\"a\": 1}}",
                "'a' lies in a file that is not beside the index: ''");
    check_index("{\"weight_map\": {\"a\": \"no.safetensors\"}}", "no.safetensors");
    check_index("{\"weight_map\": {\"b\": \"one.safetensors\"}}", "'b' is not in one.safetensors");
    check_index("{\"weight_map\": {\"a\": \"one.safetensors\", \"b\": \"again.safetensors\"}}",
                "tensor 'a' is in ");
}

/* ---- Bad files ---- */

/* `claim` below 0: the header's own length. */
static void check_file(long claim, const char *header, int data_bytes, const char *message) {
    Fixture f = set_up();
    unsigned char bytes[1024] = {0};
    size_t length = strlen(header);
    uint64_t count = claim < 0 ? length : (uint64_t)claim;
    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)(count >> 8 * i);
    memcpy(bytes + 8, header, length);
    const char *path = in(&f, "x.safetensors");
    write_bytes(path, bytes, 8 + length + (size_t)data_bytes);
    assert_false(safetensors_open(path, f.arena, &f.st, &f.err));
    assert_int_equal(f.err.code, ERROR_INPUT);
    const char *wanted = arena_format(f.arena, "%s: %s", path, message);
    if (strncmp(f.err.message, wanted, strlen(wanted)))
        fail_msg("expected '%s', got '%s'", wanted, f.err.message);
    assert_true(arena_peak(f.arena) < 1 << 20);
    tear_down(&f);
}

#define ONE(rest) "{\"a\": {" rest "}}"
static void test_bad_files(void **state) {
    (void)state;
    check_file(1L << 62, "{}", 0,
               "its header claims 4611686018427387904 bytes, but the file has 10");
    check_file(3, "{}", 0, "its header claims 3 bytes, but the file has 10");
    check_file(-1, "{", 0, "header:1:1: not valid JSON");
    check_file(-1, "[]", 0, "header: expected a JSON object");
    check_file(-1, "{\"a\": {}, \"a\": {}}", 0, "header:1:");
    check_file(-1, "{\"a\": 1}", 0, "tensor 'a': is no object");
    check_file(-1, ONE("\"dtype\": \"F33\""), 0,
               "tensor 'a': has a dtype that nibble does not know");
    check_file(-1, ONE("\"dtype\": \"F32\""), 0, "tensor 'a': 'shape' must be a list");
    check_file(-1, ONE("\"dtype\": \"F32\", \"shape\": [-1]"), 0,
               "tensor 'a': dimension 0 is no count");
    check_file(-1, ONE("\"dtype\": \"F32\", \"shape\": [1,1,1,1,1]"), 4,
               "tensor 'a': has 5 dimensions; nibble reads up to 4");
    check_file(-1, ONE("\"dtype\": \"F32\", \"shape\": [1]"), 4,
               "tensor 'a': 'data_offsets' must be two counts");
    check_file(-1, ONE("\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 8]"), 4,
               "tensor 'a': lies at 0 to 8, but the file has 4 bytes of data");
    check_file(-1, ONE("\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [8, 0]"), 8,
               "tensor 'a': lies at 8 to 0, but");
    check_file(-1, ONE("\"dtype\": \"F32\", \"shape\": [3], \"data_offsets\": [0, 8]"), 8,
               "tensor 'a': [3] of F32 does not have the 8 bytes that it is given");
    check_file(-1,
               ONE("\"dtype\": \"F32\", \"shape\": [4194305, 4194305, 211106198978564], "
                   "\"data_offsets\": [0, 16]"),
               16,
               "tensor 'a': [4194305, 4194305, 211106198978564] of F32 does not have the 16 bytes");
    check_file(-1, ONE("\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]"), 5,
               "1 bytes at its end belong to no tensor");
    check_file(-1, ONE("\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [4, 8]"), 8,
               "tensor 'a' leaves bytes before it that belong to none");
    check_file(-1,
               "{\"a\": {\"dtype\": \"U8\", \"shape\": [4], \"data_offsets\": [0, 4]}, "
               "\"b\": {\"dtype\": \"U8\", \"shape\": [4], \"data_offsets\": [2, 6]}}",
               6, "tensor 'b' lies over the one before it");
    check_file(-1, ONE("\"dtype\": \"F4\", \"shape\": [3], \"data_offsets\": [0, 1]"), 1,
               "tensor 'a': [3] of F4 does not have the 1 bytes");
}

static void test_too_short(void **state) {
    (void)state;
    Fixture f = set_up();
    const char *path = in(&f, "x.safetensors");
    write_bytes(path, "1234567", 7);
    assert_false(safetensors_open(path, f.arena, &f.st, &f.err));
    assert_string_equal(f.err.message,
                        arena_format(f.arena, "%s: is too short to be of safetensors", path));
    tear_down(&f);
}

/* A file that was cut after it was opened is an error, and no crash. */
static void test_cut_while_open(void **state) {
    (void)state;
    Fixture f = set_up();
    write_one(&f, "model.safetensors", "a");
    assert_true(safetensors_open(f.directory, f.arena, &f.st, &f.err));
    off_t half = (off_t)f.st.items[0].offset + 4;
    assert_int_equal(truncate(in(&f, "model.safetensors"), half), 0);
    float two[2];
    assert_false(safetensors_read(&f.st, safetensors_find(&f.st, "a"), 0, 2, two, &f.err));
    assert_non_null(
        strstr(f.err.message, "tensor 'a' cannot be read: the file has become shorter"));
    tear_down(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),         cmocka_unit_test(test_written),
        cmocka_unit_test(test_index),          cmocka_unit_test(test_bad_indexes),
        cmocka_unit_test(test_bad_files),      cmocka_unit_test(test_too_short),
        cmocka_unit_test(test_cut_while_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
