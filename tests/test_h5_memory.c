/* libhdf5 without memory: each of its allocations fails in turn, and no message blames the file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <dlfcn.h>
#include <errno.h>
#include <hdf5.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "data/h5.h"
#include "data/sandbox.h"

/* ---- The allocator of the whole process, which refuses libhdf5 one allocation ---- */

static long allowed = -1; /* allocations until that one; below 0: none is refused */
static bool is_refused;

static bool refuses(const void *caller) {
    Dl_info place;
    if (allowed < 0 || !dladdr(caller, &place) || !strstr(place.dli_fname, "hdf5")) return false;
    is_refused |= allowed == 0;
    if (allowed-- > 0) return false;
    errno = ENOMEM;
    return true;
}

#ifndef __SANITIZE_ADDRESS__
#define FOR_LIBRARIES __attribute__((visibility("default")))
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *memory, size_t bytes);

FOR_LIBRARIES void *malloc(size_t bytes) {
    return refuses(__builtin_return_address(0)) ? NULL : __libc_malloc(bytes);
}

FOR_LIBRARIES void *calloc(size_t count, size_t bytes) {
    return refuses(__builtin_return_address(0)) ? NULL : __libc_calloc(count, bytes);
}

FOR_LIBRARIES void *realloc(void *memory, size_t bytes) {
    return refuses(__builtin_return_address(0)) ? NULL : __libc_realloc(memory, bytes);
}
#endif

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
    return unlink("file.h5") || chdir("/") || rmdir(folder);
}

static void write_file(void) {
    Error err = {0};
    float *values = arena_new_array(arena, float, COUNT);
    H5Writer *w = h5_write_begin("file.h5", 0, arena, &err);
    assert_non_null(w);
    h5_write_tensor(w, "group/tensor", H5_F32, SHAPE(COUNT), values);
    h5_write_text(w, "text", "some words");
    h5_write_int(w, "group", "number", 7);
    h5_write_float(w, "group/tensor", "real", 0.5);
    assert_true(h5_write_commit(w, NULL, &err));
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

static bool read_file(bool is_foreign, Error *err) {
    H5Reader *r =
        is_foreign ? h5_read_foreign("file.h5", arena, err) : h5_read_open("file.h5", arena, err);
    bool ok = r && read_parts(r, err);
    allowed = -1;
    h5_read_close(r);
    return ok;
}

/* Says so where the blame is wrong. */
static bool is_well_blamed(const Error *err, long at) {
    static const char *const wrong[] = {"stored outside", "damaged", "has no ",
                                        "has something",  "is not",  "not an",
                                        "is neither",     "link to", "element type"};
    bool is_well = err->code == ERROR_SYSTEM && strstr(err->message, "file.h5: cannot read: ");
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        is_well &= !strstr(err->message, wrong[i]);
    if (!is_well) print_error("allocation %ld: code %d: %s\n", at, err->code, err->message);
    return is_well;
}

typedef enum Outcome { READ, READ_WITHOUT_ONE, FAILED, CRASHED, BLAMED_WRONGLY } Outcome;

/* In a process of its own, since libhdf5 is not itself again after some failures, and crashes after
 * a few. */
static Outcome read_without(long at, bool is_foreign) {
    int status;
    pid_t child = fork();
    if (!child) {
        Error err = {0};
        alarm(60);
        signal(SIGSEGV, SIG_DFL);
        allowed = at;
        bool is_read = read_file(is_foreign, &err);
        if (!is_read) _exit(is_well_blamed(&err, at) ? FAILED : BLAMED_WRONGLY);
        _exit(is_refused ? READ_WITHOUT_ONE : READ);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? (Outcome)WEXITSTATUS(status) : CRASHED;
}

static void check_each_allocation(bool is_foreign) {
    long counts[BLAMED_WRONGLY + 1] = {0};
    for (long at = 0; !counts[READ]; at++) counts[read_without(at, is_foreign)]++;
    assert_int_equal(counts[BLAMED_WRONGLY], 0);
    assert_true(counts[FAILED] > 50 && counts[FAILED] > 20 * counts[CRASHED]);
}

static void test_sealed_files(void **state) {
    (void)state;
    if (!sandbox_bounds_memory()) skip(); /* sanitizers have their own allocator */
    write_file();
    check_each_allocation(false);
}

static void test_foreign_files(void **state) {
    (void)state;
    if (!sandbox_bounds_memory()) skip();
    write_file();
    check_each_allocation(true);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sealed_files),
                                       cmocka_unit_test(test_foreign_files)};
    return cmocka_run_group_tests(tests, enter, leave);
}
