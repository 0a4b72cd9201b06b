/* Files that hold what nibble does not write, or that somebody changed and sealed again: each is
 * refused with what was found, none is read beyond its bytes. Files as libhdf5 writes them, whose
 * links and attributes lie in heaps under trees, are read as ever. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/file.h"
#include "core/random.h"
#include "data/h5_tree.h"

static char folder[] = "/tmp/test_h5_tree_XXXXXX";
static Arena *arena;

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

/* ---- Bytes of a file, and what becomes of them ---- */

typedef struct Body {
    unsigned char *bytes; /* of its own allocation, so that a sanitizer sees its end */
    size_t count;
} Body;

static Body body_load(void) {
    Error err = {0};
    Body body;
    char *text = file_read("file.h5", SIZE_MAX, arena, &body.count, &err);
    if (!text) fail_msg("%s", err.message);
    body.bytes = memcpy(malloc(body.count), text, body.count);
    return body;
}

static bool body_read(Body body, H5Node *root, Error *err) {
    *err = (Error){0};
    return h5_tree_read("file.h5", body.bytes, body.count, arena, root, err);
}

static void expect_refused(Body body, const char *what, const char *reason) {
    Error err;
    H5Node root;
    if (body_read(body, &root, &err)) fail_msg("%s: was read", what);
    assert_int_equal(err.code, ERROR_INPUT);
    if (!strstr(err.message, reason))
        fail_msg("%s: \"%s\" lacks \"%s\"", what, err.message, reason);
}

static const H5Node *node_of(const H5Node *node, const char *name) {
    for (int i = 0; i < node->node_count; i++)
        if (!strcmp(node->nodes[i].name, name)) return &node->nodes[i];
    fail_msg("no %s", name);
    return NULL;
}

/* ---- Files that libhdf5 writes ---- */

/* In its way, but for times, as nibble once wrote. */
static hid_t hdf5_create(void) {
    hid_t access = H5Pcreate(H5P_FILE_ACCESS), options = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
    H5Pset_obj_track_times(options, false);
    hid_t file = H5Fcreate("file.h5", H5F_ACC_TRUNC, options, access);
    assert_true(file >= 0);
    H5Pclose(access);
    H5Pclose(options);
    return file;
}

static hid_t plain_options(hid_t class) {
    hid_t options = H5Pcreate(class);
    H5Pset_obj_track_times(options, false);
    return options;
}

static void group_add(hid_t file, const char *name) {
    hid_t options = plain_options(H5P_GROUP_CREATE);
    hid_t group = H5Gcreate2(file, name, H5P_DEFAULT, options, H5P_DEFAULT);
    assert_true(group >= 0);
    H5Gclose(group);
    H5Pclose(options);
}

/* With the value 3 where it holds one number. */
static void data_add(hid_t file, const char *name, hid_t type, hid_t space, hid_t options) {
    int value = 3;
    hid_t used = options < 0 ? plain_options(H5P_DATASET_CREATE) : options;
    hid_t data = H5Dcreate2(file, name, type, space, H5P_DEFAULT, used, H5P_DEFAULT);
    assert_true(data >= 0);
    if (H5Sget_simple_extent_npoints(space) == 1 && H5Tequal(type, H5T_STD_I32LE) > 0)
        H5Dwrite(data, H5T_NATIVE_INT, H5S_ALL, H5S_ALL, H5P_DEFAULT, &value);
    H5Dclose(data);
    H5Pclose(used);
}

static void scalar_add(hid_t file, const char *name) {
    hid_t space = H5Screate(H5S_SCALAR);
    data_add(file, name, H5T_STD_I32LE, space, -1);
    H5Sclose(space);
}

static void number_add(hid_t object, const char *name, int64_t value) {
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t id = H5Acreate2(object, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT);
    assert_true(id >= 0);
    H5Awrite(id, H5T_NATIVE_INT64, &value);
    H5Aclose(id);
    H5Sclose(space);
}

static void many_add(hid_t file, int links, int name_bytes, int numbers) {
    group_add(file, "many");
    for (int i = 0; i < links; i++)
        scalar_add(file, arena_format(arena, "many/%0*d", name_bytes, i * 7 % links));
    hid_t group = H5Gopen2(file, "many", H5P_DEFAULT);
    for (int i = 0; i < numbers; i++) number_add(group, arena_format(arena, "n%04d", i), i);
    H5Gclose(group);
}

