#include <assert.h>

#include "autograd/plan.h"

static const PlanGroup empty = {.feed = -1, .tail = -1};

const PlanGroup *plan_group_of(const Plan *plan, int index, bool is_forward) {
    const PlanGroups *groups = is_forward ? &plan->forward : &plan->backward;
    int number = groups->of[index];
    return number >= 0 ? &groups->groups[number] : NULL;
}

MapGroup plan_group(const Plan *plan, const Tape *record, const Var *v, bool is_forward) {
    if (!plan) return (MapGroup){.ops = {record->vars[v->index]}, .count = 1};
    const PlanGroup *own = plan_group_of(plan, v->index, is_forward);
    MapGroup g = {.count = 0};
    if (!own || own->last != v->index) return g;
    while (g.count < own->count) {
        g.ops[g.count] = record->vars[own->ops[g.count]];
        g.count++;
    }
    if (own->feed >= 0) g.feed = record->vars[own->feed];
    if (own->tail >= 0) g.tail = record->vars[own->tail];
    return g;
}

/* ---- The group that grows while the tape is walked ---- */

static bool holds(const PlanGroup *g, const Var *v) {
    for (int i = 0; i < g->count; i++)
        if (g->ops[i] == v->index) return true;
    return v->index == g->feed;
}

static const Var *last_of(const Tape *record, const PlanGroup *g) {
    if (g->count) return record->vars[g->ops[g->count - 1]];
    return g->feed >= 0 ? record->vars[g->feed] : NULL;
}

/* Where cheap ops alone run again, they do so without others. */
static bool are_alike(const Tape *record, const Var *a, const Var *b) {
    return record->mode.recompute != RECOMPUTE_CHEAP ||
           (a->op->flags & OP_IS_CHEAP) == (b->op->flags & OP_IS_CHEAP);
}

/* Whether v can go with those before it: what it needs beforehand must not be among them. */
static bool may_join(const Tape *record, const PlanGroup *g, const Var *v, bool is_forward) {
    const Var *last = last_of(record, g);
    if (!last || g->count == MAP_GROUP_MAX || (is_forward && last->is_probed)) return false;
    if (is_forward && !are_alike(record, last, v)) return false;
    if (!shape_equal(last->value.shape, v->value.shape) || last->is_parameter != v->is_parameter)
        return false;
    int mapped = v->op->map->input_count;
    for (int j = v->op->map->is_whole ? 0 : mapped; j < v->in_count; j++)
        if (v->in[j] && holds(g, v->in[j])) return false;
    return true;
}

/* Whether v, no map, reads what the group makes, so that it can go with it and end it. */
static bool may_end(const Tape *record, const PlanGroup *g, const Var *v, bool is_forward) {
    if (!g->count || !map_fits_tail(v) || record->mode.keeps_residuals) return false;
    const Var *last = last_of(record, g);
    return holds(g, v->in[0]) && !(is_forward && (last->is_probed || !are_alike(record, last, v)));
}

/* Whether maps behind v can be fed by it. */
static bool may_feed(const Tape *record, const Var *v) {
    return v->op->feed && !record->mode.keeps_residuals && !v->is_probed && pieces_of(v).are_tiles;
}

/* A feed that no map followed is no group. */
static void close_group(PlanGroups *groups, PlanGroup *g) {
    if (g->count) {
        int number = groups->count++;
        g->first = g->feed >= 0 ? g->feed : g->ops[0];
        g->last = g->tail >= 0 ? g->tail : g->ops[g->count - 1];
        for (int i = 0; i < g->count; i++) groups->of[g->ops[i]] = number;
        if (g->feed >= 0) groups->of[g->feed] = number;
        if (g->tail >= 0) groups->of[g->tail] = number;
        groups->groups[number] = *g;
    }
    *g = empty;
}

static void find_maps(PlanGroups *groups, const Tape *record, bool is_forward) {
    PlanGroup g = empty;
    for (int i = 0; i < record->count; i++) {
        const Var *v = record->vars[i];
        groups->of[i] = -1;
        if (!v->op) continue; /* a leaf is no hindrance */
        bool is_map = map_fits(v);
        if (may_end(record, &g, v, is_forward)) g.tail = i;
        if (!is_map || !may_join(record, &g, v, is_forward)) close_group(groups, &g);
        if (is_map) g.ops[g.count++] = i;
        if (!is_map && is_forward && may_feed(record, v)) g.feed = i;
    }
    close_group(groups, &g);
}

/* ---- Feeds on the way back ---- */

/* Whether v alone gives the gradient of what a group makes last, which then goes through the group
 * block by block: from there to v there are parameters only, v reads the group nowhere else, and no
 * op has sums by channel, of which there would be some for every block. */
static bool may_feed_back(const PlanGroups *groups, const Tape *record, const Var *v,
                          const Var *root) {
    const Var *last = v->in[0];
    if (!v->op->feed || record->mode.keeps_residuals || !v->needs_grad || !last->needs_grad)
        return false;
    if (!map_fits(last) || last->readers != 1 || last == root) return false;
    const PlanGroup *g = &groups->groups[groups->of[last->index]];
    if (g->last != last->index || !pieces_of(last).are_tiles) return false;
    for (int i = last->index + 1; i < v->index; i++)
        if (record->vars[i]->op && !record->vars[i]->is_parameter) return false;
    for (int j = 1; j < v->in_count; j++)
        if (v->in[j] && holds(g, v->in[j])) return false;
    for (int i = 0; i < g->count; i++)
        if (record->vars[g->ops[i]]->op->map->reduce) return false;
    return true;
}

static void find_back_feeds(PlanGroups *groups, const Tape *record, const Var *root) {
    for (int i = 0; i < record->count; i++) {
        const Var *v = record->vars[i];
        if (!v->op || !may_feed_back(groups, record, v, root)) continue;
        int number = groups->of[v->in[0]->index];
        groups->groups[number].feed = groups->groups[number].last = i;
        groups->of[i] = number;
    }
}

void plan_find_groups(Plan *plan, const Tape *record, const Var *root, Arena *arena) {
    PlanGroups *directions[] = {&plan->forward, &plan->backward};
    for (int i = 0; i < 2; i++) {
        directions[i]->groups = arena_new_array(arena, PlanGroup, record->count);
        directions[i]->of = arena_new_array(arena, int, record->count);
        find_maps(directions[i], record, directions[i] == &plan->forward);
    }
    find_back_feeds(&plan->backward, record, root);
}
