/* Files that are whole or absent while system calls fail: each call in turn, with an error of its
 * own, which the message tells. Of damage, tests/test_h5.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/file.h"
#include "data/envelope.h"
#include "experiments/report/report.h"
#include "experiments/report/text.h"
#include "experiments/train/run.h"

/* ---- System calls, of which one fails; closing leaves an errno that no message may tell ---- */

static const char *failing = ""; /* its name */
static int calls_before, cause;  /* how many succeed before, and how it fails */
static bool has_failed;

static bool fails(const char *call) {
    if (strcmp(call, failing) != 0 || calls_before-- != 0) return false;
    has_failed = true;
    errno = cause;
    return true;
}

int open(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    int mode = flags & O_CREAT ? va_arg(arguments, int) : 0;
    va_end(arguments);
    return fails("open") ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int close(int fd) {
    if (fails("close")) return -1;
    int status = (int)syscall(SYS_close, fd);
    errno = EDOM;
    return status;
}

ssize_t read(int fd, void *buffer, size_t bytes) {
    if (fails("read")) return cause ? -1 : 0; /* 0: as if the file ended here */
    return syscall(SYS_read, fd, buffer, bytes);
}

ssize_t write(int fd, const void *buffer, size_t bytes) {
    return fails("write") ? -1 : syscall(SYS_write, fd, buffer, bytes);
}

off_t lseek(int fd, off_t offset, int whence) {
    return fails("lseek") ? -1 : syscall(SYS_lseek, fd, offset, whence);
}

int ftruncate(int fd, off_t bytes) {
    return fails("ftruncate") ? -1 : (int)syscall(SYS_ftruncate, fd, bytes);
}

int fsync(int fd) {
    return fails("fsync") ? -1 : (int)syscall(SYS_fsync, fd);
}

int lstat(const char *path, struct stat *status) {
    return fails("lstat") ? -1 : fstatat(AT_FDCWD, path, status, AT_SYMLINK_NOFOLLOW);
}

int fstat(int fd, struct stat *status) {
    return fails("fstat") ? -1 : fstatat(fd, "", status, AT_EMPTY_PATH);
}

int rename(const char *from, const char *to) {
    return fails("rename") ? -1 : renameat(AT_FDCWD, from, AT_FDCWD, to);
}

int link(const char *from, const char *to) {
    return fails("link") ? -1 : linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int stat(const char *path, struct stat *status) {
    return fails("stat") ? -1 : fstatat(AT_FDCWD, path, status, 0);
}

int mkdir(const char *path, mode_t mode) {
    return fails("mkdir") ? -1 : mkdirat(AT_FDCWD, path, mode);
}

/* ---- In an empty folder ---- */

static char folder[] = "/tmp/test_envelope_XXXXXX";
static Arena *arena;

static int enter(void **state) {
    (void)state;
    arena = arena_new("test");
    return !mkdtemp(folder) || chdir(folder);
}

static int leave(void **state) {
    (void)state;
    arena_free(arena);
    static const char *const made[] = {"file", "previous", "text"};
    for (int i = 0; i < 3; i++) unlink(made[i]);
    return chdir("/") || rmdir(folder); /* nothing else is left */
}

/* A file of this body, as data/h5_write.c makes one; what is left of a failure is removed. */
static bool save(const char *body, Error *err) {
    const char *temporary = envelope_begin("file", arena);
    int fd = file_open(temporary, FILE_CREATE, err);
    bool is_saved = fd >= 0 && (file_write_bytes(fd, body, strlen(body)) ||
                                FAIL(err, ERROR_SYSTEM, "write: %s", strerror(errno)));
    if (fd >= 0) syscall(SYS_close, fd);
    is_saved = is_saved && envelope_seal(temporary, err) &&
               envelope_publish(temporary, "file", "previous", err);
    if (!is_saved) unlink(temporary);
    return is_saved;
}

static void check_body(const char *path, const char *body, const char *other) {
    Error err = {0};
    Envelope e;
    if (!envelope_open(path, arena, &e, &err)) fail_msg("%s", err.message);
    bool is_one = e.bytes == strlen(body) && !memcmp(e.body, body, e.bytes);
    bool is_other = e.bytes == strlen(other) && !memcmp(e.body, other, e.bytes);
    if (!is_one && !is_other) fail_msg("%s: neither %s nor %s", path, body, other);
}

typedef struct Case {
    const char *call;
    int cause;
} Case;

/* Makes each of the calls of this name fail, until one more would be too many. */
static void fail_each(const Case *c, bool (*act)(Error *), void (*check)(bool is_done)) {
    int failures = 0;
    for (int i = 0;; i++) {
        Error err = {0};
        failing = c->call;
        calls_before = i;
        cause = c->cause;
        has_failed = false;
        bool is_done = act(&err);
        failing = "";
        check(is_done);
        if (!has_failed) break;
        if (is_done) continue; /* there was another way */
        failures++;
        if (err.code != ERROR_SYSTEM || !strstr(err.message, strerror(c->cause)) ||
            strstr(err.message, "damaged") || strstr(err.message, "cut short"))
            fail_msg("%s %d: code %d: %s", c->call, i, err.code, err.message);
    }
    if (!failures && strcmp(c->call, "link") != 0) fail_msg("%s never failed", c->call);
}

static bool act_open(Error *err) {
    Envelope e;
    return envelope_open("file", arena, &e, err);
}

static void check_nothing(bool is_done) {
    (void)is_done;
}

static void test_reading(void **state) {
    (void)state;
    static const Case cases[] = {
        {"lstat", EIO}, {"open", EACCES}, {"fstat", ENOMEM}, {"lseek", EOVERFLOW}, {"read", EIO}};
    Error err = {0};
    assert_true(save("first", &err));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        fail_each(&cases[i], act_open, check_nothing);
}

/* Another program cut it while it was read: that says nothing of the file. */
static void test_file_that_becomes_shorter(void **state) {
    (void)state;
    Error err = {0};
    assert_true(save("first", &err));
    for (int i = 0; i < 2; i++) { /* the trailer, the body */
        err = (Error){0};
        failing = "read";
        calls_before = i;
        cause = 0;
        assert_false(act_open(&err));
        failing = "";
        assert_int_equal(err.code, ERROR_SYSTEM);
        assert_non_null(strstr(err.message, "file: became shorter while it was read"));
    }
}

static const char *const bodies[] = {"the first body", "a second one"};

static bool act_save(Error *err) {
    return save(bodies[1], err);
}

/* The old file or the new one, whole; and where it was replaced, the old one is kept. */
static void check_saved(bool is_done) {
    Error err = {0};
    check_body("file", is_done ? bodies[1] : bodies[0], bodies[1]);
    if (is_done) check_body("previous", bodies[0], bodies[0]);
    assert_true(save(bodies[0], &err));
}

static void test_writing(void **state) {
    (void)state;
    static const Case cases[] = {{"lstat", EIO},    {"open", EMFILE},  {"fstat", EIO},
                                 {"read", EIO},     {"write", ENOSPC}, {"ftruncate", EFBIG},
                                 {"close", EDQUOT}, {"fsync", EIO},    {"link", EPERM},
                                 {"rename", EACCES}};
    Error err = {0};
    assert_true(save(bodies[0], &err));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        fail_each(&cases[i], act_save, check_saved);
}

static bool act_text(Error *err) {
    return text_write("text", "a new text", err);
}

static void check_text(bool is_done) {
    size_t bytes;
    Error err = {0};
    const char *text = file_read("text", 100, arena, &bytes, &err);
    assert_non_null(text);
    if (strcmp(text, "a new text") != 0) assert_string_equal(text, "an old text");
    if (is_done) assert_string_equal(text, "a new text");
    assert_true(text_write("text", "an old text", &err));
}

static void test_texts(void **state) {
    (void)state;
    static const Case cases[] = {
        {"open", EMFILE}, {"write", ENOSPC}, {"close", EDQUOT}, {"fsync", EIO}, {"rename", EACCES}};
    Error err = {0};
    assert_true(text_write("text", "an old text", &err));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        fail_each(&cases[i], act_text, check_text);
}

static bool act_read_text(Error *err) {
    size_t bytes;
    return file_read("text", 100, arena, &bytes, err) != NULL;
}

static void test_reading_texts(void **state) {
    (void)state;
    static const Case cases[] = {{"lstat", EIO}, {"open", EACCES}, {"fstat", EIO}, {"read", EIO}};
    Error err = {0};
    assert_true(text_write("text", "an old text", &err));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        fail_each(&cases[i], act_read_text, check_nothing);
}

static bool act_directory(Error *err) {
    RunClaim claim = {.fd = -1};
    bool is_done = file_make_directories("run/inner", err) && run_claim("run/inner", &claim, err) &&
                   report_write("run/inner", &task_classify, err);
    run_release(&claim);
    return is_done;
}

static void check_directory(bool is_done) {
    assert_true(!is_done || !access("run/inner/report.html", R_OK));
    unlink("run/inner/report.html");
    rmdir("run/inner");
    rmdir("run");
}

static void test_directories(void **state) {
    (void)state;
    static const Case cases[] = {
        {"mkdir", ENOSPC}, {"open", EMFILE}, {"fsync", EIO}, {"stat", EIO}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        fail_each(&cases[i], act_directory, check_directory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reading),       cmocka_unit_test(test_file_that_becomes_shorter),
        cmocka_unit_test(test_writing),       cmocka_unit_test(test_texts),
        cmocka_unit_test(test_reading_texts), cmocka_unit_test(test_directories),
    };
    return cmocka_run_group_tests_name("envelope", tests, enter, leave);
}
