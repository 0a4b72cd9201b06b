/* Sums over a row in double. Lanes keep a sum vectorised and its order fixed. */
#ifndef NIBBLE_AUTOGRAD_OPS_ROW_SUM_H
#define NIBBLE_AUTOGRAD_OPS_ROW_SUM_H

#include <stdint.h>

enum { ROW_LANES = 8 };

static inline double row_lanes_add(const double lane[ROW_LANES]) {
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) +
           ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

static inline double row_sum(const float *x, int64_t count) {
    double lane[ROW_LANES] = {0};
    int64_t i = 0;
    for (; i + ROW_LANES <= count; i += ROW_LANES)
        for (int j = 0; j < ROW_LANES; j++) lane[j] += (double)x[i + j];
    for (; i < count; i++) lane[0] += (double)x[i];
    return row_lanes_add(lane);
}

/* Of (x - mean)^2, the differences in float. */
static inline double row_squares(const float *x, float mean, int64_t count) {
    double lane[ROW_LANES] = {0};
    int64_t i = 0;
    for (; i + ROW_LANES <= count; i += ROW_LANES)
        for (int j = 0; j < ROW_LANES; j++) {
            double d = (double)(x[i + j] - mean);
            lane[j] += d * d;
        }
    for (; i < count; i++) lane[0] += (double)(x[i] - mean) * (double)(x[i] - mean);
    return row_lanes_add(lane);
}

#endif
