/* A piece of work in a process of its own: what it takes of memory goes back, and when it crashes,
 * only it does. Its failure comes back as an Error, what it prints goes to a log.
 *
 * A worker is a fork: who starts one has not run a parallel region before. It never outlives the
 * process that started it, however that ends. Of a terminal's Ctrl-C it hears through worker_stop
 * alone, so that it is told once. */
#ifndef NIBBLE_EXPERIMENTS_COMPARE_WORKER_H
#define NIBBLE_EXPERIMENTS_COMPARE_WORKER_H

#include <stdbool.h>
#include <sys/types.h>

#include "core/error.h"

typedef bool (*WorkerJob)(void *context, Error *err);

typedef struct Worker {
    pid_t pid;    /* 0: none */
    Error *error; /* shared with the process */
} Worker;

/* Starts `job`; what it prints is appended to the file `log`. */
bool worker_start(Worker *worker, WorkerJob job, void *context, const char *log, Error *err);

/* Whether it has ended; if so, `*ok` and `err` are the job's. Never waits. */
bool worker_has_ended(Worker *worker, bool *ok, Error *err);

/* Asks it to save and stop. */
void worker_stop(const Worker *worker);

#endif
