#include "autograd/map.h"

#include <assert.h>
#include <string.h>

#include "autograd/map_group.h"
#include "core/kernels/isa.h"
#include "core/kernels/operand.h"
#include "core/parallel.h"

enum { CHUNKS_MAX = 64 /* partial sums kept: enough work for that many threads */ };

static int target_for(GroupRun *g, Tape *t, Var *v) {
    for (int i = 0; i < g->target_count; i++)
        if (g->targets[i].v == v) return i;
    Target *target = &g->targets[g->target_count];
    *target = (Target){.v = v};
    target->grad = tape_grad_tensor(t, v, &target->beta);
    return g->target_count++;
}

/* Its own gradient needs sums over all elements, for which the group is walked once before. */
static bool waits_for_sums(const MapNode *n) {
    return n->map->reduce && !n->is_plain;
}

static bool has_gradient(const Var *v) {
    return v && v->needs_grad && *v->has_grad;
}

static int64_t sum_count_of(const Var *v) {
    return v->op->map->sum_count ? v->op->map->sum_count(v) : 0;
}

/* What flows where; gradients of outside inputs are claimed. False: no gradient comes here. */
static bool backward_init(GroupRun *g, Tape *t, Var *const *ops) {
    bool is_made[MAP_GROUP_MAX], reads[MAP_GROUP_MAX][MAP_INPUTS_MAX];
    bool is_any_live = false, has_masks = false;
    for (int i = 0; i < g->count; i++) has_masks = has_masks || ops[i]->mask;
    map_needs(ops, g->count, has_masks, is_made, reads);
    if (!has_gradient(g->tail)) g->tail = NULL;
    if (!has_gradient(g->feed)) g->feed = NULL;
    if (g->tail || g->feed) g->nodes[g->last_from].is_live = true;
    for (int i = g->count - 1; i >= 0; i--) {
        MapNode *n = &g->nodes[i];
        n->has_outside = n->v->grad.data && *n->v->has_grad;
        n->is_live = n->v->needs_grad && (n->is_live || n->has_outside);
        n->is_made = is_made[i];
        memcpy(n->reads, reads[i], sizeof n->reads);
        if (!n->is_live) continue;
        is_any_live = true;
        n->sum_at = g->sum_count;
        n->sum_count = sum_count_of(n->v);
        g->sum_count += n->sum_count;
        g->has_reduce = g->has_reduce || waits_for_sums(n);
        for (int j = 0; j < n->map->input_count; j++) {
            Var *in = n->v->in[j];
            if (!in->needs_grad) continue;
            if (n->from[j] >= 0)
                g->nodes[n->from[j]].is_live = true;
            else
                n->target[j] = target_for(g, t, in);
        }
        bool learns = n->map->settle && (!n->map->learns || n->map->learns(n->v));
        for (int j = n->map->input_count; learns && j < n->v->in_count; j++)
            n->grads.grad[j] = tape_grad(t, n->v->in[j], &n->grads.beta[j]);
    }
    return is_any_live;
}

/* One block on its way back. */
typedef struct Pass {
    const GroupRun *g;
    Lane lane;
    Piece piece;
    int64_t count;
    double *sums;                                  /* to add to; NULL: complete already */
    bool writes;                                   /* gradients go to targets */
    const float *dy[MAP_GROUP_MAX];                /* of each node so far; NULL: none yet */
    bool is_begun[MAP_GROUP_MAX * MAP_INPUTS_MAX]; /* of each target, within this block */
} Pass;

static void values_make(const Pass *p, const float *in[MAP_GROUP_MAX][MAP_INPUTS_MAX]) {
    const GroupRun *g = p->g;
    for (int i = 0; i < g->count; i++) {
        const MapNode *n = &g->nodes[i];
        MapBlock b = {.piece = p->piece, .count = p->count, .met_nan = &n->v->met_nan};
        for (int j = 0; j < n->map->input_count; j++) {
            in[i][j] = NULL;
            bool is_made = n->from[j] >= 0 && g->nodes[n->from[j]].is_made;
            if (n->reads[j])
                in[i][j] = is_made ? p->lane.out + n->from[j] * g->block_elements
                                   : map_outside_block(g, &p->lane, i, j, &p->piece);
            b.in[j] = in[i][j];
        }
        b.out = p->lane.out + i * g->block_elements;
        if (n->is_made) n->map->forward(n->v, &b);
    }
}

/* Whether the piece is a block of its own in memory. */
static bool lies_there(const Pass *p, const Tensor *x) {
    return x->dtype == DTYPE_F32 && piece_run(&p->piece) == p->count;
}

