/* How far values are from what they should be: a layer's output, quantized, from the shadow's. */
#ifndef NIBBLE_EXPERIMENTS_TRAIN_DEVIATION_H
#define NIBBLE_EXPERIMENTS_TRAIN_DEVIATION_H

#include <stdint.h>

#include "core/arena.h"

/* Sums over pairs of an exact value a and what stands for it, b; zeros to begin with. In double,
 * by chunks that depend on counts alone: the same for any number of threads. */
typedef struct DeviationSums {
    int64_t count;
    double exact, given, product;   /* of a a, b b, a b */
    double noise, error, error_max; /* of (a - b)^2 and |a - b|; its largest */
} DeviationSums;

typedef struct Deviation {
    double sqnr_db; /* 10 log10(sum a a / sum (a - b)^2), signal over quantization noise; infinite
                       where b is exact */
    double cosine;  /* sum a b / sqrt(sum a a sum b b); 1 where all are 0 */
    double error_max, error_mean; /* of |a - b| */
} Deviation;

/* `scratch` is left as it was found. */
void deviation_add(DeviationSums *sums, const float *exact, const float *given, int64_t count,
                   Arena *scratch);
Deviation deviation_of(const DeviationSums *sums);

#endif
