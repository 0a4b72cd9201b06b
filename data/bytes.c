#include "data/bytes.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool read_fd(int fd, const char *path, Arena *arena, Bytes *out, Error *err) {
    struct stat status;
    if (fstat(fd, &status)) return FAIL(err, ERROR_SYSTEM, "%s: %s", path, strerror(errno));
    if (!S_ISREG(status.st_mode)) return FAIL(err, ERROR_INPUT, "%s: not a regular file", path);
    size_t count = (size_t)status.st_size, done = 0;
    unsigned char *data = arena_alloc(arena, count + 1);
    while (done < count) {
        ssize_t got = read(fd, data + done, count - done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return FAIL(err, ERROR_SYSTEM, "%s: %s", path, strerror(errno));
        if (got == 0) break; /* became shorter; the format's own check names it */
        done += (size_t)got;
    }
    *out = (Bytes){data, done};
    return true;
}

bool bytes_read(const char *path, Arena *arena, Bytes *out, Error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not stall us */
    if (fd < 0) return FAIL(err, ERROR_INPUT, "%s: %s", path, strerror(errno));
    bool is_read = read_fd(fd, path, arena, out, err);
    close(fd);
    return is_read;
}
