/* What the 4-bit codebooks of QLoRA (Dettmers et al. 2023) have in common: a block's scale is its
 * largest magnitude, and bitsandbytes divides by it in two ways on a CPU. */
#ifndef NIBBLE_CORE_CODECS_ABSMAX_H
#define NIBBLE_CORE_CODECS_ABSMAX_H

#include <math.h>

#include "core/codebook.h"

static const float least_scale = 1e-38f; /* divides blocks of zeros */

/* A whole block is multiplied by the reciprocal, a shorter one divided. */
static void normalize(const float *x, int64_t count, float scale, bool is_whole, float *unit) {
    float divisor = fmaxf(scale, least_scale), inverse = 1 / divisor;
    for (int64_t i = 0; i < count; i++) unit[i] = is_whole ? x[i] * inverse : x[i] / divisor;
}

static float fit(const float *x, int64_t count, int64_t block) {
    float largest = codebook_largest(x, count, block);
    return count == block ? largest : fmaxf(largest, least_scale);
}

#endif
