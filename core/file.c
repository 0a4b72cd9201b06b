#include "core/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- What is there ---- */

static bool fail_call(const char *path, int cause, Error *err) {
    bool is_absent = cause == ENOENT || cause == ENOTDIR;
    return FAIL(err, is_absent ? ERROR_INPUT : ERROR_SYSTEM, "%s: %s", path, strerror(cause));
}

static bool check_kind(const char *path, mode_t mode, Error *err) {
    if (S_ISREG(mode)) return true;
    if (S_ISLNK(mode))
        return FAIL(err, ERROR_INPUT,
                    "%s is a symbolic link, where the file itself is expected; links are not "
                    "followed here: put the file in its place",
                    path);
    const char *found = S_ISDIR(mode)                    ? "directory"
                        : S_ISFIFO(mode)                 ? "FIFO"
                        : S_ISCHR(mode) || S_ISBLK(mode) ? "device"
                                                         : "socket";
    return FAIL(err, ERROR_INPUT, "%s is a %s, where a regular file is expected; move it away",
                path, found);
}

FileState file_find(const char *path, Error *err) {
    struct stat status;
    if (!lstat(path, &status))
        return check_kind(path, status.st_mode, err) ? FILE_REGULAR : FILE_UNUSABLE;
    if (errno == ENOENT || errno == ENOTDIR) return FILE_ABSENT;
    fail_call(path, errno, err);
    return FILE_UNUSABLE;
}

/* ---- Opening ---- */

static bool check_opened(int fd, const char *path, FileUse use, Error *err) {
    struct stat status;
    if (fstat(fd, &status)) return fail_call(path, errno, err);
    TRY(check_kind(path, status.st_mode, err));
    if (use == FILE_READ || status.st_nlink <= 1) return true;
    return FAIL(err, ERROR_INPUT,
                "%s is a file of %lu names (hard links): writing to it would change the others; "
                "replace it by a copy of its own",
                path, (unsigned long)status.st_nlink);
}

/* What is no regular file is not even opened where it can be helped: that alone may do something to
 * a device. */
int file_open(const char *path, FileUse use, Error *err) {
    static const int flags[] = {
        [FILE_READ] = O_RDONLY, [FILE_CHANGE] = O_RDWR, [FILE_CREATE] = O_RDWR | O_CREAT | O_EXCL};
    if (use != FILE_CREATE && file_find(path, err) == FILE_UNUSABLE) return -1;
    int fd = open(path, flags[use] | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0666);
    if (fd < 0) {
        if (use == FILE_CREATE)
            (void)FAIL(err, ERROR_SYSTEM, "%s: cannot write: %s", path, strerror(errno));
        else
            fail_call(path, errno, err);
        return -1;
    }
    if (check_opened(fd, path, use, err)) return fd;
    close(fd);
    return -1;
}

const char *file_resolve(const char *path, Arena *arena) {
    struct stat status;
    if (lstat(path, &status) || !S_ISLNK(status.st_mode)) return path;
    char *target = realpath(path, NULL);
    if (target) path = arena_strdup(arena, target);
    free(target);
    return path;
}

/* ---- Bytes ---- */

ssize_t file_read_bytes(int fd, void *buffer, size_t bytes) {
    size_t done = 0;
    while (done < bytes) {
        ssize_t got = read(fd, (char *)buffer + done, bytes - done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -1;
        if (got == 0) break;
        done += (size_t)got;
    }
    return (ssize_t)done;
}

bool file_write_bytes(int fd, const void *buffer, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        ssize_t put = write(fd, (const char *)buffer + done, bytes - done);
        if (put < 0 && errno == EINTR) continue;
        if (put == 0) errno = EIO;
        if (put <= 0) return false;
        done += (size_t)put;
    }
    return true;
}

