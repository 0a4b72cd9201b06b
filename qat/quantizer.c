#include "qat/quantizer.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "autograd/layers/batch_norm.h"
#include "qat/observer.h"

static const Kind *const kinds[] = {
#define QUANTIZER(name) &quantizer_##name.kind,
#include "qat/quantizers.def"
#undef QUANTIZER
};
const KindTable quantizer_kinds = {"quantizer", kinds, sizeof kinds / sizeof *kinds};

enum { BITS_MIN = 2, BITS_MAX = 8 };

void quant_geometry(const QuantSpec *spec, Shape shape, int64_t *row_length, int64_t *run_length) {
    int64_t count = shape_count(shape), row = count;
    if (spec->granularity == GRANULARITY_CHANNEL || spec->granularity == GRANULARITY_GROUP)
        row = shape.rank > 0 ? count / shape.dim[0] : count;
    else if (spec->granularity == GRANULARITY_TOKEN)
        row = shape_last(shape);
    *row_length = *run_length = row;
    if (spec->granularity == GRANULARITY_GROUP && spec->group_size < row)
        *run_length = spec->group_size;
}

/* ---- Making. ---- */

double bits_number(int bits) {
    return bits == BITS_TERNARY ? 1.58 : bits;
}

const char *bits_noun(int bits) {
    return bits == 1 ? "bit" : "bits";
}

/* Fewer than two: three levels, or two. */
static bool check_low_bits(const Quant *q, Error *err) {
    double bits = bits_number(q->spec.bits);
    if (!q->is_weight)
        return FAIL(err, ERROR_INPUT,
                    "%s is an activation: weights alone have %g %s; give activations %d to %d",
                    q->name, bits, bits_noun(q->spec.bits), BITS_MIN, BITS_MAX);
    if (q->spec.is_affine)
        return FAIL(err, ERROR_INPUT, "%s: %g bits are symmetric: unset affine", q->name, bits);
    if (q->spec.bits == 1 && !(q->row->flags & QUANTIZER_FOR_ONE_BIT))
        return FAIL(err, ERROR_INPUT,
                    "quantizer '%s' of %s needs 1.58 bits or more: use 'paretoq' for 1 bit",
                    q->row->kind.name, q->name);
    return true;
}

static bool check_numbers(const Quant *q, Error *err) {
    const QuantSpec *spec = &q->spec;
    bool is_low = spec->bits == 1 || spec->bits == BITS_TERNARY;
    if (is_low) TRY(check_low_bits(q, err));
    if (!is_low && (spec->bits < BITS_MIN || spec->bits > BITS_MAX))
        return FAIL(err, ERROR_INPUT, "%s: %d bits; from %d to %d are supported", q->name,
                    spec->bits, BITS_MIN, BITS_MAX);
    if (spec->granularity == GRANULARITY_GROUP && spec->group_size < 1)
        return FAIL(err, ERROR_INPUT, "%s: the group size must be at least 1", q->name);
    if (spec->scale_dtype != DTYPE_F32 && spec->scale_dtype != DTYPE_F16 &&
        spec->scale_dtype != DTYPE_BF16)
        return FAIL(err, ERROR_INPUT, "%s: scales are stored as f32, f16 or bf16, not %s", q->name,
                    dtype_name(spec->scale_dtype));
    return true;
}

