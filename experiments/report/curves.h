/* The charts of a training: loss, the task's first score, learning rate and speed by step. */
#ifndef NIBBLE_EXPERIMENTS_REPORT_CURVES_H
#define NIBBLE_EXPERIMENTS_REPORT_CURVES_H

#include "experiments/report/page.h"
#include "experiments/train/task.h"

/* Of the lines of metrics.jsonl; those that cannot be read are counted and left out. */
void curves_put(Page *page, const char *metrics, size_t bytes, const Task *task);

#endif
