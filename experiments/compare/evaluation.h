/* What a comparison keeps of a run: the test set seen once, answer by answer, and how far the
 * outputs are from those of the FP32 run with the same seed. Layout in docs/formats.md. */
#ifndef NIBBLE_EXPERIMENTS_COMPARE_EVALUATION_H
#define NIBBLE_EXPERIMENTS_COMPARE_EVALUATION_H

#include <stdint.h>

#include "core/json.h"

typedef struct EvaluationJob {
    const char *run;       /* its name */
    const char *directory; /* its run directory */
    const char *baseline;  /* that of the FP32 run with the same seed; NULL: it is that run */
    const char *outputs;   /* the file of the FP32 run's outputs, written by that run's job */
    const char *path;      /* the file to write */
    bool is_trained;       /* it has steps */
    bool has_costs;        /* what each layer costs is measured, too (costs.h) */
    double seconds;        /* that making it took; 0: not known */
} EvaluationJob;

/* Evaluates and writes `path` whole. */
bool evaluation_write(const EvaluationJob *job, Error *err);

/* Reads `path` if it is of the checkpoint that `directory` has now; else NULL. */
Json *evaluation_read(const char *path, const char *directory);

#endif
