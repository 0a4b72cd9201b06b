/* Files of a run directory, and each kind of thing that may stand in their place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/file.h"

/* ---- What is synced, in the order of the calls; fsync_cause: how it fails. ---- */

static char synced[1024];
static int fsync_cause;

int fsync(int fd) {
    char link[64], path[256];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = '\0';
    snprintf(synced + strlen(synced), sizeof synced - strlen(synced), "%s\n", path);
    errno = fsync_cause;
    return fsync_cause ? -1 : 0;
}

/* ---- Each in an empty folder ---- */

static char folder[] = "/tmp/test_file_XXXXXX";
static Arena *arena;

static int enter(void **state) {
    (void)state;
    arena = arena_new("test");
    alarm(60); /* what hangs fails */
    return !mkdtemp(folder) || chdir(folder);
}

static int leave(void **state) {
    (void)state;
    arena_free(arena);
    return chdir("/") || rmdir(folder);
}

static void put(const char *path, const char *text) {
    Error err = {0};
    int fd = file_open(path, FILE_CREATE, &err);
    assert_true(fd >= 0);
    assert_true(file_write_bytes(fd, text, strlen(text)));
    close(fd);
}

static void assert_content(const char *path, const char *text) {
    Error err = {0};
    size_t bytes;
    const char *found = file_read(path, 1 << 10, arena, &bytes, &err);
    if (!found) fail_msg("%s", err.message);
    assert_string_equal(found, text);
    assert_int_equal(bytes, strlen(text));
}

static void assert_failure(const Error *err, ErrorCode code, const char *path, const char *part) {
    assert_int_equal(err->code, code);
    if (!strstr(err->message, path) || !strstr(err->message, part))
        fail_msg("not the expected message: %s", err->message);
}

static void test_absent(void **state) {
    (void)state;
    Error err = {0};
    put("file", "");
    static const char *const paths[] = {"absent", "absent/too", "file/none"};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(file_find(paths[i], &err), FILE_ABSENT);
        assert_int_equal(err.code, ERROR_NONE);
        assert_int_equal(file_open(paths[i], FILE_READ, &err), -1);
        assert_failure(&err, ERROR_INPUT, paths[i], i < 2 ? "No such file" : "Not a directory");
        err = (Error){0};
        assert_int_equal(file_open(paths[i], FILE_CHANGE, &err), -1);
        assert_int_equal(err.code, ERROR_INPUT);
        err = (Error){0};
    }
    assert_int_equal(access("absent", F_OK), -1); /* changing makes none */
    unlink("file");
}

/* What the system does not let us see is neither there nor absent. */
static void test_cannot_look(void **state) {
    (void)state;
    char name[400];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    assert_int_equal(symlink("loop", "loop"), 0);
    const char *const paths[] = {name, "loop/file"};
    const int causes[] = {ENAMETOOLONG, ELOOP};
    for (int i = 0; i < 2; i++) {
        Error err = {0};
        assert_int_equal(file_find(paths[i], &err), FILE_UNUSABLE);
        assert_failure(&err, ERROR_SYSTEM, "", strerror(causes[i]));
        err = (Error){0};
        assert_int_equal(file_open(paths[i], FILE_READ, &err), -1);
        assert_failure(&err, ERROR_SYSTEM, "", strerror(causes[i]));
    }
    unlink("loop");
}

static void test_regular_files(void **state) {
    (void)state;
    Error err = {0};
    put("file", "one");
    assert_int_equal(file_find("file", &err), FILE_REGULAR);
    assert_content("file", "one");
    int fd = file_open("file", FILE_CHANGE, &err);
    assert_true(fd >= 0);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    char text[8];
    assert_int_equal(file_read_bytes(fd, text, sizeof text), 3); /* and then the file ends */
    assert_true(file_write_bytes(fd, " two", 4));
    close(fd);
    assert_content("file", "one two");
    assert_true(file_sync("file", &err));
    assert_true(file_sync_directory(".", &err));
    assert_int_equal(file_open("file", FILE_CREATE, &err), -1);
    assert_failure(&err, ERROR_SYSTEM, "file", "File exists");
    err = (Error){0};
    size_t bytes;
    assert_null(file_read("file", 6, arena, &bytes, &err));
    assert_failure(&err, ERROR_INPUT, "file", "has 7 bytes, more than the 6");
    unlink("file");
    err = (Error){0};
    assert_false(file_sync("file", &err));
    assert_failure(&err, ERROR_SYSTEM, "file", "No such file");
}

static void make_socket(const char *path) {
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    strcpy(name.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&name, sizeof name), 0);
    close(fd);
}

