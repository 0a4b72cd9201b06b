#include "autograd/tape.h"

#include <assert.h>
#include <string.h>

#include "autograd/half.h"

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
    t->segment = t->segment_count = 0;
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
    v->segment = t->segment;
    v->has_grad = &v->own_flag;
    v->index = t->count;
    t->vars[t->count++] = v;
    return v;
}

Var *tape_leaf(Tape *t, Tensor value, float *grad, bool *has_grad) {
    Var *v = var_new(t);
    v->value = value;
    v->grad = (Tensor){.dtype = DTYPE_F32, .shape = value.shape, .data = grad};
    v->needs_grad = grad && t->mode.needs_grad;
    if (has_grad) v->has_grad = has_grad;
    return v;
}

Var *tape_constant(Tape *t, Tensor value) {
    return tape_leaf(t, value, NULL, NULL);
}

bool tape_probe(Tape *t, Var *x, Probe *probe) {
    Var *owner = x;
    owner->is_probed = true;
    while (owner->op && (owner->op->flags & OP_ALIASES)) {
        owner = owner->in[0];
        owner->is_probed = true;
    }
    if (t->mode.is_dry && !owner->probe) owner->probe = probe;
    x->probe = owner->probe;
    x->is_seen = owner->is_seen;
    assert(t->mode.is_dry || t->error.code != ERROR_NONE || x->value.data);
    return !t->mode.is_dry && t->error.code == ERROR_NONE;
}

/* Where v's gradient becomes that of a leaf which has no other, nor any yet: there. */
static void *grad_place(const Var *v) {
    if (!v->op || !(v->op->flags & OP_GRADIENT_IN_PLACE)) return NULL;
    const Var *in = v->in[0];
    bool is_free = !in->op && in->needs_grad && in->readers == 1 && !*in->has_grad;
    return is_free ? in->grad.data : NULL;
}

static void *gradient_memory(Tape *t, const Var *v) {
    void *place = v->grad.dtype == DTYPE_F32 ? grad_place(v) : NULL;
    if (place) return place;
    assert(!t->plan || v->grad_memory);
    if (v->grad_memory) return v->grad_memory;
    return tape_alloc(t, checked_mul(sizeof(float), (size_t)var_count(v)));
}

Var *tape_append(Tape *t, const Op *op, int in_count, Var *const *in, const void *attr,
                 size_t attr_bytes) {
    bool needs_grad = false, is_parameter = true;
    for (int i = 0; i < in_count; i++) {
        if (in[i]) in[i]->readers++;
        needs_grad = needs_grad || (in[i] && in[i]->needs_grad);
        bool is_constant = i > 0 && (!in[i] || (!in[i]->op && !in[i]->needs_grad));
        is_parameter = is_parameter && (is_constant || in[i]->is_parameter);
    }
    Var *v = var_new(t);
    if (op->flags & OP_LOOKS_UP) is_parameter = false;
    v->op = op;
    v->in_count = in_count;
    memcpy(v->in, in, sizeof *in * (size_t)in_count);
    v->needs_grad = needs_grad && t->mode.needs_grad;
    v->is_parameter = is_parameter;
    v->value.shape = in[0]->value.shape;
    if (attr_bytes) v->attr = memcpy(tape_alloc(t, attr_bytes), attr, attr_bytes);
    if (t->error.code != ERROR_NONE) return v;
    int64_t count; /* checked before anybody multiplies sizes or allocates */
    if (!op->infer(v, &t->error) || !shape_check(v->value.shape, &count, &t->error))
        error_prefix(&t->error, "%s%s%s", t->scope, *t->scope ? ": " : "", op->name);
    v->grad.shape = v->value.shape;
    return v;
}

void *tape_alloc(Tape *t, size_t bytes) {
    return arena_alloc(t->arena, bytes);
}

Tensor tape_grad_tensor(Tape *t, Var *in, float *beta) {
    *beta = 0;
    if (!in || !in->needs_grad) return (Tensor){0};
    if (in->op && !*in->has_grad) in->grad.data = gradient_memory(t, in); /* a new sum, anew */
    *beta = *in->has_grad ? 1.0f : 0.0f;
    *in->has_grad = true;
    return in->grad;
}

float *tape_grad(Tape *t, Var *in, float *beta) {
    const Tensor grad = tape_grad_tensor(t, in, beta);
    bool is_copied = grad.data && half_is(grad.dtype);
    return is_copied ? half_gradient(t, in, *beta != 0.0f) : grad.data;
}

Var *tape_sample_leaf(Tape *t, Shape shape, float low, float high) {
    Tensor value = tensor_new(t->arena, DTYPE_F32, shape);
    int64_t count = shape_count(shape);
    RandomKey key = {.seed = 1, .stream = RANDOM_TEST, .step = (uint64_t)t->count};
    random_fill_uniform(key, low, high, count, value.data);
    return tape_leaf(t, value, tape_alloc(t, sizeof(float) * (size_t)count), NULL);
}

bool var_is_nonnegative(const Var *v) {
    if (!v->op) return false;
    if (v->op->flags & OP_IS_NONNEGATIVE) return true;
    if (!(v->op->flags & OP_KEEPS_SIGN)) return false;
    for (int i = 0; i < v->in_count; i++)
        if (v->in[i] && !var_is_nonnegative(v->in[i])) return false;
    return true;
}
