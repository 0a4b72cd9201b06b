/* HDF5 files: what is written comes back, damage is refused, and a failed or killed writer leaves
 * the old file as it was. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "data/envelope.h"
#include "data/h5.h"

static Arena *arena;
static char folder[] = "/tmp/nibble-h5-XXXXXX";

static const char *in_folder(const char *name) {
    return arena_format(arena, "%s/%s", folder, name);
}

static unsigned char *file_read(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    struct stat status;
    assert_int_equal(fstat(fileno(file), &status), 0);
    *bytes = (size_t)status.st_size;
    unsigned char *content = arena_alloc(arena, *bytes + 1);
    assert_int_equal(fread(content, 1, *bytes, file), *bytes);
    fclose(file);
    return content;
}

static void file_write(const char *path, const void *content, size_t bytes) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(content, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

static bool files_equal(const char *a, const char *b) {
    size_t a_bytes, b_bytes;
    const unsigned char *left = file_read(a, &a_bytes), *right = file_read(b, &b_bytes);
    return a_bytes == b_bytes && memcmp(left, right, a_bytes) == 0;
}

/* Files in the folder whose names contain `part`. */
static int files_with(const char *part) {
    DIR *listing = opendir(folder);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(listing));)
        count += strstr(entry->d_name, part) != NULL;
    closedir(listing);
    return count;
}

enum { VALUES = 60 };

/* Content number `salt`: some of everything. */
static void write_content(H5Writer *writer, int salt) {
    float weights[VALUES];
    for (int i = 0; i < VALUES; i++) weights[i] = (float)(i * 7 + salt) / 3.0f;
    h5_write_tensor(writer, "params/stage1.0.conv.weight", H5_F32, SHAPE(3, 2, 2, 5), weights);
    h5_write_tensor(writer, "params/head.bias", H5_F32, SHAPE(10), weights);
    h5_write_text(writer, "config", "seed: 1\n");
    h5_write_int(writer, "cursor", "step", salt);
    h5_write_float(writer, "params/head.bias", "scale", 0.5 + salt);
}

static bool save(const char *path, const char *previous, int salt, Error *err) {
    H5Writer *writer = h5_write_begin(path, 4096, arena, err);
    if (!writer) return false;
    write_content(writer, salt);
    return h5_write_commit(writer, previous, err);
}

static void save_well(const char *path, const char *previous, int salt) {
    Error err = {0};
    if (!save(path, previous, salt, &err)) fail_msg("%s", err.message);
}

static H5Reader *open_well(const char *path) {
    Error err = {0};
    H5Reader *reader = h5_read_open(path, arena, &err);
    if (!reader) fail_msg("%s", err.message);
    return reader;
}

static int64_t step_of(const char *path) {
    Error err = {0};
    int64_t step = -1;
    H5Reader *reader = open_well(path);
    assert_true(h5_read_int(reader, "cursor", "step", &step, &err));
    return step;
}

static void expect_refused(const char *path, ErrorCode code, const char *reason) {
    Error err = {0};
    assert_null(h5_read_open(path, arena, &err));
    assert_int_equal(err.code, code);
    assert_non_null(strstr(err.message, path));
    if (!strstr(err.message, reason)) fail_msg("\"%s\" lacks \"%s\"", err.message, reason);
}

/* ---- What is written comes back ---- */

static void test_every_element_and_rank(void **state) {
    (void)state;
    static const Shape shapes[] = {
        SHAPE_SCALAR, {1, {6}}, {2, {2, 3}}, {3, {1, 2, 3}}, {4, {3, 2, 2, 5}}};
    unsigned char data[VALUES * 8], back[VALUES * 8];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (unsigned char)(i * 37 % 127 + 1); /* no NaN */
    Error err = {0};
    H5Writer *writer = h5_write_begin(in_folder("all.h5"), 0, arena, &err);
    for (int e = 0; e < H5_ELEMENT_COUNT; e++)
        for (int s = 0; s < 5; s++) {
            const char *name =
                arena_format(arena, "a.b/%s/rank.%d", h5_element_name((H5Element)e), s);
            h5_write_tensor(writer, name, (H5Element)e, shapes[s], data);
        }
    assert_true(h5_write_commit(writer, NULL, &err));
    H5Reader *reader = open_well(in_folder("all.h5"));
    for (int e = 0; e < H5_ELEMENT_COUNT; e++)
        for (int s = 0; s < 5; s++) {
            const char *name =
                arena_format(arena, "a.b/%s/rank.%d", h5_element_name((H5Element)e), s);
            size_t bytes = h5_element_bytes((H5Element)e) * (size_t)shape_count(shapes[s]);
            memset(back, 0, sizeof back);
            assert_true(h5_read_tensor(reader, name, (H5Element)e, shapes[s], back, &err));
            assert_memory_equal(back, data, bytes);
            H5Info info;
            assert_true(h5_read_info(reader, name, &info, &err));
            assert_int_equal(info.what, H5_TENSOR);
            assert_int_equal(info.element, e);
            assert_int_equal(info.bytes, bytes);
            assert_true(shape_equal(info.shape, shapes[s]));
        }
}

