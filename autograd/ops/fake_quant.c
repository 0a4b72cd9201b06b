/* Fake quantization with a straight-through gradient. With v = x / s, the level n = round(v)
 * clamped to low .. high, and "in range" meaning that round(v) is:
 *     x^        = s n
 *     dx        = dy in range, else 0
 *     d scale   = sum of dy d, where d is
 *                     in range: n - v (LSQ: Esser et al. 2020) or 0 (PACT: Choi et al. 2018)
 *                     outside:  n - offset / s, as low and high move with -zero = round(offset / s)
 *                 Two levels (sign): n, in range or not; stretched: as LSQ.
 *     d offset  = sum of dy outside the range (LSQ+: Bhalgat et al. 2020); 0 where the zero point
 *                 had to be clamped so that zero stays a level
 * The rounding of s to its storage format and that of the zero point pass gradients straight
 * through.
 *
 * For tape_replay, forward leaves the residuals of all roundings and on which side of the range
 * each element was; replay holds them, which makes x^ a smooth function with just these
 * derivatives, and yields values instead of levels. */
#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "autograd/channel.h"
#include "autograd/map.h"
#include "autograd/ops.h"
#include "core/kernels/isa.h"

enum {
    STRETCH = 16 * 1024, /* elements that one thread takes at a time */
    BLOCK = 2048,        /* the same of one that is only quantized */
};

typedef struct Residuals {
    float *element; /* LSQ, fixed: round(v) - v; PACT: x^ - x, in range */
    int8_t *side;   /* -1 below the range, 0 in it, 1 above */
    float *scale;   /* stored - given */
    float *zero;    /* -zero - offset / s */
} Residuals;

typedef struct Saved {
    Scales scales;
    float *scale, *zero; /* what `scales` points to; zero NULL without an offset */
    bool *passes;        /* whether the zero point follows the offset, [count of scales] */
    Residuals residuals;
    SteRange range; /* of the one scale of a map */
} Saved;

float fake_quant_stored_scale(Dtype dtype, float scale) {
    const float smallest = dtype == DTYPE_F16 ? 0x1p-14f : FLT_MIN;
    const float largest = dtype == DTYPE_F16 ? 65504 : dtype == DTYPE_BF16 ? 0x1.fep127f : FLT_MAX;
    float stored = dtype == DTYPE_F32 ? scale : dtype_round(dtype, scale);
    if (isfinite(scale) && stored > largest) stored = largest;
    return stored < smallest ? smallest : stored;
}

static bool infer(Var *v, Error *err) {
    const FakeQuantAttr *attr = v->attr;
    Shape x = v->in[0]->value.shape;
    int64_t count = shape_count(x);
    char a[SHAPE_TEXT_BYTES];
    if (attr->row_length < 1 || attr->run_length < 1 || attr->run_length > attr->row_length ||
        count % attr->row_length)
        return FAIL(err, ERROR_INPUT,
                    "input %s does not divide into rows of %lld with a scale per %lld",
                    shape_text(x, a), (long long)attr->row_length, (long long)attr->run_length);
    int64_t scales = scales_count(count, attr->row_length, attr->run_length);
    for (int i = 1; i < 3; i++)
        if (v->in[i] && var_count(v->in[i]) != scales)
            return FAIL(err, ERROR_INPUT,
                        "input %s needs %lld %s (rows of %lld, one per %lld), not %lld",
                        shape_text(x, a), (long long)scales, i == 1 ? "scale(s)" : "offset(s)",
                        (long long)attr->row_length, (long long)attr->run_length,
                        (long long)var_count(v->in[i]));
    return true;
}

/* The zero point for an offset: zero itself stays a level. *passes: the offset still moves it. */
static float zero_point(Grid grid, float offset, float scale, bool *passes) {
    float low = (float)grid_low(grid), high = (float)grid_high(grid);
    float zero = -rintf(offset / scale) + 0.0f;
    *passes = !(zero < low || zero > high);
    return zero < low ? low : zero > high ? high : zero;
}

float fake_quant_zero(Grid grid, float offset, float stored_scale) {
    bool passes;
    return zero_point(grid, offset, stored_scale, &passes);
}

