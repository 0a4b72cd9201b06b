#include "data/bytes.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file.h"

static bool read_fd(int fd, const char *path, Arena *arena, Bytes *out, Error *err) {
    struct stat status;
    if (fstat(fd, &status)) return FAIL(err, ERROR_SYSTEM, "%s: %s", path, strerror(errno));
    if (!S_ISREG(status.st_mode)) return FAIL(err, ERROR_INPUT, "%s: not a regular file", path);
    unsigned char *data = arena_alloc(arena, (size_t)status.st_size + 1);
    ssize_t got = file_read_bytes(fd, data, (size_t)status.st_size);
    if (got < 0) return FAIL(err, ERROR_SYSTEM, "%s: %s", path, strerror(errno));
    *out = (Bytes){data, (size_t)got}; /* one that became shorter is named by its format's check */
    return true;
}

bool bytes_read(const char *path, Arena *arena, Bytes *out, Error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not stall us */
    if (fd < 0) return FAIL(err, ERROR_INPUT, "%s: %s", path, strerror(errno));
    bool is_read = read_fd(fd, path, arena, out, err);
    close(fd);
    return is_read;
}
