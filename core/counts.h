/* Arithmetic of counts: sizes, rows, bytes. */
#ifndef NIBBLE_CORE_COUNTS_H
#define NIBBLE_CORE_COUNTS_H

#include <math.h>
#include <stdint.h>

static inline int64_t count_least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static inline int64_t count_most(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* Pieces of at most `piece` > 0 that `size` >= 0 falls into. */
static inline int64_t count_pieces(int64_t size, int64_t piece) {
    return (size + piece - 1) / piece;
}

/* Whole ones of a product of settings, at least 0, down or up. What lies within rounding of a whole
 * number is that number: 0.29 * 100 is 29, 0.07 * 100 is 7. */
static inline int64_t count_floor(double x) {
    return (int64_t)floor(x * (1 + 1e-12));
}

static inline int64_t count_ceil(double x) {
    return (int64_t)ceil(x * (1 - 1e-12));
}

#endif