static Saved *saved_new(Tape *t, const Var *v) {
    const FakeQuantAttr *attr = v->attr;
    int64_t count = scales_count(var_count(v), attr->row_length, attr->run_length);
    Saved *saved = tape_alloc(t, sizeof *saved);
    *saved = (Saved){.scale = tape_alloc(t, sizeof(float) * (size_t)count)};
    if (v->in[2]) {
        saved->zero = tape_alloc(t, sizeof(float) * (size_t)count);
        saved->passes = tape_alloc(t, sizeof(bool) * (size_t)count);
    }
    saved->scales = (Scales){attr->row_length, attr->run_length, count,      attr->scale_dtype,
                             attr->grid,       saved->scale,     saved->zero};
    return saved;
}

static int64_t saved_bytes(const Tape *t, const Var *v) {
    const FakeQuantAttr *attr = v->attr;
    int64_t scales = scales_count(var_count(v), attr->row_length, attr->run_length);
    int64_t floats = arena_padded((int64_t)sizeof(float) * scales);
    int64_t bytes = arena_padded(sizeof(Saved)) + floats;
    if (v->in[2]) bytes += floats + arena_padded((int64_t)sizeof(bool) * scales);
    if (t->mode.keeps_residuals) /* of elements; of scales and offsets */
        bytes += arena_padded((int64_t)sizeof(float) * var_count(v)) + arena_padded(var_count(v)) +
                 2 * floats;
    return bytes;
}

static const Scales *describe(Tape *t, Var *v) {
    Saved *saved = v->saved = saved_new(t, v);
    return &saved->scales;
}

static void set_scales(const Var *v, Saved *saved) {
    const FakeQuantAttr *attr = v->attr;
    assert(!v->in[2] || attr->grid.step == 1);
    for (int64_t i = 0; i < saved->scales.count; i++) {
        saved->scale[i] = fake_quant_stored_scale(attr->scale_dtype, var_f32(v->in[1])[i]);
        if (v->in[2])
            saved->zero[i] =
                zero_point(attr->grid, var_f32(v->in[2])[i], saved->scale[i], saved->passes + i);
    }
}

static bool is_even(float code) {
    return fmodf(code, 2) == 0;
}

static float rounding_of(RangeGradient gradient) {
    return gradient == RANGE_LSQ || gradient == RANGE_STRETCHED ? 1.0f : 0.0f;
}

/* Of codes from low to high: which numbers, before rounding, are in range. */
static void set_ends(SteRange *range, RangeGradient gradient, float low, float high) {
    const float clip = 0.99f; /* ParetoQ's */
    if (gradient == RANGE_SIGN) {
        range->first = low;
        range->last = high;
        return;
    }
    if (gradient == RANGE_STRETCHED) {
        float middle = (low + high) / 2, reach = (high - low + 1) / 2 * clip;
        range->first = middle - reach;
        range->last = middle + reach;
        return;
    }
    /* A tie rounds to the even of two codes. */
    range->first = is_even(low) ? low - 0.5f : nextafterf(low - 0.5f, INFINITY);
    range->last = is_even(high) ? high + 0.5f : nextafterf(high + 0.5f, -INFINITY);
}

static SteRange ste_range(const Var *v, const Saved *saved, int64_t i) {
    const FakeQuantAttr *attr = v->attr;
    Grid grid = saved->scales.grid;
    float zero = saved->zero ? saved->zero[i] : 0;
    float low = (float)grid_low(grid) - zero, high = (float)grid_high(grid) - zero;
    SteRange range = {
        .inverse = 1.0f / saved->scale[i],
        .step = (float)grid.step,
        .rounding = rounding_of(attr->range_gradient),
        .is_sign = attr->range_gradient == RANGE_SIGN,
        .has_offset = saved->zero != NULL,
    };
    double follows = 0; /* near -zero: the difference below cancels */
    if (saved->zero && saved->passes[i])
        follows = (double)var_f32(v->in[2])[i] / (double)saved->scale[i];
    range.slope_below = (float)((double)low - follows);
    range.slope_above = (float)((double)high - follows);
    range.shift = grid.step == 1 ? 0 : low;
    range.per_step = 1.0f / range.step;
    low = (low - range.shift) * range.per_step;
    high = (high - range.shift) * range.per_step;
    set_ends(&range, attr->range_gradient, low, high);
    return range;
}