/* Where input j's gradient is to be written: straight to its place if it is the first there. */
static float *gradient_place(const Pass *p, const MapNode *n, int j) {
    const GroupRun *g = p->g;
    float *spare = p->lane.spare + j * g->block_elements;
    int from = n->from[j], target = n->target[j];
    if (from >= 0 && g->nodes[from].is_live)
        return p->dy[from] ? spare : p->lane.grad + from * g->block_elements;
    if (target < 0 || !p->writes) return NULL;
    const Target *to = &g->targets[target];
    float *place = lies_there(p, &to->grad) ? (float *)to->grad.data + p->piece.first : NULL;
    return place && !p->is_begun[target] && to->beta == 0.0f ? place : spare;
}

/* grad (+)= dx, at the precision that it is kept in. */
static void target_join(const Pass *p, const Tensor *grad, bool joins, const float *dx) {
    float *spare = p->lane.spare + MAP_INPUTS_MAX * p->g->block_elements;
    if (lies_there(p, grad)) {
        float *sum = (float *)grad->data + p->piece.first;
        if (joins)
            isa_active()->add(sum, dx, p->count, sum);
        else if (dx != sum)
            memcpy(sum, dx, sizeof *sum * (size_t)p->count);
        return;
    }
    if (joins) isa_active()->add(piece_read(&p->piece, grad, spare), dx, p->count, spare);
    piece_write(&p->piece, joins ? spare : dx, grad);
}

/* `dx` is what input j gets: a block that was written as above, or one to be copied. */
static void input_gradient_add(Pass *p, const MapNode *n, int j, const float *dx) {
    const GroupRun *g = p->g;
    int from = n->from[j], target = n->target[j];
    if (from >= 0 && g->nodes[from].is_live) {
        float *own = p->lane.grad + from * g->block_elements;
        if (p->dy[from] == own)
            isa_active()->add(own, dx, p->count, own);
        else if (p->dy[from])
            isa_active()->add(p->dy[from], dx, p->count, own);
        p->dy[from] = p->dy[from] ? own : dx;
    } else if (target >= 0 && p->writes) {
        const Target *to = &g->targets[target];
        target_join(p, &to->grad, p->is_begun[target] || to->beta != 0.0f, dx);
        p->is_begun[target] = true;
    }
}

static void node_backward(Pass *p, int i, const float *const in[MAP_INPUTS_MAX]) {
    const GroupRun *g = p->g;
    const MapNode *n = &g->nodes[i];
    MapBlock b = {.piece = p->piece,
                  .count = p->count,
                  .out = p->lane.out + i * g->block_elements,
                  .dy = p->dy[i],
                  .sums = p->sums ? p->sums + n->sum_at : NULL};
    memcpy(b.in, in, sizeof b.in);
    if (n->map->reduce && p->sums) n->map->reduce(n->v, &b);
    if (n->map->reduce) b.sums = NULL;
    if (!p->writes && waits_for_sums(n)) return; /* its backward needs the sums */
    if (n->is_plain) {
        for (int j = 0; j < n->map->input_count; j++) input_gradient_add(p, n, j, b.dy);
        return;
    }
    bool is_wanted = b.sums && n->sum_count > 0;
    for (int j = 0; j < n->map->input_count; j++) {
        if (n->v->in[j]->needs_grad) b.dx[j] = gradient_place(p, n, j);
        is_wanted = is_wanted || b.dx[j];
    }
    if (!is_wanted || (n->v->mask && !b.dx[0])) return;
    if (n->v->mask)
        isa_active()->mask_apply(map_mask_block(g, n->v, &p->piece), b.dy, b.count, b.dx[0]);
    else
        n->map->backward(n->v, &b);
    for (int j = 0; j < n->map->input_count; j++)
        if (b.dx[j]) input_gradient_add(p, n, j, b.dx[j]);
}

/* What readers outside the group gave: the memory itself, or decoded to the node's own block. */
static const float *outside_gradient(const Pass *p, int i) {
    return piece_read(&p->piece, &p->g->nodes[i].v->grad, p->lane.grad + i * p->g->block_elements);
}

/* What comes through the tail joins what came from elsewhere. */
static void tail_backward(Pass *p) {
    const GroupRun *g = p->g;
    int64_t ratio = g->tail->op->tail->ratio(g->tail), at = p->piece.first / ratio;
    const float *dy =
        operand_part(&g->tail->grad, at, p->count / ratio, p->lane.spare + g->block_elements);
    float *own = p->lane.grad + g->last_from * g->block_elements;
    const float *other = p->dy[g->last_from];
    float *to = other ? p->lane.spare : own;
    g->tail->op->tail->backward(g->tail, p->piece.first, p->count, dy, to);
    if (other) isa_active()->add(other, to, p->count, own);
    p->dy[g->last_from] = own;
}

