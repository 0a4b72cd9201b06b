/* The shadow during training: a line of metrics.jsonl every train.shadow_every steps. */
#ifndef NIBBLE_EXPERIMENTS_TRAIN_SHADOW_LINE_H
#define NIBBLE_EXPERIMENTS_TRAIN_SHADOW_LINE_H

#include "experiments/train/experiment.h"

enum { SHADOW_LINE_ROWS = 64 };

/* Whether there is a shadow to look at: something is quantized by now, and has its range. */
bool shadow_line_is_due(const Experiment *e, int64_t step);

/* The line after `step` steps, made in `arena`: KL and changed predictions, and each layer's SQNR,
 * over the first SHADOW_LINE_ROWS rows of the validation split, or without one of the training
 * images, not augmented. Of averaged weights where there are any, as all evaluations. Nothing that
 * trains is changed, not in one bit. */
bool shadow_line_make(Experiment *e, int64_t step, int64_t epoch, Arena *arena, const char **line,
                      Error *err);

#endif
