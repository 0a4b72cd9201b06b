/* Running a tape: each op when it is recorded, and backward; alone, or in the groups and the memory
 * of a plan, which is found here and nowhere else. */
#include <assert.h>
#include <string.h>

#include "autograd/half.h"
#include "autograd/map.h"
#include "autograd/ops.h"
#include "autograd/plan.h"
#include "autograd/tape.h"

static const PlanSlot *slot_of(const Tape *t, const Var *v) {
    assert(v->index < t->plan->count);
    const PlanSlot *slot = &t->plan->slots[v->index];
    assert(slot->op == v->op && shape_equal(slot->shape, v->value.shape));
    return slot;
}

/* ---- Forward ---- */

static void *planned_at(const Tape *t, const PlanBuffer *buffer) {
    return buffer->bytes ? t->planned + buffer->offset : NULL;
}

static void place_mask(const Tape *t, Var *v, const PlanSlot *slot) {
    if (map_note_bytes(v))
        v->notes = planned_at(t, &slot->mask);
    else
        v->mask = planned_at(t, &slot->mask);
}

static void place_as_planned(Tape *t, Var *v) {
    const PlanSlot *slot = slot_of(t, v);
    v->grad.dtype = slot->grad_dtype;
    v->grad_memory = planned_at(t, &slot->grad);
    if (v->op->flags & OP_ALIASES) return;
    v->value.dtype = slot->dtype;
    v->value.data = planned_at(t, &slot->value);
    if (!slot->runs_again) place_mask(t, v, slot);
    v->wants_moments = slot->wants_moments;
    v->probe = slot->probe;
}

static void place_apart(Tape *t, Var *v) {
    if (v->op->flags & OP_ALIASES) return;
    v->value.data = tape_alloc(t, checked_mul(sizeof(float), (size_t)var_count(v)));
}

static const PlanGroup *group_of(const Tape *t, const Var *v, bool is_forward) {
    return t->plan ? plan_group_of(t->plan, v->index, is_forward) : NULL;
}

static bool runs_as_map(const Tape *t, const Var *v) {
    if (!map_fits(v)) return group_of(t, v, true);
    return !(t->mode.keeps_residuals && v->op->forward);
}

static void op_forward(Tape *t, Var *v) {
    bool is_staged =
        t->plan && half_is(t->mode.half) && !(v->op->flags & (OP_READS_HALF | OP_ALIASES));
    HalfStage stage;
    if (is_staged) half_forward_begin(t, v, &stage);
    v->op->forward(t, v);
    if (is_staged) half_forward_end(t, v, &stage);
}

/* `is_again`: what maps prepare is there. */
static void run_forward(Tape *t, Var *v, bool is_again) {
    if (v->op->flags & OP_ALIASES) {
        v->value.data = v->in[0]->value.data;
        v->value.scales = v->in[0]->value.scales;
        v->value.dtype = v->in[0]->value.dtype;
    }
    if (!runs_as_map(t, v)) {
        op_forward(t, v);
        return;
    }
    if (v->op->map && !is_again) map_prepare(t, v);
    MapGroup g = plan_group(t->plan, t, v, true);
    if (g.count) map_forward(t, &g);
}

static void describe_scales(Tape *t, Var *v) {
    if (v->op->flags & OP_ALIASES) v->value.scales = v->in[0]->value.scales;
    if (v->op->describe) v->value.scales = v->op->describe(t, v);
}

/* Levels, codes of a codebook, a leaf's half precision and what lies in panels, for an op that
 * reads f32 values. (What ops make in half precision is staged.) */
static bool needs_decoding(const Op *op, int input, const Var *v) {
    bool in_panels = v->value.layout == LAYOUT_PANELS;
    if (input < 2 && op->flags & (in_panels ? OP_READS_PANELS : OP_READS_LEVELS)) return false;
    if (in_panels) return true;
    const Var *owner = v;
    while (owner->op && (owner->op->flags & OP_ALIASES)) owner = owner->in[0];
    return v->value.scales || (!owner->op && owner->value.dtype != DTYPE_F32);
}

/* What an op that reads values only sees of a Var that needs decoding. */
static Var *decoded(Tape *t, Var *v) {
    if (!v->decoded) v->decoded = op_dequantize(t, v);
    return v->decoded;
}

