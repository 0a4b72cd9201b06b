#include "experiments/commands/streams.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

bool streams_open(void) {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd) return false;
    return true;
}

static bool has_reader(int fd) {
    struct pollfd stream = {.fd = fd, .events = POLLOUT};
    return poll(&stream, 1, 0) < 0 || !(stream.revents & (POLLERR | POLLHUP));
}

/* A stream does not remember why an earlier write failed. */
bool streams_flush(bool is_result, Error *err) {
    errno = 0;
    if (!fflush(stdout) && !ferror(stdout)) return true;
    int cause = errno;
    if (!is_result && !has_reader(STDOUT_FILENO)) return true;
    return FAIL(err, ERROR_SYSTEM, "cannot write to standard output: %s",
                cause ? strerror(cause) : "a part of it is lost");
}
