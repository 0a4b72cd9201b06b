#include "experiments/plan/record.h"

#include "autograd/map.h"
#include "core/counts.h"

/* ---- Half precision: ops that know only f32 get copies. ---- */

static int64_t staged_copy(const Var *v, Dtype dtype) {
    bool is_half = dtype == DTYPE_F16 || dtype == DTYPE_BF16;
    return is_half ? arena_padded((int64_t)sizeof(float) * var_count(v)) : 0;
}

static int64_t staged_forward(const Var *v) {
    if (map_fits(v) || (v->op->flags & (OP_READS_HALF | OP_ALIASES))) return 0;
    int64_t bytes = staged_copy(v, v->value.dtype);
    for (int j = 0; j < v->in_count; j++)
        if (v->in[j]) bytes += staged_copy(v->in[j], v->in[j]->value.dtype);
    return bytes;
}

static int64_t staged_backward(const Var *v) {
    if (map_fits(v)) return 0;
    int64_t bytes = 0;
    bool is_whole = !(v->op->flags & OP_READS_HALF);
    if (is_whole) bytes = staged_copy(v, v->grad.dtype);
    if (is_whole && !(v->op->flags & OP_SPARES_OUTPUT)) bytes += staged_copy(v, v->value.dtype);
    for (int j = 0; j < v->in_count; j++) {
        const Var *in = v->in[j];
        if (!in) continue;
        if (is_whole) bytes += staged_copy(in, in->value.dtype);
        int64_t grad = in->needs_grad ? staged_copy(in, in->grad.dtype) : 0;
        if (j >= v->op->half_grads && grad) bytes += grad + ARENA_ALIGNMENT; /* and a note of it */
    }
    return bytes;
}

/* ---- Ops, and groups of maps with what feeds them. ---- */

static int64_t scratch_of(const Var *v, bool is_backward) {
    int64_t (*scratch)(const Var *) =
        is_backward ? v->op->backward_scratch : v->op->forward_scratch;
    return scratch ? scratch(v) : 0;
}

/* Not a map, but of a group. */
static bool is_joined(const Plan *plan, const Var *v, bool is_backward) {
    return plan && plan_group_of(plan, v->index, !is_backward) && !map_fits(v);
}

static int64_t scratch_at(const Tape *record, const Plan *plan, const Var *v, bool is_backward) {
    bool is_map = map_fits(v);
    if (!is_map && !is_joined(plan, v, is_backward)) return scratch_of(v, is_backward);
    MapGroup group = plan_group(plan, record, v, !is_backward);
    int64_t bytes = group.count ? map_scratch(&group, is_backward) : 0;
    if (group.count && group.feed) bytes += scratch_of(group.feed, is_backward);
    return is_map && !is_backward ? count_most(bytes, scratch_of(v, false)) : bytes;
}

/* Vars of a dry record learn how they will be kept, as ops ask (Op.forward_scratch). */
static void tell_kept(const Tape *record, const Plan *plan) {
    for (int i = 0; i < record->count; i++) {
        Var *v = record->vars[i];
        const PlanSlot *slot = &plan->slots[i];
        if (!v->op) continue;
        v->value.dtype = v->op->flags & OP_ALIASES ? v->in[0]->value.dtype : slot->dtype;
        v->grad.dtype = slot->grad_dtype;
        v->wants_moments = slot->wants_moments;
    }
}

static int64_t values_apart(const Tape *record) {
    int64_t bytes = 0;
    for (int i = 0; i < record->count; i++) {
        const Var *v = record->vars[i];
        bool is_owner = v->op && !(v->op->flags & OP_ALIASES);
        if (is_owner) bytes += arena_padded((int64_t)sizeof(float) * var_count(v));
    }
    return bytes;
}

RecordBytes record_bytes(const Tape *record, const Plan *plan) {
    RecordBytes out = {.vars = (int64_t)arena_used(record->arena)};
    if (plan) tell_kept(record, plan);
    out.block = plan ? (int64_t)plan->bytes : values_apart(record);
    out.kept = plan && record->mode.needs_grad ? (int64_t)plan->value_bytes_kept : 0;
    int64_t saved = 0;
    for (int i = 0; i < record->count; i++) {
        const Var *v = record->vars[i];
        if (!v->op) continue;
        if (v->op->saved_bytes) saved += v->op->saved_bytes(record, v);
        out.staged = count_most(out.staged, staged_forward(v));
        out.scratch = count_most(out.scratch, saved + scratch_at(record, plan, v, false));
    }
    for (int i = 0; plan && i < record->count; i++) {
        const Var *v = record->vars[i];
        if (!v->op || !v->needs_grad) continue;
        out.staged = count_most(out.staged, staged_backward(v));
        out.scratch = count_most(out.scratch, saved + scratch_at(record, plan, v, true));
    }
    return out;
}

int64_t record_arena(const RecordBytes *bytes) {
    return bytes->vars + bytes->block + bytes->scratch;
}