/* Before rounding. */
static float code_of(const SteRange *range, float x) {
    return (x * range->inverse - range->shift) * range->per_step;
}

/* Elements [first, first + count) under scale `scale`: one stretch of a run. */
typedef struct Stretch {
    int64_t first, count, scale;
} Stretch;

static int64_t stretches_per_run(const Scales *scales) {
    return (scales->run_length + STRETCH - 1) / STRETCH;
}

static Stretch stretch_of(const Scales *scales, int64_t index) {
    int64_t per_run = stretches_per_run(scales), scale = index / per_run;
    int64_t runs = (scales->row_length + scales->run_length - 1) / scales->run_length;
    int64_t column = scale % runs * scales->run_length;
    int64_t end = column + scales->run_length;
    if (end > scales->row_length) end = scales->row_length;
    int64_t begin = column + index % per_run * STRETCH;
    int64_t count = end - begin < STRETCH ? end - begin : STRETCH;
    return (Stretch){scale / runs * scales->row_length + begin, count < 0 ? 0 : count, scale};
}

static void save_residuals(Tape *t, const Var *v, Saved *saved) {
    const FakeQuantAttr *attr = v->attr;
    const float *x = var_f32(v->in[0]);
    int64_t count = var_count(v), scales = saved->scales.count;
    Residuals *kept = &saved->residuals;
    kept->element = tape_alloc(t, sizeof(float) * (size_t)count);
    kept->side = tape_alloc(t, (size_t)count);
    kept->scale = tape_alloc(t, sizeof(float) * (size_t)scales);
    kept->zero = tape_alloc(t, sizeof(float) * (size_t)scales);
    for (int64_t i = 0; i < scales; i++) {
        kept->scale[i] = saved->scale[i] - var_f32(v->in[1])[i];
        kept->zero[i] = saved->zero ? -saved->zero[i] : 0;
        if (saved->zero && saved->passes[i])
            kept->zero[i] -= var_f32(v->in[2])[i] / saved->scale[i];
    }
    for (int64_t p = 0; p < scales * stretches_per_run(&saved->scales); p++) {
        Stretch stretch = stretch_of(&saved->scales, p);
        SteRange range = ste_range(v, saved, stretch.scale);
        float scale = saved->scale[stretch.scale];
        for (int64_t i = stretch.first; i < stretch.first + stretch.count; i++) {
            float code = code_of(&range, x[i]), level = rintf(code) * range.step + range.shift;
            kept->side[i] = (int8_t)((code > range.last) - (code < range.first));
            kept->element[i] = attr->range_gradient == RANGE_PACT   ? level * scale - x[i]
                               : attr->range_gradient == RANGE_SIGN ? -x[i]
                                                                    : level - x[i] / scale;
        }
    }
}

/* The surrogate: everything rounding did is held. */
static void replay(Var *v) {
    const FakeQuantAttr *attr = v->attr;
    const Saved *saved = v->saved;
    const Residuals *kept = &saved->residuals;
    const float *x = var_f32(v->in[0]);
    float *y = var_f32(v);
    for (int64_t p = 0; p < saved->scales.count * stretches_per_run(&saved->scales); p++) {
        Stretch stretch = stretch_of(&saved->scales, p);
        float scale = var_f32(v->in[1])[stretch.scale] + kept->scale[stretch.scale];
        float shift = kept->zero[stretch.scale]; /* -zero */
        if (saved->zero && saved->passes[stretch.scale])
            shift += var_f32(v->in[2])[stretch.scale] / scale;
        float low = (float)grid_low(attr->grid) + shift,
              high = (float)grid_high(attr->grid) + shift;
        for (int64_t i = stretch.first; i < stretch.first + stretch.count; i++) {
            float unit = rounding_of(attr->range_gradient) != 0 ? scale : 1, held = 0;
            if (attr->range_gradient == RANGE_SIGN) held = kept->element[i] < 0 ? high : low;
            y[i] = kept->side[i] ? scale * (kept->side[i] < 0 ? low : high)
                                 : x[i] + unit * kept->element[i] + scale * held;
        }
    }
    v->value.scales = NULL;
}