static void test_texts_numbers_and_empty_things(void **state) {
    (void)state;
    Error err = {0};
    const char *path = in_folder("small.h5");
    char *long_text = arena_zalloc(arena, 100001);
    memset(long_text, 'x', 100000);
    H5Writer *writer = h5_write_begin(path, 0, arena, &err);
    h5_write_text(writer, "empty", "");
    h5_write_text(writer, "long", long_text);
    h5_write_text(writer, "umlaut", "größe: 3\n");
    h5_write_tensor(writer, "none", H5_F32, SHAPE(0, 4), NULL);
    h5_write_group(writer, "void/inner");
    h5_write_int(writer, "", "version", INT64_MIN);
    h5_write_int(writer, "void", "b", -2);
    h5_write_float(writer, "void", "a", -0.0);
    assert_true(h5_write_commit(writer, NULL, &err));

    H5Reader *reader = open_well(path);
    assert_string_equal(h5_read_text(reader, "empty", arena, &err), "");
    assert_string_equal(h5_read_text(reader, "long", arena, &err), long_text);
    assert_string_equal(h5_read_text(reader, "umlaut", arena, &err), "größe: 3\n");
    float nothing;
    assert_true(h5_read_tensor(reader, "none", H5_F32, SHAPE(0, 4), &nothing, &err));
    int64_t version;
    assert_true(h5_read_int(reader, "", "version", &version, &err));
    assert_true(version == INT64_MIN);
    H5Number *numbers;
    int count;
    assert_true(h5_read_numbers(reader, "void", arena, &numbers, &count, &err));
    assert_int_equal(count, 2);
    assert_string_equal(numbers[0].name, "a");
    assert_true(numbers[0].is_float && numbers[0].real == 0.0);
    assert_string_equal(numbers[1].name, "b");
    assert_true(!numbers[1].is_float && numbers[1].integer == -2);
    H5Info info;
    assert_true(h5_read_info(reader, "void/inner", &info, &err));
    assert_int_equal(info.what, H5_GROUP);
    assert_true(h5_read_info(reader, "long", &info, &err));
    assert_int_equal(info.what, H5_TEXT);
    assert_int_equal(info.bytes, 100000);
    bool is_there;
    assert_true(h5_read_exists(reader, "void/inner", &is_there, &err) && is_there);
    assert_true(h5_read_exists(reader, "void/outer", &is_there, &err) && !is_there);
    assert_true(h5_read_exists(reader, "void/inner/at/all", &is_there, &err) && !is_there);
    assert_true(h5_read_exists(reader, "nowhere/at/all", &is_there, &err) && !is_there);
    assert_true(h5_read_has_number(reader, "void", "a", &is_there, &err) && is_there);
    assert_true(h5_read_has_number(reader, "void", "c", &is_there, &err) && !is_there);
}

static void test_names_are_sorted(void **state) {
    (void)state;
    Error err = {0};
    H5Writer *writer = h5_write_begin(in_folder("names.h5"), 0, arena, &err);
    for (int i = 0; i < 300;
         i++) /* 7 and 300 have no common factor: every number once, in disorder */
        h5_write_tensor(writer, arena_format(arena, "g/p.%03d", i * 7 % 300), H5_I32, SHAPE_SCALAR,
                        &i);
    assert_true(h5_write_commit(writer, NULL, &err));
    H5Reader *reader = open_well(in_folder("names.h5"));
    const char **names;
    int count;
    assert_true(h5_read_names(reader, "g", arena, &names, &count, &err));
    assert_int_equal(count, 300);
    for (int i = 0; i < 300; i++) assert_string_equal(names[i], arena_format(arena, "p.%03d", i));
    assert_true(h5_read_names(reader, "", arena, &names, &count, &err));
    assert_int_equal(count, 1);
    assert_false(h5_read_names(reader, "g/p.000", arena, &names, &count, &err));
    assert_non_null(strstr(err.message, "not a group"));
}