/* From nine on they are kept elsewhere; many make trees of several levels, heaps of blocks of
 * blocks. */
static void test_many_links_and_numbers(void **state) {
    (void)state;
    static const struct {
        int links, name_bytes, numbers;
    } cases[] = {{8, 8, 8}, {9, 8, 9}, {40, 100, 40}, {701, 30, 700}, {3001, 250, 20}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Error err;
        H5Node root;
        ArenaMark mark = arena_mark(arena);
        hid_t file = hdf5_create();
        many_add(file, cases[i].links, cases[i].name_bytes, cases[i].numbers);
        H5Fclose(file);
        Body body = body_load();
        if (!body_read(body, &root, &err)) fail_msg("%s", err.message);
        const H5Node *many = node_of(&root, "many");
        assert_int_equal(many->node_count, cases[i].links);
        assert_int_equal(many->number_count, cases[i].numbers);
        for (int k = 0; k < cases[i].links; k++) {
            assert_string_equal(many->nodes[k].name,
                                arena_format(arena, "%0*d", cases[i].name_bytes, k));
            assert_int_equal(many->nodes[k].info.bytes, 4);
            assert_memory_equal(many->nodes[k].data, "\3\0\0\0", 4);
        }
        for (int k = 0; k < cases[i].numbers; k++) assert_int_equal(many->numbers[k].integer, k);
        free(body.bytes);
        arena_rewind(arena, mark);
    }
}

static void add_soft_link(hid_t file) {
    H5Lcreate_soft("/elsewhere", file, "x", H5P_DEFAULT, H5P_DEFAULT);
}

static void add_external_link(hid_t file) {
    H5Lcreate_external("other.h5", "/", file, "x", H5P_DEFAULT, H5P_DEFAULT);
}

static void add_second_name(hid_t file) {
    scalar_add(file, "x");
    H5Lcreate_hard(file, "x", file, "y", H5P_DEFAULT, H5P_DEFAULT);
}

static void add_cycle(hid_t file) {
    group_add(file, "x");
    H5Lcreate_hard(file, "x", file, "x/x", H5P_DEFAULT, H5P_DEFAULT);
}

static void add_depth(hid_t file) {
    char name[64] = "x";
    for (int i = 0; i <= H5_DEPTH_MAX; i++, strcat(name, "/x")) group_add(file, name);
}

static void add_chunks(hid_t file) {
    hsize_t dims[] = {8}, chunk[] = {4};
    hid_t space = H5Screate_simple(1, dims, NULL), options = plain_options(H5P_DATASET_CREATE);
    H5Pset_chunk(options, 1, chunk);
    data_add(file, "x", H5T_STD_I32LE, space, options);
    H5Sclose(space);
}

static void add_filter(hid_t file) {
    hsize_t dims[] = {8}, chunk[] = {8};
    hid_t space = H5Screate_simple(1, dims, NULL), options = plain_options(H5P_DATASET_CREATE);
    H5Pset_chunk(options, 1, chunk);
    H5Pset_deflate(options, 6);
    data_add(file, "x", H5T_STD_I32LE, space, options);
    H5Sclose(space);
}

static void add_compact(hid_t file) {
    hid_t space = H5Screate(H5S_SCALAR), options = plain_options(H5P_DATASET_CREATE);
    H5Pset_layout(options, H5D_COMPACT);
    data_add(file, "x", H5T_STD_I32LE, space, options);
    H5Sclose(space);
}

static void add_external(hid_t file) {
    hsize_t dims[] = {8};
    hid_t space = H5Screate_simple(1, dims, NULL), options = plain_options(H5P_DATASET_CREATE);
    H5Pset_external(options, "/etc/passwd", 0, 32);
    data_add(file, "x", H5T_STD_I32LE, space, options);
    H5Sclose(space);
}

static void add_rank5(hid_t file) {
    hsize_t dims[] = {1, 1, 1, 1, 1};
    hid_t space = H5Screate_simple(5, dims, NULL);
    data_add(file, "x", H5T_STD_I32LE, space, -1);
    H5Sclose(space);
}

