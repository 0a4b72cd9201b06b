/* Reductions over values, of which observers are made. Each gives the same bits for any number of
 * threads: sums go through chunks that depend on the count alone; extremes do not depend on order.
 * One pass over memory each (quantiles: five). Within a parallel region they run on one thread. */
#ifndef NIBBLE_QAT_OBSERVER_H
#define NIBBLE_QAT_OBSERVER_H

#include "qat/quantizer.h"

/* Smallest and largest value, 0 among them. NaNs are passed over. */
Range observer_range(const float *x, int64_t count);

/* Whether there is anything to see: not only zeros, and nothing infinite. */
bool observer_range_is_usable(Range range);

typedef struct Moments {
    double mean, mean_magnitude, deviation; /* deviation of the population (by the count) */
} Moments;

Moments observer_moments(const float *x, int64_t count);

/* The exact quantile `at` (0 to 1) of the values, or of their magnitudes, interpolated between
 * neighbours (numpy's and PyTorch's `linear`): order statistic number at (count - 1), from 0. */
float observer_quantile(const float *x, int64_t count, double at, bool of_magnitudes);

/* A range that is kept from batch to batch, in the buffers "<name>.low" and "<name>.high" [1]:
 * state of rows that watch activations. */
typedef struct RunningRange {
    Param *low, *high;
} RunningRange;

void running_range_new(Quant *q); /* becomes q->state; Params are made */

/* Moves the kept range by `weight` of the way to the batch's and sets the scale from it; the first
 * batch is taken as it is. Weight 0: widens it where the batch goes beyond. */
bool running_range_observe(Quant *q, Observed observed, float weight);

#endif
