#include "autograd/tape.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "autograd/map.h"
#include "autograd/ops.h"
#include "autograd/plan.h"
#include "core/kernels/operand.h"

Tape *tape_new(Arena *owner) {
    Tape *t = arena_new_array(owner, Tape, 1);
    t->arena = arena_new("step");
    t->staging = arena_new("staging");
    t->scope = "";
    t->mode = TAPE_TRAINING;
    return t;
}

void tape_free(Tape *t) {
    if (!t) return;
    arena_free(t->arena);
    arena_free(t->plan_arena);
    arena_free(t->staging);
    t->arena = t->plan_arena = t->staging = NULL;
    t->plan = t->last_plan = NULL;
}

/* Unique over all tapes, so that what is cached for one record is never taken for another's. */
static _Atomic uint64_t generations;

void tape_begin(Tape *t, TapeMode mode) {
    arena_reset(t->arena);
    t->vars = NULL;
    t->count = t->capacity = 0;
    t->error = (Error){0};
    t->mode = mode;
    t->scope = "";
    t->generation = ++generations;
    t->plan = NULL;
    t->overflowed = NULL;
}

static Var *var_new(Tape *t) {
    if (t->count == t->capacity) {
        int capacity = t->capacity ? 2 * t->capacity : 256;
        Var **grown = arena_new_array(t->arena, Var *, capacity);
        if (t->count) memcpy(grown, t->vars, sizeof *grown * (size_t)t->count);
        t->vars = grown;
        t->capacity = capacity;
    }
    Var *v = arena_new_array(t->arena, Var, 1);
    v->scope = t->scope;
    v->has_grad = &v->own_flag;
    v->index = t->count;
    t->vars[t->count++] = v;
    return v;
}

Var *tape_leaf(Tape *t, Tensor value, float *grad, bool *has_grad) {
    Var *v = var_new(t);
    v->value = value;
    v->grad = grad;
    v->needs_grad = grad && t->mode.needs_grad;
    if (has_grad) v->has_grad = has_grad;
    return v;
}

Var *tape_constant(Tape *t, Tensor value) {
    return tape_leaf(t, value, NULL, NULL);
}

/* What an op that reads values only sees of a Var that holds levels. */
static Var *decoded(Tape *t, Var *v) {
    if (!v->decoded) v->decoded = op_dequantize(t, v);
    return v->decoded;
}

static const PlanSlot *slot_of(const Tape *t, const Var *v) {
    assert(v->index < t->plan->count);
    const PlanSlot *slot = &t->plan->slots[v->index];
    assert(slot->op == v->op && shape_equal(slot->shape, v->value.shape));
    return slot;
}

static bool runs_as_map(const Tape *t, const Var *v) {
    if (!map_fits(v)) return t->plan && (slot_of(t, v)->is_tail || slot_of(t, v)->is_feed);
    return !(t->mode.keeps_residuals && v->op->forward);
}

/* ---- Half precision: ops that know only f32 get copies, and what they write is rounded. ---- */

typedef struct Staged { /* a gradient that an op writes in f32 */
    Var *v;
    float *copy;
    struct Staged *next;
} Staged;

enum { STAGING_RUN = 1 << 14 /* elements that a thread converts at a time */ };

static bool is_half(Dtype dtype) {
    return dtype == DTYPE_F16 || dtype == DTYPE_BF16;
}

static float *staging_new(Tape *t, int64_t count) {
    return arena_alloc(t->staging, checked_mul(sizeof(float), (size_t)count));
}

static void convert_in(const Tensor *from, int64_t count, float *to) {
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < count; first += STAGING_RUN)
        operand_read(from, first, count - first < STAGING_RUN ? count - first : STAGING_RUN,
                     to + first);
}

static void convert_out(const float *from, int64_t count, const Tensor *to) {
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < count; first += STAGING_RUN)
        operand_write(from + first, first,
                      count - first < STAGING_RUN ? count - first : STAGING_RUN, to);
}

/* Gives v's inputs f32 values for a while; `kept` is what they had. */
static void stage_inputs(Tape *t, Var *v, Tensor kept[OP_INPUTS_MAX]) {
    for (int j = 0; j < v->in_count; j++) {
        if (!v->in[j]) continue;
        Tensor *value = &v->in[j]->value;
        kept[j] = *value;
        if (!value->data || !is_half(value->dtype)) continue;
        float *copy = staging_new(t, tensor_count(value));
        convert_in(value, tensor_count(value), copy);
        value->data = copy;
        value->dtype = DTYPE_F32;
    }
}