static bool check_use(const Quant *q, Error *err) {
    const char *kind = q->row->kind.name;
    Granularity granularity = q->spec.granularity;
    if (q->is_weight && !(q->row->flags & QUANTIZER_FOR_WEIGHTS))
        return FAIL(err, ERROR_INPUT, "quantizer '%s' is for activations, not for the weight %s",
                    kind, q->name);
    if (!q->is_weight && !(q->row->flags & QUANTIZER_FOR_ACTIVATIONS))
        return FAIL(err, ERROR_INPUT, "quantizer '%s' is for weights, not for the activation %s",
                    kind, q->name);
    if (q->is_weight && granularity == GRANULARITY_TOKEN)
        return FAIL(err, ERROR_INPUT, "%s is a weight: scales per token are for activations",
                    q->name);
    if (!q->is_weight && (granularity == GRANULARITY_CHANNEL || granularity == GRANULARITY_GROUP))
        return FAIL(err, ERROR_INPUT,
                    "%s is an activation: it has one scale per tensor, or per token", q->name);
    if (granularity == GRANULARITY_TOKEN && !(q->row->flags & QUANTIZER_FOR_TOKENS))
        return FAIL(err, ERROR_INPUT,
                    "quantizer '%s' of %s: scales per token come from each row's own values, so "
                    "the quantizer must be 'minmax'",
                    kind, q->name);
    if (granularity == GRANULARITY_TOKEN && q->shape.rank > 3)
        return FAIL(err, ERROR_INPUT,
                    "%s is an image: scales per token are for the inputs of linear layers",
                    q->name);
    return true;
}

static Grid grid_for(const Quant *q) {
    if (q->spec.bits == BITS_TERNARY) return grid_ternary();
    bool is_signed = !q->spec.is_affine && (q->is_weight || q->spec.is_signed);
    return is_signed ? grid_signed(q->spec.bits) : grid_unsigned(q->spec.bits);
}

static Param *quant_param(Quant *q, const char *part, Shape shape, ParamRole role, InitKind kind) {
    const char *name = arena_format(q->model->arena, "%s.%s", q->name, part);
    return model_param(q->model, name, shape, role, (Init){.kind = kind});
}

Param *quant_buffer(Quant *q, const char *part, Shape shape) {
    return quant_param(q, part, shape, PARAM_BUFFER, INIT_ZERO);
}

static void make_params(Quant *q) {
    if (q->spec.granularity == GRANULARITY_TOKEN) return;
    int64_t row_length, run_length;
    quant_geometry(&q->spec, q->shape, &row_length, &run_length);
    q->scale_count = scales_count(shape_count(q->shape), row_length, run_length);
    ParamRole role = q->row->learns ? PARAM_SCALE : PARAM_BUFFER;
    Shape shape = SHAPE(q->scale_count);
    q->scale = quant_param(q, "scale", shape, role, INIT_ONE);
    q->scale->is_positive = true;
    if (q->spec.is_affine) q->offset = quant_param(q, "offset", shape, role, INIT_ZERO);
    if (q->row->observe) q->count = quant_buffer(q, "count", SHAPE(1));
}

bool quant_new(Model *model, const char *name, bool is_weight, Shape shape, const QuantSpec *spec,
               const QuantPhase *phase, Quant **out, Error *err) {
    assert(spec->quantizer.kind && phase);
    Quant *q = arena_new_array(model->arena, Quant, 1);
    *q = (Quant){.row = (const Quantizer *)spec->quantizer.kind,
                 .spec = *spec,
                 .name = arena_strdup(model->arena, name),
                 .is_weight = is_weight,
                 .phase = phase,
                 .model = model,
                 .shape = shape,
                 .range_gradient = ((const Quantizer *)spec->quantizer.kind)->range_gradient,
                 .grad_scale = 1};
    Variant *variant = &q->spec.quantizer;
    if (!variant->config) variant->config = kind_defaults(variant->kind, model->arena);
    TRY(check_numbers(q, err));
    TRY(check_use(q, err));
    q->grid = grid_for(q);
    make_params(q);
    if (q->row->attach) TRY(q->row->attach(q, err));
    *out = q;
    return true;
}

/* ---- Scales relative to a folded batch norm. ---- */

void quant_join(Quant *q, Module *norm) {
    bool is_by_row =
        q->spec.granularity == GRANULARITY_CHANNEL || q->spec.granularity == GRANULARITY_GROUP;
    if (q->row->learns && is_by_row) q->norm = norm;
}

