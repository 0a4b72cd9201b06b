#include "qat/allocation.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "core/arena.h"

/* Layers 0 .. k - 1 and what was chosen for each. */
typedef struct Prefix {
    double cost;
    int64_t bytes;
    const struct Prefix *before; /* without the last of them; NULL: no layer at all */
    int choice;                  /* of the last */
} Prefix;

typedef struct Front {
    Prefix *items;
    int count;
} Front;

/* A step along a layer's convex hull: so many bytes more buy so much less cost. */
typedef struct Step {
    int64_t bytes;
    double gain;       /* above 0 */
    int layer, number; /* number: along the hull, from 0 */
} Step;

/* The steps of layers `first` and up, summed from the best on. */
typedef struct Bound {
    const int64_t *bytes; /* [count + 1] */
    const double *gain;   /* [count + 1] */
    int count;
    int64_t least_bytes; /* of the smallest choices, and what those cost */
    double least_cost;
} Bound;

typedef struct Solver {
    const AllocationProblem *p;
    Arena *arena;
    Step *steps; /* of all layers, the best gain per byte first */
    int step_count;
    double known; /* the cost of an allocation that fits, and what rounding may add */
} Solver;

static double cost_of(const AllocationProblem *p, int layer, int choice) {
    return p->cost[layer * p->choices + choice];
}

static int64_t bytes_of(const AllocationProblem *p, int layer, int choice) {
    return p->bytes[layer * p->choices + choice];
}

/* ---- The linear relaxation ---- */

/* The fewest bytes, and of those the least cost. */
static int smallest_choice(const AllocationProblem *p, int layer) {
    int best = 0;
    for (int j = 1; j < p->choices; j++) {
        int64_t more = bytes_of(p, layer, j) - bytes_of(p, layer, best);
        if (more < 0 || (more == 0 && cost_of(p, layer, j) < cost_of(p, layer, best))) best = j;
    }
    return best;
}

int64_t allocation_smallest(const AllocationProblem *p) {
    int64_t bytes = 0;
    for (int i = 0; i < p->layers; i++) bytes += bytes_of(p, i, smallest_choice(p, i));
    return bytes;
}

/* The next corner of the hull: the steepest way down from `from`, the longest of those; -1: none.
 */
static int next_corner(const AllocationProblem *p, int layer, int from) {
    int best = -1;
    double best_slope = 0;
    for (int j = 0; j < p->choices; j++) {
        int64_t more = bytes_of(p, layer, j) - bytes_of(p, layer, from);
        double gain = cost_of(p, layer, from) - cost_of(p, layer, j);
        if (more <= 0 || !(gain > 0)) continue;
        double slope = gain / (double)more;
        bool is_longer =
            best >= 0 && slope == best_slope && bytes_of(p, layer, j) > bytes_of(p, layer, best);
        if (slope > best_slope || is_longer) best = j;
        if (best == j) best_slope = slope;
    }
    return best;
}

static int compare_steps(const void *left, const void *right) {
    const Step *a = left, *b = right;
    double slope = a->gain / (double)a->bytes, other = b->gain / (double)b->bytes;
    if (slope != other) return slope > other ? -1 : 1;
    return (a->layer > b->layer) - (a->layer < b->layer);
}

static void find_steps(Solver *s) {
    const AllocationProblem *p = s->p;
    s->steps = arena_new_array(s->arena, Step, p->layers * p->choices);
    for (int i = 0; i < p->layers; i++) {
        int number = 0;
        for (int at = smallest_choice(p, i), next; (next = next_corner(p, i, at)) >= 0; at = next)
            s->steps[s->step_count++] = (Step){.bytes = bytes_of(p, i, next) - bytes_of(p, i, at),
                                               .gain = cost_of(p, i, at) - cost_of(p, i, next),
                                               .layer = i,
                                               .number = number++};
    }
    qsort(s->steps, (size_t)s->step_count, sizeof *s->steps, compare_steps);
}

static Bound bound_new(const Solver *s, int first) {
    const AllocationProblem *p = s->p;
    Bound b = {0};
    int64_t *bytes = arena_new_array(s->arena, int64_t, s->step_count + 1);
    double *gain = arena_new_array(s->arena, double, s->step_count + 1);
    for (int i = 0; i < s->step_count; i++) {
        if (s->steps[i].layer < first) continue;
        bytes[b.count + 1] = bytes[b.count] + s->steps[i].bytes;
        gain[b.count + 1] = gain[b.count] + s->steps[i].gain;
        b.count++;
    }
    for (int i = first; i < p->layers; i++) {
        int choice = smallest_choice(p, i);
        b.least_bytes += bytes_of(p, i, choice);
        b.least_cost += cost_of(p, i, choice);
    }
    b.bytes = bytes;
    b.gain = gain;
    return b;
}

