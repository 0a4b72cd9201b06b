/* Processes that measure. Each thing is measured in a process of its own, so that its memory can be
 * told from that of others, and several can wait for their turns.
 *
 * A worker is a fork: who starts one must not have run a parallel region before, because the idle
 * threads of an OpenMP team do not come along. */
#ifndef NIBBLE_EXPERIMENTS_BENCH_BENCH_WORKER_H
#define NIBBLE_EXPERIMENTS_BENCH_BENCH_WORKER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "core/error.h"

typedef struct BenchWorker {
    pid_t pid; /* 0: none */
    int fd;    /* both ways */
} BenchWorker;

/* Runs `work` in a new process, which ends when it returns. */
bool bench_worker_start(BenchWorker *worker, void (*work)(int fd, const void *context),
                        const void *context, Error *err);

/* All of `bytes`, or false: the other side is gone. */
bool bench_worker_write(int fd, const void *data, size_t bytes);
bool bench_worker_read(int fd, void *data, size_t bytes);

/* Closes the line, upon which a waiting worker ends, and waits for it. False if it had failed. */
bool bench_worker_end(BenchWorker *worker);

#endif