Var *tape_record(Tape *t, const Op *op, int in_count, Var *const *in, const void *attr,
                 size_t attr_bytes) {
    assert(in_count > 0 && in_count <= OP_INPUTS_MAX && in[0]);
    Var *inputs[OP_INPUTS_MAX];
    for (int i = 0; i < in_count; i++)
        inputs[i] = in[i] && needs_decoding(op, i, in[i]) ? decoded(t, in[i]) : in[i];
    Var *v = tape_append(t, op, in_count, inputs, attr, attr_bytes);
    if (t->error.code != ERROR_NONE) return v;
    if (t->mode.is_dry) {
        describe_scales(t, v);
    } else {
        (t->plan ? place_as_planned : place_apart)(t, v);
        run_forward(t, v, false);
    }
    return v;
}

void tape_replay(Tape *t) {
    assert(t->mode.keeps_residuals && t->error.code == ERROR_NONE);
    t->is_replay = true;
    for (int i = 0; i < t->count; i++)
        if (t->vars[i]->op) run_forward(t, t->vars[i], false);
    t->is_replay = false;
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

/* ---- Backward ---- */

static void op_backward(Tape *t, Var *v, const MapGroup *group) {
    if (group->count)
        map_backward(t, group);
    else
        v->op->backward(t, v);
}

static void run_backward(Tape *t, Var *v) {
    MapGroup g = {.count = 0};
    bool is_in_group = map_fits(v) || group_of(t, v, false);
    if (is_in_group) g = plan_group(t->plan, t, v, false);
    if (is_in_group ? !g.count : !v->needs_grad || !*v->has_grad) return;
    bool is_staged = t->plan && half_is(t->mode.half) && !(g.count && !g.feed);
    HalfStage stage;
    if (is_staged) half_backward_begin(t, v, &stage);
    op_backward(t, v, &g);
    if (is_staged) half_backward_end(t, v, &stage);
}

/* Gradients that v's backward takes: its own and, with it, those of the group that it feeds. By the
 * time that those are met, others may have their memory. */
static void watch(Tape *t, const Var *v) {
    const PlanGroup *own = group_of(t, v, false);
    bool is_fed = own && own->feed >= 0;
    if (is_fed && own->last != v->index) return;
    MapGroup g = {.count = 0};
    if (is_fed) g = plan_group(t->plan, t, v, false);
    if (!var_has_finite_grad(v)) t->overflowed = v;
    for (int i = g.count - 1; i >= 0 && !t->overflowed; i--)
        if (!var_has_finite_grad(g.ops[i])) t->overflowed = g.ops[i];
}

/* What others read, or the shape alone decides, is there still; whoever looked at values has seen
 * them. */
static void place_again(Tape *t, Var *v) {
    const PlanSlot *slot = slot_of(t, v);
    bool is_held = slot->value.bytes && slot->value.end >= t->plan->count;
    if (v->op->flags & OP_ALIASES) return;
    if (!is_held) v->value.data = planned_at(t, &slot->again);
    place_mask(t, v, slot);
    v->probe = NULL;
    v->wants_moments = false;
}

/* Forward once more, of what backward reads of a block. */
static void run_again(Tape *t, const PlanSegment *s) {
    bool was_rerun = t->mode.is_rerun;
    t->mode.is_rerun = true;
    for (int i = s->first; i <= s->last; i++) {
        if (!t->plan->slots[i].runs_again) continue;
        place_again(t, t->vars[i]);
        run_forward(t, t->vars[i], true);
    }
    t->mode.is_rerun = was_rerun;
}

void tape_backward(Tape *t, Var *loss, float seed_grad) {
    assert(var_count(loss) == 1 && !t->mode.is_dry);
    if (t->error.code != ERROR_NONE || !loss->needs_grad) return;
    float beta;
    *tape_grad(t, loss, &beta) = seed_grad;
    int segments = t->plan ? t->plan->segment_count : 0;
    const PlanSegment *next = segments ? t->plan->segments + segments - 1 : NULL;
    for (int i = loss->index; i >= 0; i--) {
        if (next && next->last == i) {
            run_again(t, next);
            next = next > t->plan->segments ? next - 1 : NULL;
        }
        Var *v = t->vars[i];
        if (t->mode.is_watching && !t->overflowed) watch(t, v);
        if (v->op) run_backward(t, v);
    }
}
