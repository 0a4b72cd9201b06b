/* What this machine can do at most, to compare kernels with: multiply-adds in registers, with the
 * instructions of the active inner loops, and a walk through memory. */
#ifndef NIBBLE_CORE_KERNELS_PEAK_H
#define NIBBLE_CORE_KERNELS_PEAK_H

#include <stdint.h>

/* Runs `rounds` of independent multiply-adds on every thread of a region. Returns the
 * floating-point operations of all threads together, two per multiply-add. */
double peak_multiply_adds(int64_t rounds);

/* a = b + factor c over `count` elements, shared out among the threads: the triad of McCalpin's
 * STREAM, which moves 3 floats per element. */
void peak_triad(const float *b, const float *c, float factor, int64_t count, float *a);

#endif