/* scale *= gain or scale /= gain, row by row. */
static void apply_gain(const Quant *q, float *scale, bool is_divided) {
    int64_t rows = q->shape.dim[0], per_row = q->scale_count / rows;
    Arena *arena = arena_new("gains");
    float *gains = arena_new_array(arena, float, rows);
    batch_norm_gains(q->norm, gains);
    for (int64_t i = 0; i < q->scale_count; i++) {
        float gain = gains[i / per_row];
        scale[i] = is_divided ? scale[i] / gain : scale[i] * gain;
    }
    arena_free(arena);
}

static Var *gained(const Quant *q, Tape *t, Var *scale) {
    if (!q->norm) return scale;
    int64_t rows = q->shape.dim[0];
    Var *by_row = op_reshape(t, scale, SHAPE(rows, q->scale_count / rows));
    return batch_norm_gain(q->norm, t, by_row);
}

/* ---- Observing. ---- */

void quant_fit_each(Quant *q, const float *x, int64_t count, QuantFit fit) {
    if (q->scale_count == 1) { /* no region of ours: `fit` may have one */
        fit(q, 0, x, count);
        return;
    }
    int64_t row_length, run_length;
    quant_geometry(&q->spec, q->shape, &row_length, &run_length);
    int64_t per_row = (row_length + run_length - 1) / run_length;
#pragma omp parallel for
    for (int64_t i = 0; i < q->scale_count; i++) {
        int64_t column = i % per_row * run_length, left = row_length - column;
        fit(q, i, x + i / per_row * row_length + column, left < run_length ? left : run_length);
    }
}

void quant_set_range(Quant *q, int64_t scale, Range range) {
    RangeFit fit = range_fit(range, q->grid, q->offset != NULL, q->spec.scale_dtype);
    tensor_f32(&q->scale->value)[scale] = fit.scale;
    if (q->offset) tensor_f32(&q->offset->value)[scale] = fit.offset;
}

bool quant_is_calibrated(const Quant *q) {
    return !q->count || *tensor_f32(&q->count->value) > 0;
}

static bool is_observing(const Quant *q, const Tape *t) {
    if (!q->count || t->error.code != ERROR_NONE || t->mode.is_rerun) return false;
    bool is_new = !quant_is_calibrated(q);
    if (q->is_calibrating) return is_new || !q->row->learns;
    if (!t->mode.is_training) return false;
    if (is_new && q->phase->is_faking) return true;
    return !q->row->learns && q->phase->is_observing;
}

/* Whether the scales can be stored. Those that learn are kept in range; these come from data. */
static bool check_scales(const Quant *q, Error *err) {
    const float *scale = tensor_f32(&q->scale->value);
    for (int64_t i = 0; i < q->scale_count; i++) {
        float stored = fake_quant_stored_scale(q->spec.scale_dtype, scale[i]);
        if (!isfinite(scale[i]) || stored >= 0.5f * scale[i]) continue;
        return FAIL(
            err, ERROR_INPUT,
            "%s holds values so large that their scale, %g, is beyond %s: set quant.%s.scale: "
            "bf16 or f32%s",
            q->name, (double)scale[i], dtype_name(q->spec.scale_dtype),
            q->is_weight ? "weights" : "activations",
            q->is_weight ? "" : ", or data.normalize: standard");
    }
    return true;
}

/* New ones, as they are used: they become what is kept. */
static void finish_ranges(Quant *q) {
    *tensor_f32(&q->count->value) += 1;
    if (q->norm) apply_gain(q, tensor_f32(&q->scale->value), true);
    if (q->norm && q->offset) apply_gain(q, tensor_f32(&q->offset->value), true);
}

bool quant_fit(Quant *q, Observed seen, Error *err) {
    if (!q->row->observe(q, seen)) return true;
    TRY(check_scales(q, err));
    finish_ranges(q);
    return true;
}