static void test_rows(void **state) {
    (void)state;
    Error err = {0};
    save_well(in_folder("rows.h5"), NULL, 5);
    H5Reader *reader = open_well(in_folder("rows.h5"));
    float all[VALUES], rows[VALUES];
    const char *name = "params/stage1.0.conv.weight";
    assert_true(h5_read_tensor(reader, name, H5_F32, SHAPE(3, 2, 2, 5), all, &err));
    for (int first = 0; first <= 3; first++)
        for (int count = 0; count <= 3 - first; count++) {
            assert_true(h5_read_rows(reader, name, first, count, rows, &err));
            assert_memory_equal(rows, all + first * 20, (size_t)count * 20 * sizeof(float));
        }
    assert_false(h5_read_rows(reader, name, 2, 2, rows, &err));
    assert_non_null(strstr(err.message, "3 rows"));
}

static void test_same_content_same_bytes(void **state) {
    (void)state;
    save_well(in_folder("first.h5"), NULL, 3);
    usleep(1100 * 1000);                   /* HDF5's times, were there any, count seconds */
    void *volatile dirt = malloc(1 << 16); /* for buffers that are not cleared */
    memset(dirt, 0xA5, 1 << 16);
    free(dirt);
    save_well(in_folder("second.h5"), NULL, 3);
    assert_true(files_equal(in_folder("first.h5"), in_folder("second.h5")));
    save_well(in_folder("second.h5"), NULL, 4);
    assert_false(files_equal(in_folder("first.h5"), in_folder("second.h5")));
}

static void test_mismatches_are_named(void **state) {
    (void)state;
    save_well(in_folder("mismatch.h5"), NULL, 1);
    H5Reader *reader = open_well(in_folder("mismatch.h5"));
    float data[VALUES];
    int64_t integer;
    double real;
    Error err = {0};
    assert_false(h5_read_tensor(reader, "params/head.bias", H5_F32, SHAPE(11), data, &err));
    assert_non_null(strstr(err.message, "\"params/head.bias\" is f32 [10], expected f32 [11]"));
    err = (Error){0};
    assert_false(h5_read_tensor(reader, "params/head.bias", H5_I32, SHAPE(10), data, &err));
    assert_non_null(strstr(err.message, "is f32 [10], expected i32 [10]"));
    err = (Error){0};
    assert_false(h5_read_tensor(reader, "params/tail", H5_F32, SHAPE(10), data, &err));
    assert_non_null(strstr(err.message, "has no \"params/tail\""));
    err = (Error){0};
    assert_false(h5_read_tensor(reader, "params", H5_F32, SHAPE(10), data, &err));
    assert_non_null(strstr(err.message, "\"params\" is not a tensor"));
    err = (Error){0};
    assert_false(h5_read_tensor(reader, "config", H5_F32, SHAPE(10), data, &err));
    err = (Error){0};
    assert_null(h5_read_text(reader, "params/head.bias", arena, &err));
    assert_non_null(strstr(err.message, "not a text"));
    err = (Error){0};
    assert_false(h5_read_int(reader, "params/head.bias", "scale", &integer, &err));
    assert_non_null(strstr(err.message, "no integer"));
    err = (Error){0};
    assert_false(h5_read_float(reader, "cursor", "step", &real, &err));
    assert_non_null(strstr(err.message, "no floating-point number"));
    err = (Error){0};
    assert_false(h5_read_float(reader, "cursor", "epoch", &real, &err));
    assert_non_null(strstr(err.message, "has no attribute \"epoch\""));
}

static void test_bad_names_fail_the_commit(void **state) {
    (void)state;
    const char *path = in_folder("kept.h5");
    save_well(path, NULL, 1);
    static const char *const bad[] = {"/config", "a//b", "a/", "a/./b", ".", "config"};
    for (int i = 0; i < 6; i++) {
        Error err = {0};
        H5Writer *writer = h5_write_begin(path, 0, arena, &err);
        h5_write_text(writer, "config", "twice is a failure");
        h5_write_text(writer, bad[i], "never");
        h5_write_text(writer, "after", "is ignored");
        assert_false(h5_write_commit(writer, NULL, &err));
        assert_non_null(strstr(err.message, bad[i]));
        assert_int_equal(step_of(path), 1);
    }
    assert_int_equal(files_with(".tmp."), 0);
}

