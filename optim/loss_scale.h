/* Dynamic loss scaling for f16 (Micikevicius et al. 2018, section 3.2): the loss is multiplied by a
 * power of two, so that small gradients do not vanish in half precision; a step whose gradients
 * overflow is skipped and the scale halved; after a run of clean steps it is doubled. */
#ifndef NIBBLE_OPTIM_LOSS_SCALE_H
#define NIBBLE_OPTIM_LOSS_SCALE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct LossScale {
    bool is_dynamic;     /* false: always 1 (f32, bf16, whose range is that of f32) */
    double scale;        /* 1 to 2^24 */
    int64_t clean_steps; /* since the last change */
    int64_t skipped;     /* steps, in all */
    int64_t stuck;       /* overflows in a row at the smallest scale */
} LossScale;

enum {
    LOSS_SCALE_START = 65536,
    LOSS_SCALE_MAX = 1 << 24,
    LOSS_SCALE_PATIENCE = 2000, /* clean steps before it is doubled */
    LOSS_SCALE_STUCK_MAX = 10,  /* then the training is given up */
};

LossScale loss_scale_new(bool is_dynamic);

/* After each step. False: the gradients overflowed LOSS_SCALE_STUCK_MAX times in a row at scale 1,
 * which is no matter of scaling any more. */
bool loss_scale_update(LossScale *scale, bool has_overflowed);

#endif