/* Called by many threads. */
static void say_nan(bool *met_nan) {
    __atomic_store_n(met_nan, true, __ATOMIC_RELAXED);
}

static bool quantize_block(const float *x, const Saved *saved, int64_t first, int64_t count,
                           const Tensor *y) {
    if (y->dtype == DTYPE_F32)
        return quantize_levels(x + first, &saved->scales, first, count, tensor_f32(y) + first);
    return quantize_bytes(x + first, &saved->scales, first, count, (uint8_t *)y->data + first);
}

static void forward(Tape *t, Var *v) {
    if (t->is_replay) {
        replay(v);
        return;
    }
    if (!v->saved) v->saved = saved_new(t, v);
    Saved *saved = v->saved;
    set_scales(v, saved);
    saved->range = ste_range(v, saved, 0);
    const float *x = var_f32(v->in[0]);
    const Tensor y = v->value;
    int64_t count = var_count(v);
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < count; first += BLOCK)
        if (!quantize_block(x, saved, first, count - first < BLOCK ? count - first : BLOCK, &y))
            say_nan(&v->met_nan);
    v->value.scales = &saved->scales;
    if (t->mode.keeps_residuals) save_residuals(t, v, saved);
}

/* `count` elements at most STE_COUNT_MAX; dx (NULL: not wanted; may be dy if beta is 0) = beta dx +
 * their gradients. */
static void few_backward(const SteRange *range, const float *x, const float *dy, int64_t count,
                         float beta, float *dx, double *sums) {
    float more[STE_COUNT_MAX];
    bool joins = dx && beta != 0;
    if (range->is_sign && sums) {
        SteRange signs = *range; /* all are outside, on the side of their level */
        signs.last = 0.5f;
        signs.first = nextafterf(signs.last, INFINITY);
        isa_active()->ste(&signs, x, dy, count, more, sums);
        sums = NULL;
    }
    isa_active()->ste(range, x, dy, count, dx && !joins ? dx : more, sums);
    if (joins) isa_active()->add(dx, more, count, dx);
}

static void stretch_backward(const Var *v, Stretch stretch, float *dx, float beta, double sums[2]) {
    const SteRange range = ste_range(v, v->saved, stretch.scale);
    sums[0] = sums[1] = 0;
    for (int64_t done = 0; done < stretch.count; done += STE_COUNT_MAX) {
        int64_t at = stretch.first + done, left = stretch.count - done;
        few_backward(&range, var_f32(v->in[0]) + at, var_grad_f32(v) + at,
                     left < STE_COUNT_MAX ? left : STE_COUNT_MAX, beta, dx ? dx + at : NULL, sums);
    }
}

/* grad[i] = beta grad[i] + grad_scale x the sum over the stretches of run i, in order. */
static void add_range_gradient(const Var *v, const double *sums, int which, float beta,
                               float *grad) {
    const FakeQuantAttr *attr = v->attr;
    const Saved *saved = v->saved;
    int64_t per_run = stretches_per_run(&saved->scales);
    if (!grad) return;
    for (int64_t i = 0; i < saved->scales.count; i++) {
        double sum = 0;
        for (int64_t p = i * per_run; p < (i + 1) * per_run; p++) sum += sums[2 * p + which];
        bool passes = which == 0 || saved->passes[i];
        sum = passes ? sum * (double)attr->grad_scale : 0;
        channel_add(grad + i, beta, NULL, &sum, 1);
    }
}

static void backward(Tape *t, Var *v) {
    const FakeQuantAttr *attr = v->attr;
    const Saved *saved = v->saved;
    float beta[3], *grad[3];
    for (int i = 0; i < 3; i++)
        grad[i] =
            i > 0 && attr->range_gradient == RANGE_FIXED ? NULL : tape_grad(t, v->in[i], &beta[i]);
    int64_t stretches = saved->scales.count * stretches_per_run(&saved->scales);
    ArenaMark mark = arena_mark(t->arena);
    double *sums = arena_new_array(t->arena, double, 2 * stretches);
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < stretches; p++)
        stretch_backward(v, stretch_of(&saved->scales, p), grad[0], beta[0], sums + 2 * p);
    add_range_gradient(v, sums, 0, beta[1], grad[1]);
    add_range_gradient(v, sums, 1, beta[2], grad[2]);
    arena_rewind(t->arena, mark);
}

