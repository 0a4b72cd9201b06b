/* What runs again before its backward, and the order of a step. */
#include "autograd/plan.h"

/* As modules recorded them. */
static void read_segments(Plan *plan, const Tape *record) {
    uint32_t open = 0;
    for (int i = 0; i < record->count; i++) {
        uint32_t number = record->vars[i]->segment;
        if (number && number != open) plan->segments[plan->segment_count++].first = i;
        if (number) plan->segments[plan->segment_count - 1].last = i;
        open = number;
    }
}

/* What begins in the segment ends in it, and what began before it is not its. Whether that moves an
 * end of it. */
static bool fit_group(PlanSegment *s, const PlanGroup *g) {
    PlanSegment was = *s;
    if (g->first < s->first && g->last >= s->first) s->first = g->last + 1;
    if (g->first >= s->first && g->first <= s->last && g->last > s->last) s->last = g->last;
    return s->first != was.first || s->last != was.last;
}

static bool fit_groups(PlanSegment *s, const PlanGroups *groups) {
    bool has_moved = false;
    for (int i = 0; i < groups->count; i++)
        if (fit_group(s, &groups->groups[i])) has_moved = true;
    return has_moved;
}

/* Each begins behind the one before it; of one that groups leave nothing of, nothing stays. */
static void fit_segments(Plan *plan) {
    int count = 0, end = -1;
    for (int i = 0; i < plan->segment_count; i++) {
        PlanSegment s = plan->segments[i];
        if (s.first <= end) s.first = end + 1;
        for (bool has_moved = true; has_moved;) {
            has_moved = fit_groups(&s, &plan->forward);
            has_moved = fit_groups(&s, &plan->backward) || has_moved;
        }
        if (s.first > s.last) continue;
        end = s.last;
        plan->segments[count++] = s;
    }
    plan->segment_count = count;
}

/* A reshape costs nothing: it is made again with what it shows. */
static bool is_light(const Tape *record, const Var *v) {
    const Op *op = plan_owner(v)->op;
    return record->mode.recompute == RECOMPUTE_BLOCK || (op && op->flags & OP_IS_CHEAP);
}

static void set_members(Plan *plan, const Tape *record) {
    for (int i = 0; i < plan->count; i++) plan->segment_of[i] = -1;
    for (int s = 0; s < plan->segment_count; s++)
        for (int i = plan->segments[s].first; i <= plan->segments[s].last; i++) {
            const Var *v = record->vars[i];
            if (v->op && !v->is_parameter && is_light(record, v)) plan->segment_of[i] = s;
        }
}

static void set_times(Plan *plan) {
    int now = plan->count, next = plan->segment_count - 1;
    for (int i = plan->count - 1; i >= 0; i--) {
        const PlanSegment *s = next >= 0 ? &plan->segments[next] : NULL;
        bool is_end = s && s->last == i;
        for (int k = is_end ? s->first : i + 1; k <= i; k++) plan->again_at[k] = now++;
        if (is_end) next--;
        plan->back_at[i] = now++;
    }
    plan->end = now;
}

void plan_find_segments(Plan *plan, const Tape *record, Arena *arena) {
    int count = record->count;
    plan->segments = arena_new_array(arena, PlanSegment, count);
    plan->segment_of = arena_new_array(arena, int, count);
    plan->again_at = arena_new_array(arena, int, count);
    plan->back_at = arena_new_array(arena, int, count);
    if (record->mode.recompute && !record->mode.keeps_residuals) read_segments(plan, record);
    fit_segments(plan);
    set_members(plan, record);
    set_times(plan);
}