static void test_other_things(void **state) {
    (void)state;
    put("file", "kept");
    assert_int_equal(mkdir("directory", 0700), 0);
    assert_int_equal(mkfifo("fifo", 0600), 0);
    assert_int_equal(symlink("file", "link"), 0);
    assert_int_equal(symlink("nowhere", "dangling"), 0);
    make_socket("socket");
    static const struct {
        const char *path, *found;
    } things[] = {{"directory", "is a directory"}, {"fifo", "is a FIFO"},
                  {"link", "is a symbolic link"},  {"dangling", "is a symbolic link"},
                  {"socket", "is a socket"},       {"/dev/zero", "is a device"}};
    for (size_t i = 0; i < sizeof things / sizeof *things; i++) {
        const char *path = things[i].path, *found = things[i].found;
        Error err = {0};
        assert_int_equal(file_find(path, &err), FILE_UNUSABLE);
        assert_failure(&err, ERROR_INPUT, path, found);
        for (FileUse use = FILE_READ; use <= FILE_CHANGE; use++) {
            err = (Error){0};
            assert_int_equal(file_open(path, use, &err), -1);
            assert_failure(&err, ERROR_INPUT, path, found);
        }
        err = (Error){0};
        assert_int_equal(file_open(path, FILE_CREATE, &err), -1);
        assert_failure(&err, ERROR_SYSTEM, path, "File exists");
        size_t bytes;
        err = (Error){0};
        assert_null(file_read(path, 1 << 10, arena, &bytes, &err));
        assert_failure(&err, ERROR_INPUT, path, found);
    }
    assert_int_equal(access("nowhere", F_OK), -1); /* not made through the link */
    assert_content("file", "kept");
    rmdir("directory");
    static const char *const made[] = {"fifo", "link", "dangling", "socket", "file"};
    for (int i = 0; i < 5; i++) assert_int_equal(unlink(made[i]), 0);
}

static void test_several_names(void **state) {
    (void)state;
    Error err = {0};
    put("file", "ours");
    assert_int_equal(link("file", "second"), 0);
    assert_content("second", "ours"); /* reading changes nothing */
    assert_int_equal(file_open("file", FILE_CHANGE, &err), -1);
    assert_failure(&err, ERROR_INPUT, "file", "is a file of 2 names");
    unlink("second");
    err = (Error){0};
    int fd = file_open("file", FILE_CHANGE, &err);
    assert_true(fd >= 0);
    close(fd);
    unlink("file");
}

static void test_links_of_the_user(void **state) {
    (void)state;
    put("file", "");
    assert_int_equal(symlink("file", "link"), 0);
    assert_int_equal(symlink("nowhere", "dangling"), 0);
    assert_string_equal(file_resolve("file", arena), "file");
    assert_string_equal(file_resolve("absent", arena), "absent");
    assert_string_equal(file_resolve("dangling", arena), "dangling");
    const char *found = file_resolve("link", arena);
    assert_string_equal(strrchr(found, '/'), "/file");
    assert_content(found, "");
    unlink("link");
    unlink("dangling");
    unlink("file");
}

/* The folder above each new one is synced, and no other. */
static void test_new_directories_are_synced(void **state) {
    (void)state;
    Error err = {0};
    char root[256];
    assert_non_null(getcwd(root, sizeof root));
    synced[0] = '\0';
    assert_true(file_make_directories("a//b/", &err));
    assert_string_equal(synced, arena_format(arena, "%s\n%s/a\n", root, root));
    synced[0] = '\0';
    assert_true(file_make_directories(arena_format(arena, "%s/a/b/c", root), &err));
    assert_string_equal(synced, arena_format(arena, "%s/a/b\n", root));
    synced[0] = '\0';
    assert_true(file_make_directories("a/b/c", &err)); /* which is there */
    assert_true(file_make_directories("/", &err));
    assert_string_equal(synced, "");
    fsync_cause = EINVAL; /* what cannot sync directories */
    assert_true(file_make_directories("a/b/d", &err));
    fsync_cause = EIO;
    assert_false(file_make_directories("a/b/e", &err));
    assert_failure(&err, ERROR_SYSTEM, "a/b", "cannot sync: Input/output error");
    fsync_cause = 0;
    err = (Error){0};
    put("a/file", "");
    assert_false(file_make_directories("a/file/f", &err));
    assert_failure(&err, ERROR_INPUT, "cannot make the directory a/file/f", "Not a directory");
    unlink("a/file");
    static const char *const made[] = {"a/b/c", "a/b/d", "a/b/e", "a/b", "a"};
    for (int i = 0; i < 5; i++) assert_int_equal(rmdir(made[i]), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_absent),
        cmocka_unit_test(test_cannot_look),
        cmocka_unit_test(test_regular_files),
        cmocka_unit_test(test_other_things),
        cmocka_unit_test(test_several_names),
        cmocka_unit_test(test_new_directories_are_synced),
        cmocka_unit_test(test_links_of_the_user),
    };
    return cmocka_run_group_tests_name("file", tests, enter, leave);
}