/* Backwards, because an input may be there twice: its first copy of `kept` is the true one. */
static void unstage_inputs(Var *v, const Tensor kept[OP_INPUTS_MAX]) {
    for (int j = v->in_count - 1; j >= 0; j--)
        if (v->in[j]) v->in[j]->value = kept[j];
}

static void stage_forward(Tape *t, Var *v) {
    Tensor kept[OP_INPUTS_MAX];
    stage_inputs(t, v, kept);
    const Tensor out = v->value;
    bool is_rounded = is_half(out.dtype);
    if (is_rounded) {
        v->value.data = staging_new(t, var_count(v));
        v->value.dtype = DTYPE_F32;
    }
    v->op->forward(t, v);
    if (is_rounded) {
        convert_out(v->value.data, var_count(v), &out);
        v->value.data = out.data;
        v->value.dtype = out.dtype;
    }
    unstage_inputs(v, kept);
    arena_reset(t->staging); /* its memory is kept for the next op */
}

static void op_backward(Tape *t, Var *v, const MapGroup *fed) {
    if (fed->count)
        map_backward(t, fed);
    else
        v->op->backward(t, v);
}

static void stage_backward(Tape *t, Var *v, const MapGroup *fed) {
    Tensor kept[OP_INPUTS_MAX];
    bool is_staged = !(v->op->flags & OP_READS_HALF);
    const Tensor dy = var_grad(v);
    if (is_staged) stage_inputs(t, v, kept);
    if (is_staged && is_half(dy.dtype)) {
        v->grad = staging_new(t, var_count(v));
        convert_in(&dy, var_count(v), v->grad);
        v->grad_dtype = DTYPE_F32;
    }
    op_backward(t, v, fed);
    for (const Staged *s = t->staged; s; s = s->next) {
        const Tensor grad = var_grad(s->v);
        convert_out(s->copy, var_count(s->v), &grad);
    }
    t->staged = NULL;
    if (is_staged) unstage_inputs(v, kept);
    v->grad = dy.data;
    v->grad_dtype = dy.dtype;
    arena_reset(t->staging); /* its memory is kept for the next op */
}

static void run_forward(Tape *t, Var *v) {
    if (v->op->flags & OP_ALIASES) {
        v->value.data = v->in[0]->value.data;
        v->value.scales = v->in[0]->value.scales;
        v->value.dtype = v->in[0]->value.dtype;
    }
    if (!runs_as_map(t, v)) {
        bool is_staged =
            t->plan && is_half(t->mode.half) && !(v->op->flags & (OP_READS_HALF | OP_ALIASES));
        if (is_staged)
            stage_forward(t, v);
        else
            v->op->forward(t, v);
        return;
    }
    if (v->op->map) map_prepare(t, v);
    MapGroup g = plan_group(t->plan, t, v, true);
    if (g.count) map_forward(t, &g);
}

/* By the bits, in integers, so that the loop vectorises; NaNs are beyond everything. */
static bool all_below(const float *x, int64_t count, float limit) {
    uint32_t largest = 0, bound;
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits &= 0x7fffffffu;
        largest = bits > largest ? bits : largest;
    }
    memcpy(&bound, &limit, sizeof bound);
    return largest < bound;
}

static bool has_finite_grad(const Var *v) {
    if (!v->grad || !*v->has_grad) return true;
    if (v->grad_dtype == DTYPE_F32) return all_below(v->grad, var_count(v), INFINITY);
    uint16_t exponent = v->grad_dtype == DTYPE_F16 ? 0x7c00 : 0x7f80, bad = 0;
    const uint16_t *codes = (const void *)v->grad;
    for (int64_t i = 0; i < var_count(v); i++) bad |= (codes[i] & exponent) == exponent;
    return !bad;
}

static void run_backward(Tape *t, Var *v) {
    const PlanSlot *slot = t->plan ? slot_of(t, v) : NULL;
    MapGroup g = {.count = 0};
    bool is_in_group = map_fits(v) || (slot && (slot->is_back_tail || slot->is_back_feed));
    if (is_in_group) g = plan_group(t->plan, t, v, false);
    if (is_in_group ? !g.count : !v->needs_grad || !*v->has_grad) return;
    if (slot && is_half(t->mode.half) && !(g.count && !g.feed))
        stage_backward(t, v, &g);
    else
        op_backward(t, v, &g);
}

