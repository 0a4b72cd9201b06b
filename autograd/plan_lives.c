/* When each value and each gradient of a step is there. */
#include <string.h>

#include "autograd/half.h"
#include "autograd/map_group.h"
#include "autograd/plan.h"

/* What is being found: reads on the way back of values that are there since forward, or of those
 * that one segment makes again. */
typedef struct Lives {
    Plan *plan;
    const Tape *record;
    int segment; /* -1: the former */
} Lives;

static void reach(PlanBuffer *buffer, int time) {
    if (buffer->end < time) buffer->end = time;
}

static int first_of(const PlanGroup *group, int index) {
    return group ? group->first : index;
}

/* A group runs when its last op is recorded, and on the way back when that one is met. */
static int last_of(const PlanGroup *group, int index) {
    return group ? group->last : index;
}

static int forward_time(const Plan *plan, int index) {
    return last_of(plan_group_of(plan, index, true), index);
}

static int again_time(const Plan *plan, int index) {
    return plan->again_at[last_of(plan_group_of(plan, index, true), index)];
}

static int backward_time(const Plan *plan, int index) {
    return plan->back_at[last_of(plan_group_of(plan, index, false), index)];
}

/* Within a group values and gradients are passed along. */
static bool are_together(const Plan *plan, const Var *a, const Var *b, bool is_forward) {
    const PlanGroup *group = plan_group_of(plan, a->index, is_forward);
    return group && group == plan_group_of(plan, b->index, is_forward);
}

/* Of a segment too, because others read it on their way back: it need not be made again. */
static bool is_held(const Plan *plan, const Var *owner) {
    const PlanBuffer *value = &plan->slots[owner->index].value;
    return value->bytes && value->end >= plan->count;
}

static bool is_made_again(const Plan *plan, const Var *reader, const Var *owner) {
    int number = plan->segment_of[owner->index];
    const PlanSegment *s = number >= 0 ? &plan->segments[number] : NULL;
    return s && reader->index >= s->first && reader->index <= s->last;
}

static void keep(PlanBuffer *buffer, int time) {
    buffer->bytes = 1; /* the size comes later */
    reach(buffer, time);
}

/* ---- Forward ---- */

static void values_begin(Plan *plan, const Var *v) {
    const PlanGroup *group = plan_group_of(plan, v->index, true);
    PlanSlot *slot = &plan->slots[v->index];
    slot->value.begin = first_of(group, v->index);
    reach(&slot->value, last_of(group, v->index));
    if (!v->op) return;
    bool is_passed_on = group && group->tail != v->index;
    if (v->is_probed || !is_passed_on) slot->value.bytes = 1;
    for (int j = 0; j < v->in_count; j++)
        if (v->in[j] && !are_together(plan, v->in[j], v, true))
            keep(&plan->slots[plan_owner(v->in[j])->index].value, forward_time(plan, v->index));
}

/* ---- Backward ---- */

/* What v reads of the value that `owner` has. */
static void value_read_back(const Lives *l, const Var *v, const Var *owner) {
    PlanSlot *slot = &l->plan->slots[owner->index];
    int time = backward_time(l->plan, v->index);
    bool is_again = is_made_again(l->plan, v, owner);
    if (is_again && l->segment < 0) return;
    keep(is_again && !is_held(l->plan, owner) ? &slot->again : &slot->value, time);
}

static void input_read_back(const Lives *l, const Var *v, int j) {
    if (v->in[j]) value_read_back(l, v, plan_owner(v->in[j]));
}

static bool spares_input(const Var *v, int j) {
    if (v->op->geometry) return j > 1 || !v->in[1 - j]->needs_grad;
    return v->op->flags & OP_SPARES_INPUTS;
}

static void op_reads_back(const Lives *l, const Var *v) {
    for (int j = 0; j < v->in_count; j++)
        if (!spares_input(v, j)) input_read_back(l, v, j);
    if (!(v->op->flags & OP_SPARES_OUTPUT)) value_read_back(l, v, plan_owner(v));
}

/* Or its notes. */
static void keep_mask(Plan *plan, const Var *v) {
    PlanBuffer *mask = &plan->slots[v->index].mask;
    bool is_again = plan->segment_of[v->index] >= 0;
    mask->begin = is_again ? again_time(plan, v->index) : forward_time(plan, v->index);
    keep(mask, backward_time(plan, v->index));
}

static void group_reads_back(const Lives *l, const PlanGroup *own) {
    const MapGroup group = plan_group(l->plan, l->record, l->record->vars[own->last], false);
    Var *const *ops = group.ops;
    int count = group.count;
    bool is_made[MAP_GROUP_MAX], reads[MAP_GROUP_MAX][MAP_INPUTS_MAX];
    bool has_masks = !l->record->mode.keeps_residuals && map_takes_masks(ops, count);
    map_needs(ops, count, has_masks, is_made, reads);
    for (int i = 0; i < count; i++) {
        bool takes_mask = has_masks && map_flow(ops[i]) == MAP_FLOW_MASK;
        if (ops[i]->needs_grad && (takes_mask || ops[i]->op->map->note_bytes))
            keep_mask(l->plan, ops[i]);
    }
    for (int i = 0; i < count; i++)
        for (int j = 0; j < ops[i]->in_count; j++) {
            bool is_read = j < ops[i]->op->map->input_count ? reads[i][j] : ops[i]->needs_grad;
            int from = map_index(ops, i, ops[i]->in[j]);
            if (is_read && (from < 0 || !is_made[from])) input_read_back(l, ops[i], j);
        }
}

