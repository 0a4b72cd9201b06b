/* The machine and the programs under a run: what env.json holds, time that only goes forward, and
 * memory in use. None of it enters a checkpoint or a result. */
#ifndef NIBBLE_EXPERIMENTS_TRAIN_ENVIRONMENT_H
#define NIBBLE_EXPERIMENTS_TRAIN_ENVIRONMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "core/error.h"
#include "core/json.h"

/* Sets nibble.{version,compiler}, machine.{cpu,cores,usable_cores,memory_bytes},
 * system. {kernel,name}, threads, blas, kernels. After parallel_init. Neither the host's name nor a
 * user's is recorded. What the system does not tell is null. */
void environment_describe(Json *json);
bool environment_write(const char *path, Error *err); /* env.json: just that */

/* Warns where a run's env.json names other inner loops than this process has: it goes on right, but
 * not with the same bits. No such file: nothing; one that cannot be read is warned of. */
void environment_compare(const char *path);

double environment_seconds(void);         /* monotonic, from an arbitrary start */
int64_t environment_rss_bytes(void);      /* memory that this process holds now; 0: unknown */
int64_t environment_peak_rss_bytes(void); /* the most memory this process ever held; 0: unknown */

#endif
