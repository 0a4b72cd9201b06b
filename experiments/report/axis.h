/* An axis: its range, its ticks on round values, and where a value lies on it. */
#ifndef NIBBLE_EXPERIMENTS_REPORT_AXIS_H
#define NIBBLE_EXPERIMENTS_REPORT_AXIS_H

#include "experiments/report/page.h"

typedef struct Axis {
    double min, max, step; /* ticks are multiples of the step */
    int decimals;
} Axis;

/* From `min` to `max`, with about so many ticks; a single value gets some room on both sides. */
Axis axis_of(double min, double max, int ticks);
/* The same, its ends moved out to ticks. */
Axis axis_round(double min, double max, int ticks);

double axis_share(const Axis *axis, double value); /* 0 at the least, 1 at the largest */

int axis_tick_count(const Axis *axis);
double axis_tick(const Axis *axis, int i); /* the i-th tick's value, from 0 */
void axis_tick_put(Page *page, double value, int decimals);

#endif
