/* Arithmetic of counts: sizes, rows, bytes. */
#ifndef NIBBLE_CORE_COUNTS_H
#define NIBBLE_CORE_COUNTS_H

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

#endif