static void add_null(hid_t file) {
    hid_t space = H5Screate(H5S_NULL);
    data_add(file, "x", H5T_STD_I32LE, space, -1);
    H5Sclose(space);
}

static void add_big_endian(hid_t file) {
    hid_t space = H5Screate(H5S_SCALAR);
    data_add(file, "x", H5T_STD_I32BE, space, -1);
    H5Sclose(space);
}

static void add_texts(hid_t file) {
    hsize_t dims[] = {2};
    hid_t space = H5Screate_simple(1, dims, NULL), type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, 4);
    data_add(file, "x", type, space, -1);
    H5Tclose(type);
    H5Sclose(space);
}

static void add_named_type(hid_t file) {
    hid_t type = H5Tcopy(H5T_STD_I32LE), options = plain_options(H5P_DATATYPE_CREATE);
    H5Tcommit2(file, "x", type, H5P_DEFAULT, options, H5P_DEFAULT);
    H5Tclose(type);
    H5Pclose(options);
}

static void add_shared_type(hid_t file) {
    hid_t space = H5Screate(H5S_SCALAR);
    add_named_type(file);
    H5Lmove(file, "x", file, "y", H5P_DEFAULT, H5P_DEFAULT);
    hid_t type = H5Topen2(file, "y", H5P_DEFAULT);
    data_add(file, "x", type, space, -1);
    H5Tclose(type);
    H5Sclose(space);
}

static void add_comment(hid_t file) {
    scalar_add(file, "x");
    H5Oset_comment_by_name(file, "x", "words", H5P_DEFAULT);
}

static void add_array_attribute(hid_t file) {
    hsize_t dims[] = {2};
    hid_t space = H5Screate_simple(1, dims, NULL);
    scalar_add(file, "x");
    hid_t id = H5Acreate_by_name(file, "x", "n", H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT,
                                 H5P_DEFAULT);
    H5Aclose(id);
    H5Sclose(space);
}

/* Each link gets a part of its own where the header cannot grow. */
static void add_parts(hid_t file) {
    hid_t options = plain_options(H5P_GROUP_CREATE);
    H5Pset_link_phase_change(options, 5000, 0);
    H5Gclose(H5Gcreate2(file, "x", H5P_DEFAULT, options, H5P_DEFAULT));
    H5Pclose(options);
    for (int i = 0; i < 300; i++) scalar_add(file, arena_format(arena, "x/%04d", i));
}