static void in_tensor(H5Writer *w) {
    h5_write_text(w, "text", "words");
    h5_write_text(w, "text/more", "words");
}

static void deep(H5Writer *w) {
    h5_write_group(w, "1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16");
    h5_write_group(w, "1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17");
}

static void over_group(H5Writer *w) {
    h5_write_group(w, "group");
    h5_write_text(w, "group", "words");
}

static void over_parent(H5Writer *w) {
    h5_write_text(w, "group/text", "words");
    h5_write_text(w, "group", "words");
}

static void attribute_twice(H5Writer *w) {
    h5_write_int(w, "group", "number", 1);
    h5_write_float(w, "group", "number", 2);
}

static void test_what_cannot_be_written(void **state) {
    (void)state;
    static const struct {
        void (*write)(H5Writer *w);
        const char *reason;
    } cases[] = {
        {in_tensor, "\"text/more\" cannot lie within \"text\""},
        {deep, "/16/17\" cannot lie within \"16\""},
        {over_group, "\"group\" is there already"},
        {over_parent, "\"group\" is there already"},
        {attribute_twice, "\"group\" has \"number\" already"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Error err = {0};
        H5Writer *writer = h5_write_begin(in_folder("never.h5"), 0, arena, &err);
        cases[i].write(writer);
        assert_false(h5_write_commit(writer, NULL, &err));
        if (!strstr(err.message, cases[i].reason)) fail_msg("%s", err.message);
        assert_int_equal(files_with("never.h5"), 0);
    }
}

/* ---- Damage ---- */

static void test_every_bit_flip_is_refused(void **state) {
    (void)state;
    const char *path = in_folder("flip.h5");
    save_well(path, NULL, 1);
    size_t bytes;
    unsigned char *content = file_read(path, &bytes);
    int fd = open(path, O_WRONLY);
    Arena *scratch = arena_new("flips");
    for (size_t bit = 0; bit < bytes * 8; bit++) {
        unsigned char flipped = (unsigned char)(content[bit / 8] ^ 1u << bit % 8);
        assert_int_equal(pwrite(fd, &flipped, 1, (off_t)(bit / 8)), 1);
        Envelope envelope;
        Error err = {0};
        if (envelope_open(path, scratch, &envelope, &err))
            fail_msg("bit %zu flipped unnoticed", bit);
        assert_int_equal(err.code, ERROR_INPUT);
        assert_int_equal(pwrite(fd, content + bit / 8, 1, (off_t)(bit / 8)), 1);
    }
    close(fd);
    arena_free(scratch);
    assert_int_equal(step_of(path), 1); /* flipped back: whole again */
}

static void test_every_truncation_is_refused(void **state) {
    (void)state;
    const char *path = in_folder("cut.h5");
    save_well(path, NULL, 1);
    size_t bytes;
    file_read(path, &bytes);
    while (bytes-- > 0) {
        assert_int_equal(truncate(path, (off_t)bytes), 0);
        ArenaMark mark = arena_mark(arena);
        Error err = {0};
        assert_null(h5_read_open(path, arena, &err));
        assert_int_equal(err.code, ERROR_INPUT);
        arena_rewind(arena, mark);
    }
}

static void test_damage_is_named(void **state) {
    (void)state;
    const char *path = in_folder("named.h5");
    save_well(path, NULL, 1);
    size_t bytes;
    unsigned char *content = file_read(path, &bytes);
    content[bytes / 2] ^= 1;
    file_write(path, content, bytes);
    expect_refused(path, ERROR_INPUT, "digest does not match");
    content[bytes / 2] ^= 1;
    content[bytes - ENVELOPE_TRAILER_BYTES + 8] = 2;
    file_write(path, content, bytes);
    expect_refused(path, ERROR_INPUT, "trailer version 2");
    content[bytes - ENVELOPE_TRAILER_BYTES + 8] = 1;
    file_write(path, content, bytes - 1);
    expect_refused(path, ERROR_INPUT, "no digest");
    file_write(path, content, 17);
    expect_refused(path, ERROR_INPUT, "17 bytes, at least 40");
    file_write(path, content + 100, bytes - 100);
    expect_refused(path, ERROR_INPUT, "damaged");
    expect_refused(in_folder("absent.h5"), ERROR_INPUT, "No such file");
    expect_refused(folder, ERROR_INPUT, "is a directory");
    const char *pipe_path = in_folder("pipe");
    assert_int_equal(mkfifo(pipe_path, 0600), 0);
    expect_refused(pipe_path, ERROR_INPUT, "is a FIFO");
}

static void test_exported_files_have_no_digest(void **state) {
    (void)state;
    Error err = {0};
    const char *path = in_folder("plain.h5");
    H5Writer *writer = h5_write_begin(path, 0, arena, &err);
    write_content(writer, 9);
    assert_true(h5_write_export(writer, &err));
    expect_refused(path, ERROR_INPUT, "no digest");
}

static void test_sealed_nonsense_is_refused(void **state) {
    (void)state;
    Error err = {0};
    const char *path = in_folder("nonsense.h5");
    file_write(path, "not HDF5 at all", 15);
    assert_true(envelope_seal(path, &err));
    expect_refused(path, ERROR_INPUT, "not an HDF5 file");
}

/* ---- Replacing ---- */

static void test_previous_is_kept(void **state) {
    (void)state;
    const char *path = in_folder("latest.h5"), *previous = in_folder("latest.prev.h5");
    save_well(path, previous, 1);
    assert_int_equal(access(previous, F_OK), -1);
    for (int step = 2; step < 5; step++) {
        save_well(path, previous, step);
        assert_int_equal(step_of(path), step);
        assert_int_equal(step_of(previous), step - 1);
    }
    unlink(previous);
    assert_int_equal(link(path, previous),
                     0); /* as a writer killed between its two renames leaves it */
    save_well(path, previous, 6);
    assert_int_equal(step_of(path), 6);
    assert_int_equal(step_of(previous), 4);
    assert_int_equal(files_with(".tmp."), 0);
}

static void test_abandon_leaves_nothing(void **state) {
    (void)state;
    Error err = {0};
    const char *path = in_folder("abandoned.h5");
    H5Writer *writer = h5_write_begin(path, 0, arena, &err);
    write_content(writer, 1);
    assert_int_equal(files_with("abandoned.h5.tmp."), 1);
    h5_write_abandon(writer);
    assert_int_equal(files_with("abandoned.h5"), 0);
}

static void test_leftovers_of_the_dead_are_removed(void **state) {
    (void)state;
    pid_t dead = fork();
    if (dead == 0) _exit(0);
    assert_int_equal(waitpid(dead, NULL, 0), dead);
    const char *stale = in_folder(arena_format(arena, "left.h5.tmp.%d", dead));
    const char *alive = in_folder(arena_format(arena, "left.h5.tmp.%d", getppid()));
    const char *other = in_folder("left.h5.tmp.notes");
    file_write(stale, "x", 1);
    file_write(alive, "x", 1);
    file_write(other, "x", 1);
    save_well(in_folder("left.h5"), NULL, 1);
    assert_int_equal(access(stale, F_OK), -1);
    assert_int_equal(access(alive, F_OK), 0);
    assert_int_equal(access(other, F_OK), 0);
    unlink(alive);
    unlink(other);
}

/* A child saves without end; it is killed after a while that grows from run to run. */
static void test_killed_writer_leaves_a_whole_file(void **state) {
    (void)state;
    const char *path = in_folder("killed.h5"), *previous = in_folder("killed.prev.h5");
    save_well(path, NULL, 0);
    for (int run = 0; run < 40; run++) {
        pid_t child = fork();
        if (child == 0) {
            Error err = {0};
            for (int step = 1;; step++)
                if (!save(path, previous, step, &err)) _exit(1);
        }
        usleep((useconds_t)(200 + run * 150));
        kill(child, SIGKILL);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        assert_true(step_of(path) >= 0);
        if (access(previous, F_OK) == 0) assert_true(step_of(previous) >= 0);
    }
    save_well(path, previous, 7);
    assert_int_equal(files_with("killed.h5.tmp."), 0);
}

/* ---- A disk that is full ---- */

/* Saves tensors of `bytes` in all over an old file, which must fail; then the process must be well
 * enough to save something small elsewhere and to end through exit(). Returns an exit status. */
static int failing_save(const char *path, const char *elsewhere, uint64_t expected, int64_t bytes) {
    Error err = {0};
    int status = 0;
    void *data = arena_zalloc(arena, (size_t)bytes / 4);
    H5Writer *writer = h5_write_begin(path, expected, arena, &err);
    if (writer) {
        for (int i = 0; i < 4; i++)
            h5_write_tensor(writer, arena_format(arena, "big%d", i), H5_U8, SHAPE(bytes / 4), data);
        if (h5_write_commit(writer, NULL, &err)) status |= 1;
    }
    if (err.code != ERROR_SYSTEM) status |= 2;
    if (strstr(err.message, "file write failed"))
        status |= 4; /* the library's words, not the system's */
    if (step_of(path) != 1) status |= 8;
    if (elsewhere) {
        err = (Error){0};
        if (!save(elsewhere, NULL, 2, &err) || step_of(elsewhere) != 2) status |= 16;
    }
    return status;
}

static void expect_exit_0(pid_t child) {
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_file_size_limit(void **state) {
    (void)state;
    const char *path = in_folder("limited.h5"), *elsewhere = in_folder("elsewhere.h5");
    save_well(path, NULL, 1);
    for (rlim_t limit = 1; limit < 1 << 20; limit = limit * 3 + 700) {
        pid_t child = fork();
        if (child == 0) {
            signal(SIGXFSZ, SIG_IGN);
            struct rlimit bound = {limit, limit};
            setrlimit(RLIMIT_FSIZE, &bound);
            /* 8000 bytes are enough for the small file elsewhere */
            exit(failing_save(path, limit > 16000 ? elsewhere : NULL, 0, 1 << 20));
        }
        expect_exit_0(child);
        assert_int_equal(files_with("limited.h5.tmp."), 0);
        assert_int_equal(step_of(path), 1);
    }
}

static void test_too_large_for_the_disk(void **state) {
    (void)state;
    Error err = {0};
    assert_null(h5_write_begin(in_folder("vast.h5"), UINT64_MAX / 2, arena, &err));
    assert_int_equal(err.code, ERROR_SYSTEM);
    assert_non_null(strstr(err.message, "bytes, the disk has"));
    assert_int_equal(files_with("vast.h5"), 0);
    err = (Error){0};
    assert_null(h5_write_begin(in_folder("no/such/folder.h5"), 0, arena, &err));
    assert_int_equal(err.code, ERROR_SYSTEM);
}

/* A namespace whose mounts only this process sees. */
static bool own_mounts(void) {
    return !unshare(CLONE_NEWNS) && !mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL);
}

static bool can_mount(void) {
    pid_t child = fork();
    if (child == 0)
        _exit(own_mounts() && !mount("tmpfs", folder, "tmpfs", 0, "size=256k") ? 0 : 77);
    int status;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) && !WEXITSTATUS(status);
}

