/* The run directory and the files in it. */
#ifndef NIBBLE_EXPERIMENTS_TRAIN_RUN_H
#define NIBBLE_EXPERIMENTS_TRAIN_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "core/arena.h"
#include "core/error.h"

#define RUN_CONFIG      "config.yaml"   /* resolved */
#define RUN_ENVIRONMENT "env.json"      /* machine, threads, BLAS, versions */
#define RUN_METRICS     "metrics.jsonl" /* as it runs */
#define RUN_SUMMARY     "summary.json"  /* at the end */
#define RUN_CHECKPOINT  "checkpoint.h5" /* the latest */
#define RUN_PREVIOUS    "checkpoint.prev.h5"
#define RUN_BEST        "best.h5"      /* by the validation split */
#define RUN_QUANTIZED   "quantized.h5" /* the packed model */
#define RUN_LOGITS      "logits.h5"    /* of the fake-quant network on the test set, by convert */
#define RUN_REPORT      "report.html"

/* Folders of a comparison's directory, which is no run: its runs, and what was found of each. */
#define RUNS_FOLDER      "runs"
#define RUNS_EVALUATIONS "evaluations"

typedef struct RunClaim {
    int fd; /* of the directory, locked; -1: none */
} RunClaim;

const char *run_path(Arena *arena, const char *directory, const char *file);

/* Makes the directory and its parents and claims it. One that holds a run already is refused,
 * unless `force`, which removes the files of that run (and no others). */
bool run_create(const char *directory, bool force, RunClaim *claim, Error *err);
/* Makes this process the only one that trains in `directory`, until it ends or releases the claim,
 * and removes what killed ones left half-written. Another process that trains there: ERROR_INPUT.
 */
bool run_claim(const char *directory, RunClaim *claim, Error *err);
/* Removes the files of a run, and no others. */
bool run_clear(const char *directory, Error *err);
void run_release(RunClaim *claim);
/* A file of a run that is in `directory` already; NULL: none, and there need be no directory. */
const char *run_find_file(const char *directory);
/* Whether --out may be used without --force. */
bool run_is_free(const char *directory, Error *err);
/* What a run goes on from is absent, or a regular file that can be looked at; else nothing may be
 * made of the run, nor written there. */
bool run_check_files(const char *directory, Error *err);
/* The directory is there and holds a run. */
bool run_exists(const char *directory, Error *err);
/* It is not the directory of a comparison, which holds runs. */
bool run_is_one(const char *directory, Error *err);

#endif