/* What its layers cost at least within `bytes`, where a step may be taken in part. */
static double bound_at(const Bound *b, int64_t bytes) {
    int64_t left = bytes - b->least_bytes;
    int low = 0, high = b->count; /* whole steps */
    while (low < high) {
        int middle = low + (high - low + 1) / 2;
        if (b->bytes[middle] <= left)
            low = middle;
        else
            high = middle - 1;
    }
    double gain = b->gain[low];
    if (low < b->count)
        gain += (b->gain[low + 1] - gain) *
                ((double)(left - b->bytes[low]) / (double)(b->bytes[low + 1] - b->bytes[low]));
    return b->least_cost - gain;
}

/* An allocation that fits, of whole steps, each the next of its layer: nothing dearer is wanted. */
static void find_known(Solver *s) {
    const AllocationProblem *p = s->p;
    const Bound all = bound_new(s, 0);
    int *taken = arena_new_array(s->arena, int, p->layers);
    int64_t left = p->budget - all.least_bytes;
    double cost = all.least_cost, size = 0;
    for (int i = 0; i < s->step_count; i++) {
        const Step *step = &s->steps[i];
        if (step->bytes > left || step->number != taken[step->layer]) continue;
        taken[step->layer]++;
        left -= step->bytes;
        cost -= step->gain;
    }
    for (int i = 0; i < p->layers * p->choices; i++) size += fabs(p->cost[i]);
    s->known = cost + 1e-12 * size; /* sums in other orders are no further apart */
}

/* ---- Prefixes ---- */

/* Of two of as many layers: the order of their choices, earlier layers first. */
static int compare_choices(const Prefix *a, const Prefix *b) {
    if (a == b) return 0;
    int before = compare_choices(a->before, b->before);
    return before ? before : (a->choice > b->choice) - (a->choice < b->choice);
}

static int compare_prefixes(const void *left, const void *right) {
    const Prefix *a = left, *b = right;
    if (a->bytes != b->bytes) return a->bytes < b->bytes ? -1 : 1;
    if (a->cost != b->cost) return a->cost < b->cost ? -1 : 1;
    return compare_choices(a, b);
}

/* Sorted by bytes, only those stay that cost less than all before them. */
static void keep_best(Front *front) {
    int kept = 0;
    qsort(front->items, (size_t)front->count, sizeof *front->items, compare_prefixes);
    for (int i = 0; i < front->count; i++)
        if (!kept || front->items[i].cost < front->items[kept - 1].cost)
            front->items[kept++] = front->items[i];
    front->count = kept;
}

/* Every prefix with every choice of layer `layer`, but for those that cannot become the best. */
static Front extend(const Solver *s, const Front *from, int layer) {
    const AllocationProblem *p = s->p;
    const Bound rest = bound_new(s, layer + 1);
    Front front = {.items = arena_new_array(s->arena, Prefix, (int64_t)from->count * p->choices)};
    for (int i = 0; i < from->count; i++)
        for (int j = 0; j < p->choices; j++) {
            const Prefix *before = &from->items[i];
            Prefix next = {.cost = before->cost + cost_of(p, layer, j),
                           .bytes = before->bytes + bytes_of(p, layer, j),
                           .before = before,
                           .choice = j};
            int64_t left = p->budget - next.bytes;
            if (left < rest.least_bytes || next.cost + bound_at(&rest, left) > s->known) continue;
            front.items[front.count++] = next;
        }
    keep_best(&front);
    return front;
}

bool allocation_solve(const AllocationProblem *p, int *chosen) {
    assert(p->layers >= 0 && p->choices > 0);
    if (allocation_smallest(p) > p->budget) return false;
    Solver s = {.p = p, .arena = arena_new("allocation")};
    Prefix none = {0};
    Front front = {&none, 1};
    find_steps(&s);
    find_known(&s);
    for (int i = 0; i < p->layers; i++) front = extend(&s, &front, i);
    assert(front.count);
    const Prefix *best = &front.items[front.count - 1]; /* the least cost comes last */
    for (int i = p->layers - 1; i >= 0; i--, best = best->before) chosen[i] = best->choice;
    arena_free(s.arena);
    return true;
}