/* Vars first .. last, which groups are wholly in or out of. */
static void read_back(const Lives *l, int first, int last) {
    for (int i = first; i <= last; i++) {
        const Var *v = l->record->vars[i];
        const PlanGroup *group = plan_group_of(l->plan, i, false);
        bool has_own_backward = !group || group->feed == i;
        if (v->op && has_own_backward && v->needs_grad) op_reads_back(l, v);
        if (group && group->last == i) group_reads_back(l, group);
    }
}

/* ---- Segments: forward again ---- */

/* Ops that run as one when the last of them is met. */
typedef struct Unit {
    int first, last;
} Unit;

/* Whether the op is one of the unit's, between which there are parameters. */
static bool is_in_unit(const Lives *l, const Unit *unit, int index) {
    return index >= unit->first && index <= unit->last && l->plan->segment_of[index] >= 0;
}

static bool is_needed(const Lives *l, const Unit *unit) {
    for (int i = unit->first; i <= unit->last; i++)
        if (is_in_unit(l, unit, i) &&
            (l->plan->slots[i].again.bytes || l->plan->slots[i].mask.bytes))
            return true;
    return false;
}

/* In half precision a group reads what its feed made rounded where it is kept. That is so both
 * times where it would be so without segments. */
static void keep_feed(const Lives *l, int index) {
    const PlanGroup *group = plan_group_of(l->plan, index, true);
    PlanSlot *slot = &l->plan->slots[index];
    if (!half_is(l->record->mode.half) || !group || group->feed != index) return;
    if (slot->again.bytes) slot->value.bytes = 1;
    if (slot->value.bytes && !is_held(l->plan, l->record->vars[index])) slot->again.bytes = 1;
}

static void run_op_again(const Lives *l, const Unit *unit, int index) {
    Plan *plan = l->plan;
    const Var *v = l->record->vars[index];
    PlanSlot *slot = &plan->slots[index];
    int time = plan->again_at[unit->last];
    slot->runs_again = true;
    keep_feed(l, index);
    slot->again.begin = plan->again_at[unit->first];
    reach(&slot->again, time);
    if (is_held(plan, v)) reach(&slot->value, time); /* it is written again, where it lies */
    for (int j = 0; j < v->in_count; j++) {
        const Var *owner = v->in[j] ? plan_owner(v->in[j]) : NULL;
        if (!owner || is_in_unit(l, unit, owner->index)) continue;
        PlanSlot *in = &plan->slots[owner->index];
        bool is_again = is_made_again(plan, v, owner) && !is_held(plan, owner);
        keep(is_again ? &in->again : &in->value, time);
    }
}

/* From the last op to the first: what others read is known when an op is met. */
static void run_again(const Lives *l, const PlanSegment *s) {
    for (int i = s->last; i >= s->first; i--) {
        const Var *v = l->record->vars[i];
        if (l->plan->segment_of[i] < 0) continue;
        if (v->op->flags & OP_ALIASES) {
            l->plan->slots[i].runs_again = true;
            continue;
        }
        const PlanGroup *group = plan_group_of(l->plan, i, true);
        if (group && group->last != i) continue;
        const Unit unit = {first_of(group, i), i};
        for (int k = unit.last; k >= unit.first && is_needed(l, &unit); k--)
            if (is_in_unit(l, &unit, k)) run_op_again(l, &unit, k);
    }
}

/* ---- Gradients ---- */

/* There from the backward of its last reader to its own; within a group it is not kept. */
static void gradients_live(Plan *plan, const Tape *record, const Var *root) {
    if (root->needs_grad && root->op) plan->slots[root->index].grad.begin = record->count;
    for (int i = record->count - 1; i >= 0; i--) {
        const Var *v = record->vars[i];
        if (!v->op || !v->needs_grad) continue;
        for (int j = 0; j < v->in_count; j++) {
            const Var *in = v->in[j];
            if (!in || !in->needs_grad || !in->op) continue;
            if (are_together(plan, in, v, false)) continue;
            PlanBuffer *grad = &plan->slots[in->index].grad;
            int time = backward_time(plan, i); /* of a fed group earlier than its place says */
            if (!grad->begin || time < grad->begin) grad->begin = time;
        }
        /* The group of maps walks first to last, and reads till its own end. */
        if (plan->slots[i].grad.begin) plan->slots[i].grad.end = backward_time(plan, i);
    }
}

/* Segments come last to first, because what a later one reads of an earlier is held there. */
void plan_find_lives(Plan *plan, const Tape *record, const Var *root) {
    Lives l = {plan, record, -1};
    for (int i = 0; i < record->count; i++) values_begin(plan, record->vars[i]);
    keep(&plan->slots[plan_owner(root)->index].value, plan->end);
    read_back(&l, 0, record->count - 1);
    for (l.segment = plan->segment_count - 1; l.segment >= 0; l.segment--) {
        const PlanSegment *s = &plan->segments[l.segment];
        read_back(&l, s->first, s->last);
        run_again(&l, s);
    }
    gradients_live(plan, record, root);
}
