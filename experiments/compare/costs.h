/* Which layer hurts: what the weights of each layer alone cost an FP32 network at few bits. */
#ifndef NIBBLE_EXPERIMENTS_COMPARE_COSTS_H
#define NIBBLE_EXPERIMENTS_COMPARE_COSTS_H

#include "core/error.h"
#include "core/json.h"

enum { COSTS_ROWS = 512 }; /* of the validation split, the first */

/* Adds costs_rows, costs_bits[] and costs[].{layer,parameters,kl[]} to the evaluation of the run in
 * `directory`: KL divergence in nats for each of the bits (experiments/train/sensitivity.h).
 * Nothing is added where there is no validation split, or the task has no classes. */
bool costs_add(const char *directory, Json *evaluation, Error *err);

#endif
