/* Runs the program as a script does: in a folder of its own, with its exit code, output and files.
 *
 * A test program calls program_folder_enter as its group's setup: from then on the working
 * directory is an empty folder, removed by program_folder_leave. One thread is the default, so that
 * test programs that run side by side do not stand in each other's way. */
#ifndef NIBBLE_TESTS_PROGRAM_H
#define NIBBLE_TESTS_PROGRAM_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/arena.h"
#include "core/json.h"

#define PROGRAM_SPACE "\x1f" /* a space within a word of a command */
enum { PROGRAM_WORDS_MAX = 40, PROGRAM_TIMEOUT_SECONDS = 300 };

/* How the program is started; zeros for the usual. */
typedef struct Start {
    const char *variable, *value; /* one variable of the environment */
    long file_bytes;              /* RLIMIT_FSIZE: no file may grow beyond; 0: no limit */
    unsigned seconds;             /* until SIGALRM ends it; 0: PROGRAM_TIMEOUT_SECONDS */
    const char *output; /* where its stdout goes; NULL: a file that Result.out is read from */
} Start;

typedef struct Result {
    int code;              /* exit code; -1: ended by a signal */
    int signal;            /* that signal */
    const char *out, *err; /* stdout and stderr */
    int64_t peak_bytes;    /* of memory */
} Result;

static Arena *program_arena;
static char program_folder[] = "/tmp/nibble-program-XXXXXX";
static char program_source_root[4096];

/* ---- Files ---- */

static inline const char *format(const char *text, ...) {
    char buffer[1 << 16];
    va_list arguments;
    va_start(arguments, text);
    int length = vsnprintf(buffer, sizeof buffer, text, arguments);
    va_end(arguments);
    assert_in_range(length, 0, sizeof buffer - 1);
    return arena_strdup(program_arena, buffer);
}

static inline bool file_exists(const char *path) {
    return access(path, F_OK) == 0;
}

/* The content, with a zero behind it. */
static inline unsigned char *file_read(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    if (!file) fail_msg("%s: %s", path, strerror(errno));
    struct stat status;
    assert_int_equal(fstat(fileno(file), &status), 0);
    *bytes = (size_t)status.st_size;
    unsigned char *content = arena_zalloc(program_arena, *bytes + 1);
    assert_int_equal(fread(content, 1, *bytes, file), *bytes);
    fclose(file);
    return content;
}

static inline const char *file_text(const char *path) {
    size_t bytes;
    return (const char *)file_read(path, &bytes);
}

