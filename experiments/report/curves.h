/* The charts of a training: loss, the task's first score, learning rate and speed by step; and
 * where train.shadow_every looked at it, the divergence from the shadow and layers' SQNR. */
#ifndef NIBBLE_EXPERIMENTS_REPORT_CURVES_H
#define NIBBLE_EXPERIMENTS_REPORT_CURVES_H

#include "experiments/report/chart.h"
#include "experiments/train/task.h"

/* One curve: the values at `path`, times `factor`. */
typedef struct CurveRow {
    const char *name, *path;
    double factor;
} CurveRow;

/* Fills `series` [count] from the lines of metrics.jsonl, made in `arena`: x are steps. Returns how
 * many lines could not be read. */
int curves_read(const char *metrics, size_t bytes, const CurveRow *rows, int count, Series *series,
                Arena *arena);

/* Of the lines of metrics.jsonl; those that cannot be read are counted and left out. */
void curves_put(Page *page, const char *metrics, size_t bytes, const Task *task);

#endif
