#include "optim/loss_scale.h"

LossScale loss_scale_new(bool is_dynamic) {
    return (LossScale){.is_dynamic = is_dynamic, .scale = is_dynamic ? LOSS_SCALE_START : 1};
}

static bool overflow(LossScale *s) {
    s->skipped++;
    s->clean_steps = 0;
    s->stuck = s->scale <= 1 ? s->stuck + 1 : 0;
    if (s->scale > 1) s->scale /= 2;
    return s->stuck < LOSS_SCALE_STUCK_MAX;
}

bool loss_scale_update(LossScale *s, bool has_overflowed) {
    if (!s->is_dynamic) return true;
    if (has_overflowed) return overflow(s);
    s->stuck = 0;
    if (++s->clean_steps < LOSS_SCALE_PATIENCE) return true;
    s->clean_steps = 0;
    if (s->scale < LOSS_SCALE_MAX) s->scale *= 2;
    return true;
}