/* In a file system of 256 kB that only the child sees. */
static void test_full_disk(void **state) {
    (void)state;
    if (!can_mount()) skip();
    const char *mounted = in_folder("disk");
    assert_int_equal(mkdir(mounted, 0700), 0);
    for (int round = 0; round < 2; round++) { /* without and with an announced size */
        pid_t child = fork();
        if (child == 0) {
            if (!own_mounts() || mount("tmpfs", mounted, "tmpfs", 0, "size=256k")) _exit(77);
            const char *path = in_folder("disk/full.h5");
            Error err = {0};
            if (!save(path, NULL, 1, &err)) exit(64);
            int status =
                failing_save(path, in_folder("disk/small.h5"), round ? 1 << 20 : 0, 1 << 20);
            umount(mounted);
            exit(status);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
}

static int setup(void **state) {
    (void)state;
    arena = arena_new("test");
    return mkdtemp(folder) ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", folder);
    arena_free(arena);
    return system(command);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_element_and_rank),
        cmocka_unit_test(test_texts_numbers_and_empty_things),
        cmocka_unit_test(test_names_are_sorted),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_same_content_same_bytes),
        cmocka_unit_test(test_mismatches_are_named),
        cmocka_unit_test(test_bad_names_fail_the_commit),
        cmocka_unit_test(test_what_cannot_be_written),
        cmocka_unit_test(test_every_bit_flip_is_refused),
        cmocka_unit_test(test_every_truncation_is_refused),
        cmocka_unit_test(test_damage_is_named),
        cmocka_unit_test(test_exported_files_have_no_digest),
        cmocka_unit_test(test_sealed_nonsense_is_refused),
        cmocka_unit_test(test_previous_is_kept),
        cmocka_unit_test(test_abandon_leaves_nothing),
        cmocka_unit_test(test_leftovers_of_the_dead_are_removed),
        cmocka_unit_test(test_killed_writer_leaves_a_whole_file),
        cmocka_unit_test(test_file_size_limit),
        cmocka_unit_test(test_too_large_for_the_disk),
        cmocka_unit_test(test_full_disk),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