static char *read_fd(int fd, const char *path, size_t bytes_max, Arena *arena, size_t *bytes,
                     Error *err) {
    struct stat status;
    if (fstat(fd, &status)) {
        fail_call(path, errno, err);
        return NULL;
    }
    if ((uint64_t)status.st_size > bytes_max) {
        (void)FAIL(err, ERROR_INPUT, "%s has %lld bytes, more than the %zu that it may have", path,
                   (long long)status.st_size, bytes_max);
        return NULL;
    }
    char *text = arena_alloc(arena, (size_t)status.st_size + 1);
    ssize_t got = file_read_bytes(fd, text, (size_t)status.st_size);
    if (got < 0) {
        fail_call(path, errno, err);
        return NULL;
    }
    text[got] = '\0';
    *bytes = (size_t)got;
    return text;
}

char *file_read(const char *path, size_t bytes_max, Arena *arena, size_t *bytes, Error *err) {
    int fd = file_open(path, FILE_READ, err);
    if (fd < 0) return NULL;
    char *text = read_fd(fd, path, bytes_max, arena, bytes, err);
    close(fd);
    return text;
}

static bool map_fd(int fd, const char *path, FileMap *out, Error *err) {
    struct stat status;
    if (fstat(fd, &status)) return fail_call(path, errno, err);
    TRY(check_kind(path, status.st_mode, err));
    if (status.st_size == 0) return true;
    void *bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED) return fail_call(path, errno, err);
    *out = (FileMap){bytes, (size_t)status.st_size};
    return true;
}

bool file_map(const char *path, FileMap *out, Error *err) {
    *out = (FileMap){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return fail_call(path, errno, err);
    bool is_mapped = map_fd(fd, path, out, err);
    close(fd);
    return is_mapped;
}

void file_unmap(FileMap map) {
    if (map.count > 0) munmap((void *)(uintptr_t)map.bytes, map.count);
}

/* ---- To the disk ---- */

static bool sync_path(const char *path, int flags, Error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | flags);
    if (fd < 0) return FAIL(err, ERROR_SYSTEM, "%s: %s", path, strerror(errno));
    int status = fsync(fd), cause = errno;
    close(fd);
    if (status && !(flags & O_DIRECTORY && cause == EINVAL))
        return FAIL(err, ERROR_SYSTEM, "%s: cannot sync: %s", path, strerror(cause));
    return true;
}

bool file_sync(const char *path, Error *err) {
    return sync_path(path, O_NOFOLLOW, err);
}

bool file_sync_directory(const char *path, Error *err) {
    return sync_path(path, O_DIRECTORY, err);
}

/* ---- Directories ---- */

/* Of `path`, whose last name begins at `last`: what has that name, on the disk. A folder that we
 * may change but not read cannot be synced. */
static bool sync_parent(char *path, size_t last, Error *err) {
    char saved = path[last];
    path[last] = '\0';
    const char *parent = last ? path : ".";
    bool is_done = access(parent, R_OK) || file_sync_directory(parent, err);
    path[last] = saved;
    return is_done;
}

static bool make_directory(char *path, size_t last, Error *err) {
    if (!mkdir(path, 0777)) return sync_parent(path, last, err);
    int cause = errno;
    if (cause == EEXIST) return true;
    bool is_full = cause == EIO || cause == ENOSPC || cause == EDQUOT;
    return FAIL(err, is_full ? ERROR_SYSTEM : ERROR_INPUT, "cannot make the directory %s: %s", path,
                strerror(cause));
}

bool file_make_directories(const char *directory, Error *err) {
    Arena *arena = arena_new("directory name");
    char *path = arena_strdup(arena, directory);
    bool is_done = true;
    for (size_t last = strspn(path, "/"), end; is_done && path[last];
         last = end + strspn(path + end, "/")) {
        end = last + strcspn(path + last, "/");
        char saved = path[end];
        path[end] = '\0';
        is_done = make_directory(path, last, err);
        path[end] = saved;
    }
    arena_free(arena);
    return is_done;
}