static inline void file_write(const char *path, const void *content, size_t bytes) {
    FILE *file = fopen(path, "wb");
    if (!file) fail_msg("%s: %s", path, strerror(errno));
    assert_int_equal(fwrite(content, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

static inline void text_file(const char *path, const char *text) {
    file_write(path, text, strlen(text));
}

static inline void file_copy(const char *from, const char *to) {
    size_t bytes;
    unsigned char *content = file_read(from, &bytes);
    file_write(to, content, bytes);
}

static inline bool files_equal(const char *a, const char *b) {
    size_t a_bytes, b_bytes;
    const unsigned char *left = file_read(a, &a_bytes), *right = file_read(b, &b_bytes);
    return a_bytes == b_bytes && !memcmp(left, right, a_bytes);
}

static inline void assert_files_equal(const char *a, const char *b) {
    if (!files_equal(a, b)) fail_msg("%s and %s differ", a, b);
}

/* Files in `directory` whose names contain `part`. */
static inline int files_with(const char *directory, const char *part) {
    DIR *listing = opendir(directory);
    if (!listing) return 0;
    int count = 0;
    for (struct dirent *entry; (entry = readdir(listing));)
        count += strstr(entry->d_name, part) != NULL;
    closedir(listing);
    return count;
}

static inline void remove_tree(const char *path) {
    if (!unlink(path)) return; /* also a link to a directory */
    DIR *listing = opendir(path);
    if (!listing) return;
    for (struct dirent *entry; (entry = readdir(listing));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        remove_tree(format("%s/%s", path, entry->d_name));
    }
    closedir(listing);
    rmdir(path);
}

/* ---- The folder ---- */

static inline int program_folder_enter(void **state) {
    (void)state;
    program_arena = arena_new("test");
    if (!getcwd(program_source_root, sizeof program_source_root)) return 1;
    if (!mkdtemp(program_folder) || chdir(program_folder)) return 1;
    setenv("OMP_NUM_THREADS", "1", 1);
    setenv("OMP_WAIT_POLICY", "passive", 1);
    return 0;
}

static inline int program_folder_leave(void **state) {
    (void)state;
    if (chdir("/")) return 1;
    remove_tree(program_folder);
    arena_free(program_arena);
    return 0;
}

/* ---- Running ---- */

static inline void program_redirect(const char *path, int to) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (fd < 0 || dup2(fd, to) < 0) _exit(126);
    close(fd);
}

static inline void program_exec(const Start *start, char *words) {
    char *arguments[PROGRAM_WORDS_MAX + 2] = {(char *)NIBBLE_PROGRAM};
    int count = 1;
    for (char *rest = NULL, *word = strtok_r(words, " ", &rest); word && count <= PROGRAM_WORDS_MAX;
         word = strtok_r(NULL, " ", &rest)) {
        for (char *at = word; (at = strchr(at, PROGRAM_SPACE[0]));) *at = ' ';
        arguments[count++] = word;
    }
    program_redirect(start->output ? start->output : "stdout", 1);
    program_redirect("stderr", 2);
    if (start->variable) setenv(start->variable, start->value, 1);
    struct rlimit limit = {(rlim_t)start->file_bytes, (rlim_t)start->file_bytes};
    if (start->file_bytes && setrlimit(RLIMIT_FSIZE, &limit)) _exit(126);
    alarm(start->seconds ? start->seconds : PROGRAM_TIMEOUT_SECONDS);
    execv(NIBBLE_PROGRAM, arguments);
    _exit(127);
}

/* Starts `nibble COMMAND`; its words are separated by spaces. One at a time. */
static inline pid_t program_start(Start start, const char *command) {
    char words[4096];
    assert_true(strlen(command) < sizeof words);
    strcpy(words, command);
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) program_exec(&start, words);
    return child;
}

static inline Result program_wait(pid_t child) {
    int status = 0;
    struct rusage usage;
    while (wait4(child, &status, 0, &usage) < 0) assert_int_equal(errno, EINTR);
    return (Result){
        .code = WIFEXITED(status) ? WEXITSTATUS(status) : -1,
        .signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0,
        .out = file_exists("stdout") ? file_text("stdout") : "",
        .err = file_text("stderr"),
        .peak_bytes = (int64_t)usage.ru_maxrss * 1024,
    };
}

static inline Result program_run(Start start, const char *command) {
    return program_wait(program_start(start, command));
}

static inline void assert_code(Result result, int code, const char *command) {
    if (result.code != code)
        fail_msg("nibble %s: exit code %d (signal %d) instead of %d\n%s%s", command, result.code,
                 result.signal, code, result.out, result.err);
}

/* Runs `nibble COMMAND`, which must end with `code`. */
static inline Result run(int code, const char *command, ...) {
    char buffer[4096];
    va_list arguments;
    va_start(arguments, command);
    int length = vsnprintf(buffer, sizeof buffer, command, arguments);
    va_end(arguments);
    assert_in_range(length, 0, sizeof buffer - 1);
    Result result = program_run((Start){0}, buffer);
    assert_code(result, code, buffer);
    return result;
}

static inline void assert_has(const char *text, const char *part) {
    assert_non_null(text);
    if (text && !strstr(text, part)) fail_msg("'%s' is not in: %s", part, text);
}

static inline void assert_lacks(const char *text, const char *part) {
    assert_non_null(text);
    if (text && strstr(text, part)) fail_msg("'%s' is in: %s", part, text);
}

/* ---- JSON ---- */

static inline Json *json_of(const char *text) {
    Error err = {0};
    Json *json = json_read_text(text, strlen(text), "json", &err);
    if (!json) fail_msg("%s in: %s", err.message, text);
    return json;
}

static inline double number_of(const Json *json, const char *path) {
    double value = 0;
    if (!json_get_number(json, path, &value)) fail_msg("no number %s", path);
    return value;
}

static inline double fraction_of(const Json *json, const char *path) {
    double value = number_of(json, path);
    if (!(value >= 0 && value <= 1)) fail_msg("%s is %g, no fraction", path, value);
    return value;
}

/* ---- Images as MNIST stores them ---- */

static inline void idx_file(const char *path, unsigned char rank, const int *dimensions,
                            const unsigned char *bytes, size_t count) {
    unsigned char content[1 << 16] = {0, 0, 8, rank};
    size_t at = 4;
    for (int i = 0; i < rank; i++)
        for (int shift = 24; shift >= 0; shift -= 8)
            content[at++] = (unsigned char)(dimensions[i] >> shift);
    assert_true(at + count <= sizeof content);
    memcpy(content + at, bytes, count);
    file_write(path, content, at + count);
}

/* `count` images of side x side pixels of three classes, dark to bright. */
static inline void idx_part(const char *directory, const char *part, int count, int side) {
    unsigned char pixels[1 << 15], labels[1 << 10];
    assert_true(count * side * side <= (int)sizeof pixels && count <= (int)sizeof labels);
    for (int i = 0; i < count; i++) {
        labels[i] = (unsigned char)(i % 3);
        for (int j = 0; j < side * side; j++)
            pixels[i * side * side + j] = (unsigned char)(80 * labels[i] + (i * 31 + j * 17) % 60);
    }
    idx_file(format("%s/%s-images-idx3-ubyte", directory, part), 3, (int[]){count, side, side},
             pixels, (size_t)(count * side * side));
    idx_file(format("%s/%s-labels-idx1-ubyte", directory, part), 1, (int[]){count}, labels,
             (size_t)count);
}

static inline void idx_folder(const char *directory) {
    mkdir(directory, 0777);
    idx_part(directory, "train", 96, 8);
    idx_part(directory, "t10k", 24, 8);
}

/* ---- Configurations: small networks on synthetic images, seconds at most ---- */

#define PROGRAM_DATA                                                                               \
    "data: {kind: synthetic, height: 8, width: 8, classes: 4, train: 320, test: 100, "             \
    "validation: 64, batch: 32, eval_batch: 50, noise: 0.4}\n"
#define PROGRAM_OPTIMIZER "optimizer: {kind: sgd, lr: 0.1, momentum: 0.9}\n"

#endif
