#include "experiments/bench/bench_worker.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

bool bench_worker_start(BenchWorker *worker, void (*work)(int fd, const void *context),
                        const void *context, Error *err) {
    int ends[2];
    *worker = (BenchWorker){0};
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends))
        return FAIL(err, ERROR_SYSTEM, "cannot make a line to a process: %s", strerror(errno));
    fflush(NULL); /* what is buffered would be printed twice */
    pid_t pid = fork();
    int cause = errno;
    if (pid == 0) {
        close(ends[0]);
        work(ends[1], context);
        _exit(0);
    }
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        return FAIL(err, ERROR_SYSTEM, "cannot start a process: %s", strerror(cause));
    }
    *worker = (BenchWorker){pid, ends[0]};
    return true;
}

bool bench_worker_write(int fd, const void *data, size_t bytes) {
    const char *at = data;
    while (bytes) {
        ssize_t done = send(fd, at, bytes, MSG_NOSIGNAL);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return false;
        at += done;
        bytes -= (size_t)done;
    }
    return true;
}

bool bench_worker_read(int fd, void *data, size_t bytes) {
    char *at = data;
    while (bytes) {
        ssize_t done = recv(fd, at, bytes, 0);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return false;
        at += done;
        bytes -= (size_t)done;
    }
    return true;
}

bool bench_worker_end(BenchWorker *worker) {
    if (!worker->pid) return true;
    /* Not close alone: workers that were started later hold a copy of this end. */
    shutdown(worker->fd, SHUT_RDWR);
    close(worker->fd);
    int status = 0;
    while (waitpid(worker->pid, &status, 0) < 0 && errno == EINTR) continue;
    *worker = (BenchWorker){0};
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}