bool tape_look(Tape *t, Var *x, Look *look) {
    Var *owner = x;
    owner->is_looked_at = true;
    while (owner->op && (owner->op->flags & OP_ALIASES)) {
        owner = owner->in[0];
        owner->is_looked_at = true;
    }
    if (t->mode.is_dry && !owner->look) owner->look = look;
    x->look = owner->look;
    x->is_seen = owner->is_seen;
    assert(t->mode.is_dry || t->error.code != ERROR_NONE || x->value.data);
    return !t->mode.is_dry && t->error.code == ERROR_NONE;
}

static void describe_scales(Tape *t, Var *v) {
    if (v->op->flags & OP_ALIASES) v->value.scales = v->in[0]->value.scales;
    if (v->op->describe) v->value.scales = v->op->describe(t, v);
}

static void set_memory(Tape *t, Var *v) {
    if (v->op->flags & OP_ALIASES) return;
    const PlanSlot *slot = t->plan ? slot_of(t, v) : NULL;
    if (slot && slot->value.bytes) v->value.data = t->planned + slot->value.offset;
    if (slot) v->value.dtype = slot->dtype;
    v->wants_moments = slot && slot->wants_moments;
    v->look = slot ? slot->look : NULL;
    if (slot && slot->mask.bytes) v->mask = (uint32_t *)(void *)(t->planned + slot->mask.offset);
    if (!slot) v->value.data = tape_alloc(t, checked_mul(sizeof(float), (size_t)var_count(v)));
}

/* Where v's gradient becomes that of a leaf which has no other, nor any yet: there. */
static float *grad_place(const Var *v) {
    if (!v->op || !(v->op->flags & OP_GRADIENT_IN_PLACE)) return NULL;
    const Var *in = v->in[0];
    bool is_free = !in->op && in->needs_grad && in->readers == 1 && !*in->has_grad;
    return is_free ? in->grad : NULL;
}

static float *grad_memory(Tape *t, Var *v) {
    const PlanSlot *slot = t->plan ? slot_of(t, v) : NULL;
    if (slot) v->grad_dtype = slot->grad_dtype;
    float *place = v->grad_dtype == DTYPE_F32 ? grad_place(v) : NULL;
    if (place) return place;
    if (!slot) return tape_alloc(t, checked_mul(sizeof(float), (size_t)var_count(v)));
    assert(slot->grad.bytes);
    return (float *)(void *)(t->planned + slot->grad.offset);
}

Var *tape_record(Tape *t, const Op *op, int in_count, Var *const *in, const void *attr,
                 size_t attr_bytes) {
    assert(in_count > 0 && in_count <= OP_INPUTS_MAX && in[0]);
    Var *inputs[OP_INPUTS_MAX];
    bool needs_grad = false, is_parameter = true;
    for (int i = 0; i < in_count; i++) {
        inputs[i] = in[i];
        if (in[i] && in[i]->value.scales && !(op->flags & OP_READS_LEVELS))
            inputs[i] = decoded(t, in[i]);
        needs_grad = needs_grad || (in[i] && in[i]->needs_grad);
        if (inputs[i]) inputs[i]->readers++;
        bool is_constant = i > 0 && (!inputs[i] || (!inputs[i]->op && !inputs[i]->needs_grad));
        is_parameter = is_parameter && (is_constant || inputs[i]->is_parameter);
    }
    Var *v = var_new(t);
    v->op = op;
    v->in_count = in_count;
    memcpy(v->in, inputs, sizeof *inputs * (size_t)in_count);
    v->needs_grad = needs_grad && t->mode.needs_grad;
    v->is_parameter = is_parameter;
    v->value.shape = inputs[0]->value.shape;
    if (attr_bytes) v->attr = memcpy(tape_alloc(t, attr_bytes), attr, attr_bytes);
    if (t->error.code != ERROR_NONE) return v;
    int64_t count; /* checked before anybody multiplies sizes or allocates */
    if (!op->infer(v, &t->error) || !shape_check(v->value.shape, &count, &t->error)) {
        error_prefix(&t->error, "%s%s%s", t->scope, *t->scope ? ": " : "", op->name);
        return v;
    }
    if (t->mode.is_dry) {
        describe_scales(t, v);
        return v;
    }
    set_memory(t, v);
    run_forward(t, v);
    return v;
}

/* The plan of the dry record, made anew only where it is not the last one. */
static Plan *plan_for(Tape *t, const Var *root) {
    if (t->last_plan && t->last_plan->signature == plan_signature(t, root)) return t->last_plan;
    if (!t->plan_arena) t->plan_arena = arena_new("plan");
    arena_reset(t->plan_arena);
    return t->last_plan = plan_new(t, root, t->plan_arena);
}

