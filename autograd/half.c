#include "autograd/half.h"

#include "core/kernels/operand.h"

typedef struct Staged { /* a gradient that an op writes in f32 */
    Var *v;
    float *copy;
    struct Staged *next;
} Staged;

enum { STAGING_RUN = 1 << 14 /* elements that a thread converts at a time */ };

bool half_is(Dtype dtype) {
    return dtype == DTYPE_F16 || dtype == DTYPE_BF16;
}

static float *staging_new(Tape *t, int64_t count) {
    return arena_alloc(t->staging, checked_mul(sizeof(float), (size_t)count));
}

static void convert_in(const Tensor *from, float *to) {
    int64_t count = tensor_count(from);
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < count; first += STAGING_RUN)
        operand_read(from, first, count - first < STAGING_RUN ? count - first : STAGING_RUN,
                     to + first);
}

static void convert_out(const float *from, const Tensor *to) {
    int64_t count = tensor_count(to);
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < count; first += STAGING_RUN)
        operand_write(from + first, first,
                      count - first < STAGING_RUN ? count - first : STAGING_RUN, to);
}

/* The same tensor in f32, its numbers yet to be written. */
static Tensor staged_tensor(Tape *t, Tensor x) {
    x.data = staging_new(t, tensor_count(&x));
    x.dtype = DTYPE_F32;
    return x;
}

/* Gives v's inputs f32 values for a while; `kept` is what they had. */
static void stage_inputs(Tape *t, Var *v, Tensor kept[OP_INPUTS_MAX]) {
    for (int j = 0; j < v->in_count; j++) {
        if (!v->in[j]) continue;
        Tensor *value = &v->in[j]->value;
        kept[j] = *value;
        if (!value->data || !half_is(value->dtype)) continue;
        *value = staged_tensor(t, kept[j]);
        convert_in(&kept[j], value->data);
    }
}

/* Backwards, because an input may be there twice: its first copy of `kept` is the true one. */
static void unstage_inputs(Var *v, const Tensor kept[OP_INPUTS_MAX]) {
    for (int j = v->in_count - 1; j >= 0; j--)
        if (v->in[j]) v->in[j]->value = kept[j];
}

void half_forward_begin(Tape *t, Var *v, HalfStage *stage) {
    stage_inputs(t, v, stage->in);
    stage->own = v->value;
    if (half_is(v->value.dtype)) v->value = staged_tensor(t, v->value);
}

void half_forward_end(Tape *t, Var *v, const HalfStage *stage) {
    if (half_is(stage->own.dtype)) {
        convert_out(v->value.data, &stage->own);
        v->value.data = stage->own.data;
        v->value.dtype = stage->own.dtype;
    }
    unstage_inputs(v, stage->in);
    arena_reset(t->staging); /* its memory is kept for the next op */
}

/* In place of what it is, the same in f32. */
static void stage_own(Tape *t, Tensor *x) {
    const Tensor kept = *x;
    if (!x->data || !half_is(x->dtype)) return;
    *x = staged_tensor(t, kept);
    convert_in(&kept, x->data);
}

void half_backward_begin(Tape *t, Var *v, HalfStage *stage) {
    stage->own = v->grad;
    stage->value = v->value;
    if (v->op->flags & OP_READS_HALF) return;
    stage_inputs(t, v, stage->in);
    stage_own(t, &v->grad);
    if (!(v->op->flags & OP_SPARES_OUTPUT)) stage_own(t, &v->value);
}

void half_backward_end(Tape *t, Var *v, const HalfStage *stage) {
    for (const Staged *s = t->staged; s; s = s->next) convert_out(s->copy, &s->v->grad);
    t->staged = NULL;
    if (!(v->op->flags & OP_READS_HALF)) unstage_inputs(v, stage->in);
    v->grad = stage->own;
    v->value = stage->value;
    arena_reset(t->staging); /* its memory is kept for the next op */
}

float *half_gradient(Tape *t, Var *v, bool has_sum) {
    for (const Staged *s = t->staged; s; s = s->next)
        if (s->v == v) return s->copy; /* an input that is there twice */
    Staged *staged = arena_alloc(t->staging, sizeof *staged);
    *staged = (Staged){v, staging_new(t, var_count(v)), t->staged};
    t->staged = staged;
    if (has_sum) convert_in(&v->grad, staged->copy);
    return staged->copy;
}