void quant_fit_runs(const Quant *q, const float *x, int64_t rows, int64_t length, float *scale,
                    float *offset) {
    Shape shape = SHAPE(rows);
    Param scales = {.value = {.dtype = DTYPE_F32, .shape = shape, .data = scale}};
    Param offsets = {.value = {.dtype = DTYPE_F32, .shape = shape, .data = offset}};
    Quant part = *q; /* the quantizer of a weight that these runs would be */
    part.shape = SHAPE(rows, length);
    part.spec.granularity = GRANULARITY_CHANNEL;
    part.scale_count = rows;
    part.scale = &scales;
    part.offset = q->offset ? &offsets : NULL;
    part.norm = NULL;
    Arena *scratch = arena_new("range of a part of a weight");
    q->row->observe(&part, (Observed){.x = x, .count = rows * length, .scratch = scratch});
    arena_free(scratch);
}

bool quant_set_scales(Quant *q, const float *scale, const float *offset, Error *err) {
    size_t bytes = sizeof(float) * (size_t)q->scale_count;
    memcpy(tensor_f32(&q->scale->value), scale, bytes);
    if (q->offset) memcpy(tensor_f32(&q->offset->value), offset, bytes);
    TRY(check_scales(q, err));
    finish_ranges(q);
    return true;
}

bool quant_scale_rows(Quant *q, const float *factors, Error *err) {
    if (q->norm) return true;
    int64_t per_row = q->scale_count / q->shape.dim[0];
    for (int64_t i = 0; i < q->scale_count; i++) {
        tensor_f32(&q->scale->value)[i] *= factors[i / per_row];
        if (q->offset) tensor_f32(&q->offset->value)[i] *= factors[i / per_row];
    }
    return check_scales(q, err);
}

static void observe(Quant *q, Tape *t, Var *x) {
    Probe *probe = q->is_weight ? NULL : &q->probe;
    if (!is_observing(q, t) || !tape_probe(t, x, probe)) return;
    bool is_seen = probe && x->is_seen && x->probe == probe;
    quant_fit(q, (Observed){var_f32(x), var_count(x), is_seen, t->arena}, &t->error);
}

/* ---- Faking. ---- */

static Var *range_var(Quant *q, Tape *t, Param *param) {
    return q->row->learns && t->mode.needs_grad ? param_leaf(param, t)
                                                : tape_constant(t, param->value);
}

/* Scales per token: as many as the batch has rows, and fit to each row. */
static void token_vars(Quant *q, Tape *t, Var *x, Var **scale, Var **offset) {
    int64_t length = shape_last(x->value.shape), rows = shape_rows(x->value.shape);
    Tensor scales = {.dtype = DTYPE_F32, .shape = SHAPE(rows)}, offsets = scales;
    if (tape_probe(t, x, NULL)) {
        const float *values = var_f32(x);
        float *s = scales.data = tape_alloc(t, sizeof(float) * (size_t)rows);
        float *o = offsets.data = tape_alloc(t, sizeof(float) * (size_t)rows);
#pragma omp parallel for
        for (int64_t i = 0; i < rows; i++) {
            Range range = observer_range(values + i * length, length);
            RangeFit fit = range_fit(range, q->grid, q->spec.is_affine, q->spec.scale_dtype);
            s[i] = fit.scale;
            o[i] = fit.offset;
        }
    }
    *scale = tape_constant(t, scales);
    *offset = q->spec.is_affine ? tape_constant(t, offsets) : NULL;
}

Var *quant_fake(Quant *q, Tape *t, Var *x) {
    FakeQuantAttr attr = {.grid = q->grid,
                          .scale_dtype = q->spec.scale_dtype,
                          .range_gradient = q->range_gradient,
                          .grad_scale = q->grad_scale};
    quant_geometry(&q->spec, x->value.shape, &attr.row_length, &attr.run_length);
    Var *scale, *offset = NULL;
    if (q->spec.granularity == GRANULARITY_TOKEN) {
        token_vars(q, t, x, &scale, &offset);
    } else {
        scale = gained(q, t, range_var(q, t, q->scale));
        if (q->offset) offset = gained(q, t, range_var(q, t, q->offset));
    }
    return op_fake_quant(t, x, scale, offset, attr);
}

