/* Choosing the next token from logits. */
#ifndef NIBBLE_EXPERIMENTS_GENERATE_SAMPLING_H
#define NIBBLE_EXPERIMENTS_GENERATE_SAMPLING_H

#include "core/arena.h"

typedef struct Sampling {
    double temperature; /* logits are divided by it; 0: always the largest, the first of equals */
    double top_p;       /* of the likeliest tokens only as many as have this probability together
                           (Holtzman et al. 2020); 1: all */
    uint64_t seed;      /* with the number of the token it decides */
} Sampling;

int64_t sampling_choose(const Sampling *s, const float *logits, int64_t count, uint64_t number);

#endif
