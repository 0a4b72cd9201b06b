/* What the dynamic maps of 8 bits (Dettmers et al. 2022, "8-bit Optimizers via Block-wise
 * Quantization") have in common: how bitsandbytes rounds to them on a CPU. */
#ifndef NIBBLE_CORE_CODECS_DYNAMIC_H
#define NIBBLE_CORE_CODECS_DYNAMIC_H

#include <math.h>

#include "core/codebook.h"

/* To one of 65,536 numbers from -1 to 1; of those the nearest entry is taken. In a block of zeros
 * they are NaN, whose code is 0. */
static void normalize(const float *x, int64_t count, float scale, bool is_whole, float *unit) {
    (void)is_whole;
    float inverse = 1 / scale;
    for (int64_t i = 0; i < count; i++) {
        float place = floorf((x[i] * inverse + 1) * 32767.5f + 0.5f);
        unit[i] = -1 + 2 * place / 65535;
    }
}

#endif