static int64_t backward_scratch(const Var *v) {
    const FakeQuantAttr *attr = v->attr;
    int64_t count = scales_count(var_count(v), attr->row_length, attr->run_length);
    const Scales scales = {.row_length = attr->row_length, .run_length = attr->run_length};
    return arena_padded(2 * (int64_t)sizeof(double) * count * stretches_per_run(&scales));
}

/* ---- Under one scale, as a map. ---- */

static bool fits(const Var *v) {
    const FakeQuantAttr *attr = v->attr;
    return attr->run_length == var_count(v);
}

static void map_prepare_scales(Tape *t, Var *v) {
    Saved *saved = v->saved = saved_new(t, v);
    set_scales(v, saved);
    saved->range = ste_range(v, saved, 0);
    v->value.scales = &saved->scales;
}

static void map_quantize(const Var *v, const MapBlock *b) {
    const Saved *saved = v->saved;
    /* One scale: from anywhere. */
    if (!quantize_levels(b->in[0], &saved->scales, 0, b->count, b->out)) say_nan(b->met_nan);
}

enum { RANGE_SUMS = 2 }; /* of the scale and of the offset */

static bool range_learns(const Var *v) {
    return ((const FakeQuantAttr *)v->attr)->range_gradient != RANGE_FIXED;
}

static MapFlow flow_of(const Var *v) {
    return range_learns(v) ? MAP_FLOW_VALUES : MAP_FLOW_MASK;
}

static int64_t range_sum_count(const Var *v) {
    return range_learns(v) ? RANGE_SUMS : 0;
}

static void map_gradient(const Var *v, const MapBlock *b) {
    const Saved *saved = v->saved;
    if (!b->sums || !range_learns(v)) { /* the mask alone */
        if (b->dx[0]) isa_active()->ste(&saved->range, b->in[0], b->dy, b->count, b->dx[0], NULL);
        return;
    }
    double sums[RANGE_SUMS] = {0};
    for (int64_t done = 0; done < b->count; done += STE_COUNT_MAX) {
        int64_t left = b->count - done;
        few_backward(&saved->range, b->in[0] + done, b->dy + done,
                     left < STE_COUNT_MAX ? left : STE_COUNT_MAX, 0,
                     b->dx[0] ? b->dx[0] + done : NULL, sums);
    }
    for (int i = 0; i < RANGE_SUMS; i++) b->sums[i] += sums[i];
}

static void range_settle(Var *v, const double *sums, const MapGrads *grads) {
    const FakeQuantAttr *attr = v->attr;
    const Saved *saved = v->saved;
    if (!range_learns(v)) return;
    double to_scale = sums[0] * (double)attr->grad_scale;
    double to_offset = v->in[2] && saved->passes[0] ? sums[1] * (double)attr->grad_scale : 0;
    channel_add(grads->grad[1], grads->beta[1], NULL, &to_scale, 1);
    channel_add(grads->grad[2], grads->beta[2], NULL, &to_offset, 1);
}

static const Map map = {
    .input_count = 1,
    .fits = fits,
    .prepare = map_prepare_scales,
    .forward = map_quantize,
    .flow_of = flow_of,
    .backward = map_gradient,
    .sum_count = range_sum_count,
    .learns = range_learns,
    .settle = range_settle,
};

/* Draws x so that codes reach past both ends but keep clear of them and of the rounding ties. */
static Var *sample_input(Tape *t, Shape shape, const FakeQuantAttr *attr, float low, float high) {
    Var *x = tape_sample_leaf(t, shape, low, high);
    float step = (float)attr->grid.step, edge_low = (float)grid_low(attr->grid);
    for (int64_t i = 0; i < var_count(x); i++) {
        float code = (var_f32(x)[i] - edge_low) / step, below = floorf(code);
        float fraction = fabsf(code - below - 0.5f) < 0.1f ? 0.3f : code - below;
        var_f32(x)[i] = (below + fraction) * step + edge_low;
    }
    return x;
}