/* `fed`: the gradient that the feed gives for this piece; NULL: nobody feeds. */
static void piece_backward(const GroupRun *g, const Piece *piece, const float *fed, double *sums,
                           bool writes) {
    Pass p = {.g = g,
              .lane = map_lane(g),
              .piece = *piece,
              .count = piece_count(piece),
              .sums = sums,
              .writes = writes};
    const float *in[MAP_GROUP_MAX][MAP_INPUTS_MAX];
    values_make(&p, in);
    for (int i = 0; i < g->count; i++)
        if (g->nodes[i].has_outside) p.dy[i] = outside_gradient(&p, i);
    if (fed) p.dy[g->last_from] = fed;
    if (g->tail) tail_backward(&p);
    for (int i = g->count - 1; i >= 0; i--)
        if (g->nodes[i].is_live) node_backward(&p, i, in[i]);
}

static void fed_backward(void *context, const GemmBlock *block) {
    const GroupRun *g = context;
    float *fed;
    Piece piece = map_piece_fed(g, block, &fed);
    piece_backward(g, &piece, fed, g->sums + piece.index * g->sum_count, true);
}

static int64_t chunks_of(const Pieces *pieces) {
    return pieces->count < CHUNKS_MAX ? pieces->count : CHUNKS_MAX;
}

int64_t map_scratch(const MapGroup *group, bool is_backward) {
    Pieces pieces = is_backward ? pieces_of(group->ops[0]) : map_pieces_forward(group);
    int64_t blocks = (int64_t)parallel_threads() * MAP_LANE_BLOCKS(group->count);
    int64_t lanes = blocks * arena_padded(pieces_elements(&pieces) * (int64_t)sizeof(float));
    const Var *last = group->tail ? group->tail : group->ops[group->count - 1];
    if (!is_backward) return lanes + probe_scratch(last->probe);
    int64_t sums = 0, parts = group->feed ? pieces.count : chunks_of(&pieces);
    for (int i = 0; i < group->count; i++) sums += sum_count_of(group->ops[i]);
    return lanes + arena_padded((parts * sums + 1) * (int64_t)sizeof(double));
}

static int64_t chunk_begin(const GroupRun *g, int64_t chunk) {
    return chunk * g->pieces.count / g->chunks;
}

static void run_backward(const GroupRun *g, bool sums_are_there, bool writes) {
#pragma omp parallel for schedule(static)
    for (int64_t chunk = 0; chunk < g->chunks; chunk++) {
        double *sums = sums_are_there ? NULL : g->sums + chunk * g->sum_count;
        for (int64_t i = chunk_begin(g, chunk); i < chunk_begin(g, chunk + 1); i++) {
            Piece piece = piece_at(&g->pieces, i);
            piece_backward(g, &piece, NULL, sums, writes);
        }
    }
}

static void sums_add(const GroupRun *g, int64_t to, int64_t from) {
    for (int64_t i = 0; i < g->sum_count; i++)
        g->sums[to * g->sum_count + i] += g->sums[from * g->sum_count + i];
}

/* From sums by piece to sums by chunk, in the order in which run_backward adds them. A chunk's
 * place is that of a piece in a chunk before, or its own first. */
static void sums_by_chunk(const GroupRun *g) {
    for (int64_t chunk = 0; chunk < g->chunks; chunk++) {
        int64_t first = chunk_begin(g, chunk);
        if (first != chunk)
            memcpy(g->sums + chunk * g->sum_count, g->sums + first * g->sum_count,
                   sizeof *g->sums * (size_t)g->sum_count);
        for (int64_t i = first + 1; i < chunk_begin(g, chunk + 1); i++) sums_add(g, chunk, i);
    }
}

static void settle(const GroupRun *g) {
    for (int64_t chunk = 1; chunk < g->chunks; chunk++) sums_add(g, 0, chunk);
    for (int i = 0; i < g->count; i++) {
        const MapNode *n = &g->nodes[i];
        if (n->is_live && n->map->settle) n->map->settle(n->v, g->sums + n->sum_at, &n->grads);
    }
}

/* Where an op's gradient needs sums of gradients (batch norm), the way back is walked twice. */
void map_backward(Tape *t, const MapGroup *group) {
    GroupRun g;
    map_group_init(&g, group, pieces_of(group->ops[0]));
    if (!backward_init(&g, t, group->ops)) return; /* gradients that the tape allocates stay */
    assert(!g.feed || !g.has_reduce);
    g.chunks = chunks_of(&g.pieces);
    ArenaMark mark = arena_mark(t->arena);
    map_scratch_init(&g, t->arena);
    g.sums =
        arena_new_array(t->arena, double, (g.feed ? g.pieces.count : g.chunks) * g.sum_count + 1);
    isa_active(); /* chosen before threads ask */
    if (g.feed) {
        g.feed->op->feed->backward(t, g.feed, fed_backward, &g);
        sums_by_chunk(&g);
    } else {
        run_backward(&g, false, !g.has_reduce);
    }
    settle(&g);
    if (g.has_reduce) run_backward(&g, true, true);
    arena_rewind(t->arena, mark);
}
