/* Runs of f32 numbers, looked at as a whole. */
#ifndef NIBBLE_CORE_FLOATS_H
#define NIBBLE_CORE_FLOATS_H

#include <float.h>
#include <stdint.h>

/* Index of the first of `count` numbers that is below `least`, not finite or NaN; -1: there is
 * none. `least` of -FLT_MAX asks for finite numbers. In parallel where it pays. */
int64_t floats_find_unfit(const float *x, int64_t count, float least);

#endif