static void add_times(hid_t file) {
    H5Gclose(H5Gcreate2(file, "x", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    hid_t options = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate(H5S_SCALAR);
    H5Pset_obj_track_times(options, true);
    data_add(file, "y", H5T_STD_I32LE, space, options);
    H5Sclose(space);
}

static void add_order(hid_t file) {
    hid_t options = plain_options(H5P_GROUP_CREATE);
    H5Pset_link_creation_order(options, H5P_CRT_ORDER_TRACKED);
    H5Gclose(H5Gcreate2(file, "x", H5P_DEFAULT, options, H5P_DEFAULT));
    H5Pclose(options);
}

static void test_what_nibble_does_not_write(void **state) {
    (void)state;
    static const struct {
        const char *what;
        void (*add)(hid_t file);
        const char *reason;
    } cases[] = {
        {"soft link", add_soft_link, "a link to elsewhere"},
        {"external link", add_external_link, "a link to elsewhere"},
        {"two names", add_second_name, "belongs to two groups, or to itself"},
        {"cycle", add_cycle, "\"x\": belongs to two groups, or to itself"},
        {"depth", add_depth, "lies too deep"},
        {"chunks", add_chunks, "\"x\": is not stored in one piece"},
        {"filter", add_filter, "\"x\": "},
        {"compact", add_compact, "\"x\": is not stored in one piece"},
        {"external", add_external, "\"x\": "},
        {"rank 5", add_rank5, "\"x\": has more than 4 dimensions"},
        {"null space", add_null, "\"x\": has more than 4 dimensions, or a shape of another kind"},
        {"big endian", add_big_endian, "\"x\": has an element type that nibble does not write"},
        {"texts", add_texts, "\"x\": is an array of texts"},
        {"named type", add_named_type, "\"x\": is neither group nor tensor"},
        {"shared type", add_shared_type, "has a property that nibble does not write"},
        {"comment", add_comment, "has a property that nibble does not write"},
        {"array", add_array_attribute, "has an attribute that is something else than one number"},
        {"parts", add_parts, "its header has too many parts"},
        {"times", add_times, "an object of another kind than nibble's"},
        {"order", add_order, "its links are kept in another way than nibble's"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        hid_t file = hdf5_create();
        cases[i].add(file);
        H5Fclose(file);
        Body body = body_load();
        expect_refused(body, cases[i].what, cases[i].reason);
        free(body.bytes);
    }
}

static void test_older_files(void **state) {
    (void)state;
    hid_t file = H5Fcreate("file.h5", H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    H5Fclose(file);
    Body body = body_load();
    expect_refused(body, "superblock 0", "an HDF5 file of another kind than nibble's");
    body.bytes[0] = 0;
    expect_refused(body, "signature", "not an HDF5 file");
    free(body.bytes);
}

/* ---- Changed blocks with right checksums ---- */

/* Where a block lies, and where its checksum does. */
typedef struct Block {
    size_t at, bytes, sum_at;
} Block;

enum { BLOCKS_MAX = 4000, BLOCK_BYTES_MAX = 1 << 16, HEAP_PREFIX = 13 };

static uint32_t block_sum(const unsigned char *at, Block b) {
    if (b.sum_at == b.at + b.bytes - H5_CHECKSUM_BYTES)
        return h5_checksum(at + b.at, b.bytes - H5_CHECKSUM_BYTES);
    unsigned char *copy = memcpy(malloc(b.bytes), at + b.at, b.bytes);
    memset(copy + (b.sum_at - b.at), 0, H5_CHECKSUM_BYTES);
    uint32_t sum = h5_checksum(copy, b.bytes);
    free(copy);
    return sum;
}

/* The first length for which the checksum is right; of direct blocks, a power of two. */
static bool block_find(Body body, size_t at, Block *out) {
    bool is_direct = !memcmp(body.bytes + at, "FHDB", 4);
    size_t most = body.count - at < BLOCK_BYTES_MAX ? body.count - at : BLOCK_BYTES_MAX;
    for (size_t bytes = 16; bytes <= most; bytes = is_direct ? 2 * bytes : bytes + 1)
        for (int width = 4; width <= 5; width++) {
            *out =
                (Block){at, bytes, is_direct ? at + HEAP_PREFIX + (size_t)width : at + bytes - 4};
            if (out->sum_at + 4 <= at + bytes &&
                h5_get(body.bytes + out->sum_at, 4) == block_sum(body.bytes, *out))
                return true;
        }
    return false;
}

static int blocks_find(Body body, Block blocks[BLOCKS_MAX]) {
    static const char *const kinds[] = {"OHDR", "OCHK", "FRHP", "FHDB",
                                        "FHIB", "BTHD", "BTIN", "BTLF"};
    int count = 0;
    for (size_t at = 0; at + 16 < body.count && count < BLOCKS_MAX; at++)
        for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
            if (!memcmp(body.bytes + at, kinds[k], 4))
                count += block_find(body, at, &blocks[count]);
    return count;
}

static void block_seal(Body body, Block block) {
    h5_put(body.bytes + block.sum_at, block_sum(body.bytes, block), 4);
}

/* A file of ours, and one as libhdf5 writes it. */
static Body body_of_ours(void) {
    Error err = {0};
    H5Writer *w = h5_write_begin("file.h5", 0, arena, &err);
    static const float values[6] = {1, 2, 3, 4, 5, 6};
    h5_write_tensor(w, "group/one", H5_F32, SHAPE(2, 3), values);
    h5_write_tensor(w, "group/two", H5_F32, SHAPE(6), values);
    h5_write_text(w, "text", "some words");
    h5_write_int(w, "group", "a", 1);
    h5_write_float(w, "group", "b", 2);
    if (!h5_write_export(w, &err)) fail_msg("%s", err.message);
    return body_load();
}

static Body body_of_theirs(int links, int name_bytes) {
    hid_t file = hdf5_create();
    many_add(file, links, name_bytes, 12);
    H5Fclose(file);
    return body_load();
}

/* The n-th place of some bytes. */
static size_t place_of(Body body, const char *text, size_t bytes, int n) {
    for (size_t at = 0; at + bytes <= body.count; at++)
        if (!memcmp(body.bytes + at, text, bytes) && n-- == 0) return at;
    fail_msg("no %s", text);
    return 0;
}

static Block block_around(Body body, size_t place) {
    static Block blocks[BLOCKS_MAX];
    int count = blocks_find(body, blocks);
    for (int i = 0; i < count; i++)
        if (blocks[i].at <= place && place < blocks[i].at + blocks[i].bytes) return blocks[i];
    fail_msg("no block at %zu", place);
    return blocks[0];
}

/* What is put where, seen from the n-th place of a text. */
typedef struct Patch {
    const char *what, *text;
    size_t text_bytes;
    int n, offset, bytes;
    uint64_t value;
    const char *reason;
} Patch;

#define TEXT(text) text, sizeof text - 1

static void check_patches(Body body, const Patch *patches, size_t count) {
    unsigned char *whole = memcpy(malloc(body.count), body.bytes, body.count);
    for (size_t i = 0; i < count; i++) {
        const Patch *p = &patches[i];
        size_t place = place_of(body, p->text, p->text_bytes, p->n) + (size_t)p->offset;
        Block block = block_around(body, place);
        h5_put(body.bytes + place, p->value, p->bytes);
        block_seal(body, block);
        expect_refused(body, p->what, p->reason);
        memcpy(body.bytes, whole, body.count);
    }
    free(whole);
}

/* A message's content begins 4 bytes behind its kind; a type of floats is told by its bits. */
static void test_changed_headers(void **state) {
    (void)state;
    Body body = body_of_ours();
    uint64_t group = place_of(body, "OHDR", 4, 2);
    const Patch patches[] = {
        {"link beyond", TEXT("\1\0\5group"), 0, 8, 8, 1 << 20, "points beyond the end of the file"},
        {"link to the end", TEXT("\1\0\5group"), 0, 8, 8, body.count - 5, "points beyond the end"},
        {"link nowhere", TEXT("\1\0\5group"), 0, 8, 8, UINT64_MAX, "points beyond the end"},
        {"link to itself", TEXT("\1\0\3one"), 0, 6, 8, group,
         "belong to two objects, or to a cycle"},
        {"link to data", TEXT("\1\0\3one"), 0, 6, 8, 48, "an object of another kind"},
        {"slash", TEXT("\1\0\3one"), 0, 4, 1, '/', "holds what cannot be a name"},
        {"zero", TEXT("\1\0\3one"), 0, 4, 1, 0, "holds what cannot be a name"},
        {"one name", TEXT("\1\0\3two"), 0, 3, 3, 'o' | 'n' << 8 | 'e' << 16,
         "two objects of one name"},
        {"long name", TEXT("\1\0\3one"), 0, 2, 1, 200, "a link to elsewhere, or of another kind"},
        {"one attribute", TEXT("b\0\21\40"), 0, 0, 1, 'a', "has two attributes of one name"},
        {"attribute's type", TEXT("a\0\20\10"), 0, 6, 1, 4, "something else than one number"},
        {"attribute's name", TEXT("a\0\20\10"), 0, 1, 1, 'x', "something else than one number"},
        {"another shape", TEXT("\2\1\0\1\6"), 0, 4, 1, 5, "its shape and its bytes disagree"},
        {"no shape", TEXT("\2\1\0\1\6"), 0, 0, 1, 1, "or a shape of another kind"},
        {"huge", TEXT("\2\1\0\1\6"), 0, 4, 8, INT64_MAX, "multiply to too many bytes"},
        {"negative", TEXT("\2\1\0\1\6"), 0, 4, 8, UINT64_MAX, "or a shape of another kind"},
        {"other floats", TEXT("\21\40\37"), 0, 12, 1, 22, "has an element type that nibble does"},
        {"no text", TEXT("\23\20\0\0\13"), 0, 4, 1, 0, "a text without its end"},
        {"long text", TEXT("\23\20\0\0\13"), 0, 4, 1, 12, "its shape and its bytes disagree"},
        {"data beyond", TEXT("\3\1\60\0\0"), 0, 2, 8, body.count - 8, "points beyond the end"},
        {"a message beyond", TEXT("\2\22\0\0"), 0, 1, 1, 255, "a property that nibble does not"},
        {"unknown message", TEXT("\2\22\0\0"), 0, 0, 1, 11, "a property that nibble does not"},
        {"no links", TEXT("\2\22\0\0"), 0, 0, 1, 0, "is neither group nor tensor"},
        {"flags", TEXT("OHDR"), 0, 5, 1, 34, "an object of another kind than nibble's"},
        {"signature", TEXT("OHDR"), 0, 0, 1, 'X', "an object of another kind than nibble's"},
    };
    check_patches(body, patches, sizeof patches / sizeof *patches);
    body.bytes[group + 12] ^= 1;
    expect_refused(body, "checksum", "a checksum is wrong");
    free(body.bytes);
}

static void test_changed_heaps_and_trees(void **state) {
    (void)state;
    Body body = body_of_theirs(60, 30);
    const Patch patches[] = {
        {"heap signature", TEXT("FRHP"), 0, 0, 1, 'X', "a block without its signature"},
        {"heap version", TEXT("FRHP"), 0, 4, 1, 1, "a heap of another kind"},
        {"filters", TEXT("FRHP"), 0, 7, 2, 1, "a heap of another kind"},
        {"width", TEXT("FRHP"), 0, 110, 2, 3, "a heap of another kind"},
        {"wide", TEXT("FRHP"), 0, 110, 2, 1024, "a heap of another kind"},
        {"start", TEXT("FRHP"), 0, 112, 8, 0, "a heap of another kind"},
        {"late start", TEXT("FRHP"), 0, 112, 8, 1ull << 40, "a heap of another kind"},
        {"largest", TEXT("FRHP"), 0, 120, 8, 1ull << 40, "a heap of another kind"},
        {"bits", TEXT("FRHP"), 0, 128, 2, 999, "a heap of another kind"},
        {"rows", TEXT("FRHP"), 0, 140, 2, 60, "a heap of another kind"},
        {"fewer rows", TEXT("FRHP"), 0, 140, 2, 0, "a block without its signature"},
        {"root nowhere", TEXT("FRHP"), 0, 132, 8, UINT64_MAX, "a heap should hold is not in it"},
        {"root beyond", TEXT("FRHP"), 0, 132, 8, body.count - 4, "points beyond the end"},
        {"block of another", TEXT("FHIB"), 0, 5, 8, 77, "a block of another heap"},
        {"block beyond", TEXT("FHIB"), 0, 17, 8, body.count - 100, "points beyond the end"},
        {"block missing", TEXT("FHIB"), 0, 17, 8, UINT64_MAX, "a heap should hold is not in it"},
        {"direct of another", TEXT("FHDB"), 0, 5, 8, 77, "a block of another heap"},
        {"tree version", TEXT("BTHD"), 0, 4, 1, 1, "a tree of another kind"},
        {"tree kind", TEXT("BTHD"), 0, 5, 1, 6, "a tree of another kind"},
        {"nodes", TEXT("BTHD"), 0, 6, 4, 10, "a tree of another kind"},
        {"records", TEXT("BTHD"), 0, 10, 2, 3, "a tree of another kind"},
        {"levels", TEXT("BTHD"), 0, 12, 2, 200, "a tree of another kind"},
        {"one level less", TEXT("BTHD"), 0, 12, 2, 0, "a block without its signature"},
        {"total", TEXT("BTHD"), 0, 26, 8, 61, "links or attributes are missing"},
        {"less", TEXT("BTHD"), 0, 26, 8, 59, "more links or attributes than it says"},
        {"a billion", TEXT("BTHD"), 0, 26, 8, 1 << 30, "a tree of another kind"},
        {"root count", TEXT("BTHD"), 0, 24, 2, 9999, "a node holds too much"},
        {"node of another", TEXT("BTLF"), 0, 5, 1, 6, "a node of another tree"},
        {"kept otherwise", TEXT("\25\22\0"), 0, 5, 1, 1, "its attributes are kept in another way"},
        {"shared", TEXT("BTLF\0\10"), 0, 14, 1, 2, "an attribute is shared"},
        {"identifier", TEXT("BTLF"), 0, 10, 1, 16, "a heap should hold is not in it"},
        {"offset", TEXT("BTLF"), 0, 11, 4, 1 << 30, "a heap should hold is not in it"},
    };
    check_patches(body, patches, sizeof patches / sizeof *patches);
    body.bytes[place_of(body, "FHDB", 4, 0) + 40] ^= 1;
    expect_refused(body, "checksum", "a checksum is wrong");
    free(body.bytes);
}

/* ---- Whatever the bytes are ---- */

static uint64_t use_all(const H5Node *node) {
    uint64_t sum = 0;
    for (int i = 0; i < node->number_count; i++)
        sum += (uint64_t)node->numbers[i].integer + strlen(node->numbers[i].name);
    for (int64_t i = 0; node->data && i < node->info.bytes; i++) sum += node->data[i];
    for (int i = 0; i < node->node_count; i++)
        sum += strlen(node->nodes[i].name) + use_all(&node->nodes[i]);
    return sum;
}

/* Some byte of some block becomes something else, up to four times; checksums stay right. */
static void mutate(Body body, const Block *blocks, int count, RandomKey key) {
    static const unsigned char likely[] = {0, 1, 2, 3, 4, 8, 16, 127, 128, 255};
    uint64_t changes = 1 + random_below(key, 0, 4);
    for (uint64_t i = 0; i < changes; i++) {
        Block block = blocks[random_below(key, 8 * i + 1, (uint64_t)count)];
        size_t at = block.at + random_below(key, 8 * i + 2, block.bytes);
        unsigned char value = (unsigned char)random_below(key, 8 * i + 3, 256);
        if (value & 1) value = likely[value / 2 % sizeof likely];
        body.bytes[at] = value;
        block_seal(body, block);
    }
}

static uint64_t factor = 1;

static void check_mutations(Body body, uint64_t rounds, uint64_t seed) {
    static Block blocks[BLOCKS_MAX];
    int count = blocks_find(body, blocks), refused = 0;
    unsigned char *whole = memcpy(malloc(body.count), body.bytes, body.count);
    assert_true(count > 3);
    rounds *= factor;
    clock_t start = clock();
    for (uint64_t i = 0; i < rounds; i++) {
        Error err;
        H5Node root;
        ArenaMark mark = arena_mark(arena);
        mutate(body, blocks, count, (RandomKey){seed, RANDOM_TEST, i});
        if (body_read(body, &root, &err))
            use_all(&root);
        else
            refused += err.code == ERROR_INPUT;
        arena_rewind(arena, mark);
        memcpy(body.bytes, whole, body.count);
    }
    assert_true(refused > 0);
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < (double)rounds * 0.01);
    free(whole);
    free(body.bytes);
}

static void test_mutations(void **state) {
    (void)state;
    check_mutations(body_of_ours(), 20000, 1);
    check_mutations(body_of_theirs(60, 30), 5000, 2);
    check_mutations(body_of_theirs(300, 250), 500, 3);
}

/* Every shorter file, with the length it says it has. */
static void test_short_files(void **state) {
    (void)state;
    Body body = body_of_ours();
    for (size_t count = 0; count < body.count; count++) {
        Body cut = {memcpy(malloc(count + 1), body.bytes, count), count};
        if (count >= H5_SUPERBLOCK_BYTES) {
            h5_put(cut.bytes + 28, count, 8);
            h5_put(cut.bytes + 44, h5_checksum(cut.bytes, 44), 4);
        }
        Body exact = {realloc(cut.bytes, count ? count : 1), count};
        expect_refused(exact, "cut short", "");
        free(exact.bytes);
    }
    free(body.bytes);
}

/* `all`: a million mutations. */
int main(int count, char **words) {
    if (count > 1 && !strcmp(words[1], "all")) factor = 40;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_many_links_and_numbers),
                                       cmocka_unit_test(test_what_nibble_does_not_write),
                                       cmocka_unit_test(test_older_files),
                                       cmocka_unit_test(test_changed_headers),
                                       cmocka_unit_test(test_changed_heaps_and_trees),
                                       cmocka_unit_test(test_mutations),
                                       cmocka_unit_test(test_short_files)};
    return cmocka_run_group_tests(tests, enter, leave);
}