Var *tape_run(Tape *t, TapeMode mode, TapeBuild *build, void *context) {
    TapeMode dry = mode;
    dry.is_dry = true;
    tape_begin(t, dry);
    const Var *root = build(context, t);
    t->mode = mode;
    if (t->error.code != ERROR_NONE) return t->vars[root->index];
    Plan *plan = plan_for(t, root);
    size_t record_bytes = arena_used(t->arena);
    tape_begin(t, mode);
    arena_reserve(t->arena, checked_add(record_bytes, plan->bytes));
    t->plan = plan;
    t->planned = tape_alloc(t, plan->bytes);
    return build(context, t);
}

void *tape_alloc(Tape *t, size_t bytes) {
    return arena_alloc(t->arena, bytes);
}

Tensor tape_grad_tensor(Tape *t, Var *in, float *beta) {
    *beta = 0;
    if (!in || !in->needs_grad) return (Tensor){0};
    if (in->op && !*in->has_grad) in->grad = grad_memory(t, in); /* a new sum, placed anew */
    *beta = *in->has_grad ? 1.0f : 0.0f;
    *in->has_grad = true;
    return var_grad(in);
}

float *tape_grad(Tape *t, Var *in, float *beta) {
    const Tensor grad = tape_grad_tensor(t, in, beta);
    if (!is_half(grad.dtype) || !grad.data) return grad.data;
    int64_t count = var_count(in);
    Staged *staged = arena_alloc(t->staging, sizeof *staged);
    *staged = (Staged){in, staging_new(t, count), t->staged};
    t->staged = staged;
    if (*beta != 0.0f) convert_in(&grad, count, staged->copy);
    return staged->copy;
}

/* Gradients that v's backward takes: its own and, with it, those of the group that it feeds. By the
 * time that those are met, others may have their memory. */
static void watch(Tape *t, const Var *v) {
    const PlanSlot *slot = t->plan ? slot_of(t, v) : NULL;
    bool is_fed = slot && t->plan->slots[slot->back_last].is_back_feed;
    if (is_fed && slot->back_last != v->index) return;
    MapGroup g = {.count = 0};
    if (is_fed) g = plan_group(t->plan, t, v, false);
    if (!has_finite_grad(v)) t->overflowed = v;
    for (int i = g.count - 1; i >= 0 && !t->overflowed; i--)
        if (!has_finite_grad(g.ops[i])) t->overflowed = g.ops[i];
}

void tape_backward(Tape *t, Var *loss, float seed_grad) {
    assert(var_count(loss) == 1 && !t->mode.is_dry);
    if (t->error.code != ERROR_NONE || !loss->needs_grad) return;
    float beta;
    *tape_grad(t, loss, &beta) = seed_grad;
    for (int i = loss->index; i >= 0; i--) {
        Var *v = t->vars[i];
        if (t->mode.is_watching && !t->overflowed) watch(t, v);
        if (v->op) run_backward(t, v);
    }
}

void tape_replay(Tape *t) {
    assert(t->mode.keeps_residuals && t->error.code == ERROR_NONE);
    t->is_replay = true;
    for (int i = 0; i < t->count; i++)
        if (t->vars[i]->op) run_forward(t, t->vars[i]);
    t->is_replay = false;
}

Var *tape_sample_leaf(Tape *t, Shape shape, float low, float high) {
    Tensor value = tensor_new(t->arena, DTYPE_F32, shape);
    int64_t count = shape_count(shape);
    RandomKey key = {.seed = 1, .stream = RANDOM_TEST, .step = (uint64_t)t->count};
    random_fill_uniform(key, low, high, count, value.data);
    return tape_leaf(t, value, tape_alloc(t, sizeof(float) * (size_t)count), NULL);
}

static bool var_is_below(const Var *v, float limit) {
    bool is_float = v->value.data && v->value.dtype == DTYPE_F32;
    return !is_float || all_below(v->value.data, var_count(v), limit);
}

bool var_is_finite(const Var *v) {
    return var_is_below(v, INFINITY);
}

const Var *tape_find_beyond(const Tape *t, float limit) {
    for (int i = 0; i < t->count; i++) {
        if (!var_is_below(t->vars[i], limit)) return t->vars[i];
    }
    return NULL;
}

const Var *tape_find_nonfinite(const Tape *t) {
    return tape_find_beyond(t, INFINITY);
}

bool var_is_nonnegative(const Var *v) {
    if (!v->op) return false;
    if (v->op->flags & OP_IS_NONNEGATIVE) return true;
    if (!(v->op->flags & OP_KEEPS_SIGN)) return false;
    for (int i = 0; i < v->in_count; i++)
        if (v->in[i] && !var_is_nonnegative(v->in[i])) return false;
    return true;
}
