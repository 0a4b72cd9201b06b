/* Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011, through Random123).
 *
 * A number is a pure function of (seed, stream, step, element). There is no state to save: neither
 * the thread count nor a resume changes a number. */
#ifndef NIBBLE_CORE_RANDOM_H
#define NIBBLE_CORE_RANDOM_H

#include <stdint.h>

typedef enum RandomStream { /* add at the end: the values are part of what a seed means */
                            RANDOM_INIT,    /* step: index of the parameter */
                            RANDOM_SHUFFLE, /* step: epoch */
                            RANDOM_AUGMENT, /* step: epoch */
                            RANDOM_DROPOUT, /* step: number of the micro-batch; the layer is in the
                                               element */
                            RANDOM_SPLIT,   /* validation split */
                            RANDOM_SYNTHETIC, /* synthetic data sets */
                            RANDOM_TEST,
                            RANDOM_SAMPLES,  /* of a layer; step: its site, and the iteration */
                            RANDOM_GENERATE, /* element: number of the token */
} RandomStream;

typedef struct RandomKey {
    uint64_t seed;
    uint32_t stream;
    uint64_t step;
} RandomKey;

typedef struct Random4 {
    uint32_t word[4];
} Random4;

Random4 random_words(RandomKey key, uint64_t element);
float random_uniform(RandomKey key, uint64_t element); /* [0, 1), 24 bits */
float random_normal(RandomKey key, uint64_t element);  /* mean 0, variance 1 (Box-Muller) */
uint64_t random_below(RandomKey key, uint64_t element,
                      uint64_t bound); /* [0, bound), unbiased to 2^-64 */

/* values[i] for i in 0..count-1 is the number of element i. */
void random_fill_uniform(RandomKey key, float low, float high, int64_t count, float *values);
void random_fill_normal(RandomKey key, float deviation, int64_t count, float *values);

/* A permutation of 0..count-1 (Fisher-Yates). */
void random_permutation(RandomKey key, int64_t count, uint32_t *order);

#endif
