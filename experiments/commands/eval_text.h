/* What `nibble eval` prints at a terminal, of the object that summary_evaluate made. */
#ifndef NIBBLE_EXPERIMENTS_COMMANDS_EVAL_TEXT_H
#define NIBBLE_EXPERIMENTS_COMMANDS_EVAL_TEXT_H

#include "core/json.h"
#include "experiments/train/task.h"

void eval_text_print(const Json *json, const Task *task, Arena *arena);

/* For tables: a space and a number in `width` columns, or `none` where there is none; how wide the
 * names of a list of layers are. */
void eval_text_cell(const Json *json, const char *path, int width, const char *format,
                    const char *none);
int eval_text_width(const Json *json, const char *list);

#endif