static Var *fake(Quant *q, Tape *t, Var *x) {
    return q->row->fake ? q->row->fake(q, t, x) : quant_fake(q, t, x);
}

static bool is_faking(const Quant *q, const Tape *t) {
    if (!q->phase->is_faking) return false;
    return t->mode.is_training || q->is_calibrating || quant_is_calibrated(q);
}

/* Observers and scales per token look at values; x may come from another quantizer. */
static Var *values_of(Tape *t, Var *x) {
    if (!x->value.scales) return x;
    if (!x->decoded) x->decoded = op_dequantize(t, x);
    return x->decoded;
}

/* Whether this record wants x unquantized: all of it, weights or activations, or but one layer. */
static bool passes(const Quant *q, const Tape *t) {
    const TapeMode *mode = &t->mode;
    if (mode->only[0] && strcmp(mode->only[0], t->scope) != 0 &&
        strcmp(mode->only[1], t->scope) != 0)
        return true;
    return mode->is_float || (q->is_weight ? mode->floats_weights : mode->floats_activations);
}

Var *quant_apply(Quant *q, Tape *t, Var *x) {
    if (passes(q, t)) return x;
    if (q->generation == t->generation && q->seen == x) return q->faked;
    Var *values = values_of(t, x);
    observe(q, t, values);
    q->generation = t->generation;
    q->seen = x;
    q->faked = is_faking(q, t) ? fake(q, t, values) : x;
    return q->faked;
}

Var *quant_view(void *self, Tape *t, Var *x) {
    return quant_apply(self, t, x);
}

/* ---- Freezing. ---- */

/* Scales or offsets as they are used. */
static void copy_range(const Quant *q, const Param *from, float *to) {
    memcpy(to, tensor_f32(&from->value), sizeof *to * (size_t)q->scale_count);
    if (q->norm) apply_gain(q, to, false);
}

Scales *quant_layout(const Quant *q, Arena *arena) {
    if (q->spec.granularity == GRANULARITY_TOKEN) return NULL;
    Scales *scales = arena_new_array(arena, Scales, 1);
    *scales = (Scales){.count = q->scale_count,
                       .dtype = q->spec.scale_dtype,
                       .grid = q->grid,
                       .scale = arena_new_array(arena, float, q->scale_count),
                       .zero = q->offset ? arena_new_array(arena, float, q->scale_count) : NULL};
    quant_geometry(&q->spec, q->shape, &scales->row_length, &scales->run_length);
    return scales;
}

const Scales *quant_freeze(const Quant *q, Arena *arena) {
    assert(quant_is_calibrated(q));
    Scales *scales = quant_layout(q, arena);
    if (!scales) return NULL;
    float *scale = (float *)(uintptr_t)scales->scale, *zero = (float *)(uintptr_t)scales->zero;
    copy_range(q, q->scale, scale);
    if (zero) copy_range(q, q->offset, zero);
    for (int64_t i = 0; i < q->scale_count; i++) {
        scale[i] = fake_quant_stored_scale(q->spec.scale_dtype, scale[i]);
        if (zero) zero[i] = fake_quant_zero(q->grid, zero[i], scale[i]);
    }
    return scales;
}

Tensor quant_levels(Quant *q, const float *values, Arena *arena) {
    assert(q->is_weight);
    Tensor x = {.dtype = DTYPE_F32, .shape = q->shape, .data = (void *)(uintptr_t)values};
    Tensor levels = tensor_new(arena, DTYPE_F32, q->shape);
    levels.scales = quant_freeze(q, arena);
    Tape *t = tape_new(arena);
    tape_begin(t, TAPE_EVALUATION);
    Var *leaf = tape_constant(t, x);
    Var *faked = fake(q, t, leaf);
    assert(t->error.code == ERROR_NONE && faked->value.scales);
    memcpy(levels.data, faked->value.data, sizeof(float) * (size_t)var_count(faked));
    tape_free(t);
    return levels;
}
