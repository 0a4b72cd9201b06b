/* A library that is loaded before libc (LD_PRELOAD) and makes one system call of a program fail.
 *
 *   NIBBLE_FAIL="CALL NUMBER ERRNO"   the NUMBER-th call of CALL for a file of the folder "cell"
 *                                     fails with ERRNO; 0: it does half of what was asked
 *   NIBBLE_FAIL_MARK=PATH             a file that is made when it does */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Functions are found by their names. */
#pragma GCC visibility push(default)

static bool is_of_cell(const char *path) {
    size_t length = strlen(path);
    bool is_folder = length >= 5 && !strcmp(path + length - 5, "/cell");
    return is_folder || !strcmp(path, "cell") || !strncmp(path, "cell/", 5) ||
           strstr(path, "/cell/");
}

static bool is_cell_fd(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return false;
    path[length] = 0;
    return is_of_cell(path);
}

/* Whether this call fails; errno is then set, and *is_half says that it is to do half. */
static bool fails(const char *call, bool is_here, bool *is_half) {
    static int seen;
    const char *wanted = getenv("NIBBLE_FAIL"), *mark = getenv("NIBBLE_FAIL_MARK");
    char name[32];
    int number, code;
    *is_half = false;
    if (!is_here || !wanted || sscanf(wanted, "%31s %d %d", name, &number, &code) != 3)
        return false;
    if (strcmp(name, call) != 0) return false;
    if (__atomic_add_fetch(&seen, 1, __ATOMIC_RELAXED) != number) return false;
    if (mark) syscall(SYS_close, syscall(SYS_openat, AT_FDCWD, mark, O_CREAT | O_WRONLY, 0600));
    *is_half = code == 0;
    errno = code;
    return true;
}

#define REAL(name, ...)                                                                            \
    static __typeof__(&name) real;                                                                 \
    if (!real) real = (__typeof__(real))dlsym(RTLD_NEXT, #name);                                   \
    return real(__VA_ARGS__)

/* Those that move bytes, with the position or without. */
#define MOVES(type, name, call, ...)                                                               \
    ssize_t name(int fd, type buffer, size_t count __VA_ARGS__) {                                  \
        bool is_half;                                                                              \
        if (fails(call, is_cell_fd(fd), &is_half)) {                                               \
            if (!is_half) return -1;                                                               \
            count = (count + 1) / 2;                                                               \
        }
MOVES(const void *, write, "write")
REAL(write, fd, buffer, count);
}
MOVES(void *, read, "read")
REAL(read, fd, buffer, count);
}
MOVES(const void *, pwrite, "pwrite", , off_t at)
REAL(pwrite, fd, buffer, count, at);
}
MOVES(const void *, pwrite64, "pwrite", , off64_t at)
REAL(pwrite64, fd, buffer, count, at);
}
MOVES(void *, pread, "read", , off_t at)
REAL(pread, fd, buffer, count, at);
}
MOVES(void *, pread64, "read", , off64_t at)
REAL(pread64, fd, buffer, count, at);
}

int fsync(int fd) {
    bool is_half;
    if (fails("fsync", is_cell_fd(fd), &is_half) && !is_half) return -1;
    REAL(fsync, fd);
}

int rename(const char *from, const char *to) {
    bool is_half;
    if (fails("rename", is_of_cell(to), &is_half) && !is_half) return -1;
    REAL(rename, from, to);
}

static mode_t mode_of(int flags, va_list args) {
    return flags & (O_CREAT | O_TMPFILE) ? (mode_t)va_arg(args, unsigned) : 0;
}

#define OPENS(name)                                                                                \
    int name(const char *path, int flags, ...) {                                                   \
        bool is_half;                                                                              \
        va_list args;                                                                              \
        va_start(args, flags);                                                                     \
        mode_t mode = mode_of(flags, args);                                                        \
        va_end(args);                                                                              \
        if (fails("open", is_of_cell(path), &is_half) && !is_half) return -1;                      \
        REAL(name, path, flags, mode);                                                             \
    }
OPENS(open)
OPENS(open64)

#define STATS(name, type)                                                                          \
    int name(const char *path, struct type *to) {                                                  \
        bool is_half;                                                                              \
        if (fails("stat", is_of_cell(path), &is_half) && !is_half) return -1;                      \
        REAL(name, path, to);                                                                      \
    }
STATS(stat, stat)
STATS(lstat, stat)
STATS(stat64, stat64)
STATS(lstat64, stat64)

#define FSTATS(name, type)                                                                         \
    int name(int fd, struct type *to) {                                                            \
        bool is_half;                                                                              \
        if (fails("stat", is_cell_fd(fd), &is_half) && !is_half) return -1;                        \
        REAL(name, fd, to);                                                                        \
    }
FSTATS(fstat, stat)
FSTATS(fstat64, stat64)
