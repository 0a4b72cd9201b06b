/* A comparison from its configuration to its table. */
#ifndef NIBBLE_EXPERIMENTS_COMPARE_COMPARE_H
#define NIBBLE_EXPERIMENTS_COMPARE_COMPARE_H

#include "experiments/compare/comparison.h"

/* Begins in `directory`, or goes on there: what is done stays, what was begun goes on. Prints the
 * results. A signal ends it with ERROR_STOPPED once what is at work has saved. Where a run failed,
 * the others are made all the same, and it ends with ERROR_MISMATCH. */
bool compare_run(const Comparison *comparison, const char *directory, Error *err);

#endif
