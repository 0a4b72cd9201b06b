#include "experiments/train/code_use.h"

#include <assert.h>
#include <math.h>

/* Of a step. A range that was made of an extreme ends half a step beyond the last level, but for
 * the rounding of its scale. */
static const float clip_distance = 0.501f;

/* What stands for x is quantized by multiplying with 1 / scale, in f32 (core/dtype.h). */
static void add_run(CodeUse *use, const Scales *scales, int64_t scale, const float *x,
                    const float *levels, int64_t count) {
    Grid grid = scales->grid;
    float inverse = 1.0f / scales->scale[scale], distance = clip_distance * (float)grid.step;
    int zero = scales->zero ? (int)scales->zero[scale] : 0;
    for (int64_t i = 0; i < count; i++) {
        use->clipped += fabsf(x[i] * inverse - levels[i]) > distance;
        use->is_used[((int)levels[i] + zero - grid.base) / grid.step] = true;
    }
}

void code_use_add(CodeUse *use, const Quant *q, const Tape *record) {
    if (!q || q->generation != record->generation || q->faked == q->seen) return;
    const Var *y = q->faked;
    assert(y->op->flags & OP_QUANTIZES && y->value.scales);
    const Scales *scales = y->value.scales;
    const float *x = var_f32(y->in[0]), *levels = var_f32(y);
    int64_t count = var_count(y), scale;
    use->codes = grid_last_code(scales->grid) + 1;
    use->count += count;
    for (int64_t first = 0; first < count;) {
        int64_t run = scales_run(scales, first, &scale);
        if (run > count - first) run = count - first;
        add_run(use, scales, scale, x + first, levels + first, run);
        first += run;
    }
}

double code_use_clipped(const CodeUse *use) {
    return use->count ? (double)use->clipped / (double)use->count : NAN;
}

int code_use_unused(const CodeUse *use) {
    int unused = use->codes ? 0 : -1;
    for (int i = 0; i < use->codes; i++) unused += !use->is_used[i];
    return unused;
}
