/* nibble eval DIR --sensitivity: layers ranked by what each costs when it alone is quantized. */
#ifndef NIBBLE_EXPERIMENTS_COMMANDS_EVAL_SENSITIVITY_H
#define NIBBLE_EXPERIMENTS_COMMANDS_EVAL_SENSITIVITY_H

#include "core/json.h"
#include "experiments/train/task.h"

enum { EVAL_SENSITIVITY_ROWS = 1000 }; /* unless asked for otherwise */

/* Over the first `rows` rows (0: all) of the validation split: of layers as settings quantize them,
 * the most costly first; where nothing is quantized, of their weights at 8, 4, 3 and 2 bits. The
 * object is the caller's. */
bool eval_sensitivity(Experiment *e, int64_t rows, Json **out, Error *err);
void eval_sensitivity_print(const Json *json, const Task *task, Arena *arena);

#endif
