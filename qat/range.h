/* From a range of values to a scale and an offset, and the search for the range that loses least.
 */
#ifndef NIBBLE_QAT_RANGE_H
#define NIBBLE_QAT_RANGE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/dtype.h"

/* The values to be represented; 0 always is one of them. */
typedef struct Range {
    float low, high;
} Range;

typedef struct RangeFit {
    float scale;  /* above 0; rounded to what is stored only where it is used */
    float offset; /* in value units; 0 when symmetric */
} RangeFit;

/* With low' = min(low, 0) and high' = max(high, 0), and L = 2^bits - 1 steps between the levels:
 *   affine     s = (high' - low') / L                      offset = low'
 *   unsigned   s = high' / L                               offset = 0
 *   signed     s = max(-low', high') / (L / 2)             offset = 0
 * which are torchao's SYMMETRIC (int4: absmax / 7.5) and ASYMMETRIC and PyTorch's observers; the
 * zero point -round(offset / s) is theirs minus qmin. The offset is kept within L stored scales of
 * 0, so that rounding the scale to `scale_dtype` never pushes the zero point off the grid. An empty
 * range (all values 0) gets the smallest positive scale, never 0 or NaN. */
RangeFit range_fit(Range range, Grid grid, bool is_affine, Dtype scale_dtype);

/* What range_search looks at: values, each counted `weight` times (NULL: once). */
typedef struct RangeData {
    const float *x, *weight;
    int64_t count;
} RangeData;

enum { RANGE_CANDIDATES_MAX = 256 };

/* `full` shrunk to the one of `candidates` fractions, evenly from 1 down to 0.2, whose quantization
 * (through quantize_levels, with stored scales) has the least squared error; the widest of equals.
 */
Range range_search(RangeData data, Range full, Grid grid, bool is_affine, Dtype scale_dtype,
                   int candidates);

#endif
