/* metrics.jsonl: a log of whole lines, appended to while a run trains.
 *
 * A run that goes on cuts what was written behind its checkpoint. Lines before that which are gone
 * or torn stop no run: what is missing is told, and each of these lines becomes METRICS_MISSING, so
 * that the count of lines is that of the run. */
#ifndef NIBBLE_EXPERIMENTS_TRAIN_METRICS_H
#define NIBBLE_EXPERIMENTS_TRAIN_METRICS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/error.h"

#define METRICS_MISSING "{\"missing\":true}"

typedef struct Metrics {
    const char *path; /* borrowed */
    int file;         /* descriptor, -1: closed */
    int64_t lines;
} Metrics;

/* Opens for appending behind the first `keep_lines` lines. */
bool metrics_open(Metrics *m, const char *path, int64_t keep_lines, Error *err);
bool metrics_add(Metrics *m, const char *line, Error *err); /* without the line break */
/* Gets the lines to the disk: due before a checkpoint that counts them is published. */
bool metrics_sync(const Metrics *m, Error *err);
void metrics_close(Metrics *m);

#endif