/* Per tensor, row and group; signed, unsigned and odd; each kind of range; with an offset. */
static Var *sample(Tape *t, int which) {
    static const struct {
        Grid grid;
        RangeGradient range_gradient;
        int64_t row_length, run_length;
        Dtype scale_dtype;
        bool has_offset;
    } samples[] = {
        {{3, -4, 1}, RANGE_LSQ, 24, 24, DTYPE_F32, false},
        {{2, 0, 1}, RANGE_LSQ, 24, 24, DTYPE_F16, false},
        {{3, -4, 1}, RANGE_LSQ, 8, 8, DTYPE_BF16, false},
        {{3, -4, 1}, RANGE_LSQ, 8, 3, DTYPE_F32, false},
        {{2, 0, 1}, RANGE_PACT, 24, 24, DTYPE_F32, false},
        {{3, -4, 1}, RANGE_FIXED, 8, 8, DTYPE_F32, false},
        {{2, -3, 2}, RANGE_LSQ, 24, 24, DTYPE_F32, false},
        {{2, -3, 2}, RANGE_STRETCHED, 8, 8, DTYPE_F32, false},
        {{2, -1, 1, 1}, RANGE_STRETCHED, 8, 3, DTYPE_F16, false},
        {{1, -1, 2}, RANGE_SIGN, 24, 24, DTYPE_F32, false},
        {{1, -1, 2}, RANGE_SIGN, 8, 3, DTYPE_BF16, false},
        {{3, 0, 1}, RANGE_LSQ, 24, 24, DTYPE_F16, true},
        {{3, 0, 1}, RANGE_LSQ, 8, 4, DTYPE_F32, true},
    };
    if (which >= (int)(sizeof samples / sizeof *samples)) return NULL;
    FakeQuantAttr attr = {.grid = samples[which].grid,
                          .row_length = samples[which].row_length,
                          .run_length = samples[which].run_length,
                          .scale_dtype = samples[which].scale_dtype,
                          .range_gradient = samples[which].range_gradient,
                          .grad_scale = 1};
    float low = (float)grid_low(attr.grid) - 1.4f, high = (float)grid_high(attr.grid) + 1.4f;
    Var *x = sample_input(t, SHAPE(3, 8), &attr, low, high);
    int64_t scales = scales_count(24, attr.row_length, attr.run_length);
    Var *scale = tape_sample_leaf(t, SHAPE(scales), 0.5f, 1.0f), *offset = NULL;
    if (samples[which].has_offset) offset = tape_sample_leaf(t, SHAPE(scales), -3, -1);
    if (attr.range_gradient == RANGE_FIXED) scale->needs_grad = false;
    /* x was drawn in units of the scale, from the offset. */
    Scales runs = {.row_length = attr.row_length, .run_length = attr.run_length, .count = scales};
    for (int64_t i = 0, s; i < 24; i++) {
        scales_run(&runs, i, &s);
        float unit = fake_quant_stored_scale(attr.scale_dtype, var_f32(scale)[s]);
        float shift = offset ? rintf(var_f32(offset)[s] / unit) : 0;
        var_f32(x)[i] = (var_f32(x)[i] + shift) * unit;
    }
    return op_fake_quant(t, x, scale, offset, attr);
}

Var *op_fake_quant(Tape *t, Var *x, Var *scale, Var *offset, FakeQuantAttr attr) {
    Var *in[] = {x, scale, offset};
    return tape_record(t, &op_row_fake_quant, 3, in, &attr, sizeof attr);
}

const Op op_row_fake_quant = {
    .name = "fake_quant",
    .flags = OP_QUANTIZES | OP_SPARES_OUTPUT | OP_GRADIENT_IN_PLACE | OP_NO_FLOPS,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .sample = sample,
    .describe = describe,
    .map = &map,
    .saved_bytes = saved_bytes,
    .backward_scratch = backward_scratch,
};
