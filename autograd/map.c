#include "autograd/map.h"

#include <assert.h>
#include <string.h>

#include "autograd/map_group.h"
#include "core/kernels/isa.h"
#include "core/kernels/operand.h"
#include "core/parallel.h"

bool map_fits(const Var *v) {
    const Map *map = v->op ? v->op->map : NULL;
    return map && (!map->fits || map->fits(v));
}

bool map_fits_tail(const Var *v) {
    const MapTail *tail = v->op ? v->op->tail : NULL;
    return tail && tail->fits(v, pieces_of(v->in[0]).most_rows);
}

void map_prepare(Tape *t, Var *v) {
    if (v->op->map->prepare) v->op->map->prepare(t, v);
}

size_t map_note_bytes(const Var *v) {
    return map_fits(v) && v->op->map->note_bytes ? v->op->map->note_bytes(v) : 0;
}

int map_index(Var *const *ops, int count, const Var *v) {
    for (int i = 0; i < count; i++)
        if (ops[i] == v) return i;
    return -1;
}

MapFlow map_flow(const Var *v) {
    const Map *map = v->op->map;
    if (!map->backward) return MAP_FLOW_PLAIN;
    return map->flow_of ? map->flow_of(v) : map->flow;
}

/* Whether v, which readers want on the way back, costs less where it lies than made again: it adds
 * two values from outside, and nobody else would keep either. */
static bool is_kept_whole(Var *const *ops, int index) {
    const Var *v = ops[index];
    if (map_flow(v) != MAP_FLOW_PLAIN || v->op->map->input_count < 2) return false;
    for (int j = 0; j < 2; j++) {
        const Var *in = v->in[j];
        bool is_spared = in->op && in->op->flags & OP_SPARES_OUTPUT && in->readers == 1;
        if (!is_spared || map_index(ops, index, in) >= 0) return false;
    }
    return true;
}

void map_needs(Var *const *ops, int count, bool has_masks, bool *is_made,
               bool (*reads)[MAP_INPUTS_MAX]) {
    memset(is_made, 0, sizeof *is_made * (size_t)count);
    for (int i = count - 1; i >= 0; i--) {
        const Var *v = ops[i];
        MapFlow flow = map_flow(v);
        is_made[i] = is_made[i] && !is_kept_whole(ops, i);
        bool takes_values = v->needs_grad && flow != MAP_FLOW_PLAIN;
        if (has_masks && flow == MAP_FLOW_MASK) takes_values = false;
        if (takes_values && !(v->op->flags & OP_SPARES_OUTPUT)) is_made[i] = true;
        for (int j = 0; j < v->op->map->input_count; j++) {
            reads[i][j] = is_made[i] || (takes_values && !(v->op->flags & OP_SPARES_INPUTS));
            int from = map_index(ops, i, v->in[j]);
            if (from >= 0 && reads[i][j]) is_made[from] = true;
        }
    }
}

static bool reads_any(Var *const *ops, int count, bool has_masks) {
    bool is_made[MAP_GROUP_MAX], reads[MAP_GROUP_MAX][MAP_INPUTS_MAX], any = false;
    map_needs(ops, count, has_masks, is_made, reads);
    for (int i = 0; i < count; i++)
        for (int j = 0; j < ops[i]->op->map->input_count; j++) any = any || reads[i][j];
    return any;
}

bool map_takes_masks(Var *const *ops, int count) {
    return reads_any(ops, count, false) && !reads_any(ops, count, true);
}

/* ---- A group at work ---- */

void map_group_init(GroupRun *g, const MapGroup *group, Pieces pieces) {
    assert(group->count > 0 && group->count <= MAP_GROUP_MAX);
    *g = (GroupRun){.count = group->count,
                    .pieces = pieces,
                    .feed = group->feed,
                    .tail = group->tail,
                    .last_from = -1};
    const Var *last = group->tail ? group->tail->in[0] : group->feed ? group->feed->in[0] : NULL;
    if (last) g->last_from = map_index(group->ops, group->count, last);
    assert(!g->feed || g->pieces.are_tiles);
    int64_t line = ARENA_ALIGNMENT / sizeof(float);
    g->block_elements = (pieces_elements(&g->pieces) + line - 1) / line * line;
    for (int i = 0; i < group->count; i++) {
        MapNode *n = &g->nodes[i];
        *n = (MapNode){.v = group->ops[i], .map = group->ops[i]->op->map};
        n->is_plain = map_flow(n->v) == MAP_FLOW_PLAIN;
        for (int j = 0; j < MAP_INPUTS_MAX; j++) {
            n->target[j] = n->from[j] = -1;
            if (j < n->map->input_count) n->from[j] = map_index(group->ops, i, n->v->in[j]);
        }
    }
}

void map_scratch_init(GroupRun *g, Arena *arena) {
    int64_t blocks = (int64_t)parallel_threads() * MAP_LANE_BLOCKS(g->count);
    size_t floats = checked_mul((size_t)blocks, (size_t)g->block_elements);
    g->scratch = arena_alloc(arena, checked_mul(sizeof(float), floats));
}

Lane map_lane(const GroupRun *g) {
    int64_t block = g->block_elements;
    float *base = g->scratch + parallel_self() * MAP_LANE_BLOCKS(g->count) * block;
    return (Lane){base, base + g->count * block, base + 2 * g->count * block,
                  base + (2 + MAP_INPUTS_MAX) * g->count * block};
}

const float *map_outside_block(const GroupRun *g, const Lane *lane, int node, int j,
                               const Piece *piece) {
    float *buffer = lane->input + (node * MAP_INPUTS_MAX + j) * g->block_elements;
    return piece_read(piece, &g->nodes[node].v->in[j]->value, buffer);
}

Piece map_piece_fed(const GroupRun *g, const GemmBlock *block, float **dense) {
    int64_t row = block->row / GEMM_BLOCK, column = block->column / GEMM_BLOCK;
    Piece piece = piece_at(&g->pieces, row * g->pieces.across + column);
    assert(piece.rows == block->rows && piece.columns == block->columns);
    for (int64_t i = 1; block->columns < GEMM_BLOCK && i < block->rows; i++)
        memmove(block->values + i * block->columns, block->values + i * GEMM_BLOCK,
                sizeof *block->values * (size_t)block->columns);
    *dense = block->values;
    return piece;
}

/* Of one piece's mask. */
static int64_t mask_words(const Pieces *pieces) {
    return (pieces_elements(pieces) + MASK_RUN - 1) / MASK_RUN * LANES;
}

size_t map_mask_bytes(const Var *v) {
    Pieces pieces = pieces_of(v);
    size_t words = checked_mul((size_t)pieces.count, (size_t)mask_words(&pieces));
    return checked_mul(sizeof(uint32_t), words);
}

uint32_t *map_mask_block(const GroupRun *g, const Var *v, const Piece *piece) {
    return v->mask + piece->index * mask_words(&g->pieces);
}

/* ---- Forward ---- */

/* What backward makes of ones is the mask. */
static void mask_write(const GroupRun *g, const Lane *lane, const MapNode *n,
                       const MapBlock *block) {
    float *ones = lane->spare, *passed = lane->spare + g->block_elements;
    for (int64_t i = 0; i < block->count; i++) ones[i] = 1;
    MapBlock b = *block;
    b.dy = ones;
    b.dx[0] = passed;
    n->map->backward(n->v, &b);
    isa_active()->mask_pack(passed, block->count, map_mask_block(g, n->v, &block->piece));
}

static void tail_forward(const GroupRun *g, const Lane *lane, const Piece *piece, const float *x) {
    const Tensor *y = &g->tail->value;
    int64_t count = piece_count(piece), ratio = g->tail->op->tail->ratio(g->tail);
    int64_t at = piece->first / ratio;
    float *to = y->dtype == DTYPE_F32 ? (float *)y->data + at : lane->spare;
    g->tail->op->tail->forward(g->tail, piece->first, count, x, to);
    probe_add(&g->probe, to, count / ratio);
    if (y->dtype != DTYPE_F32) operand_write(to, at, count / ratio, y);
}

/* Where f32 values can be written at once, or NULL. */
static float *place_of(const Piece *piece, const Tensor *y) {
    bool is_run = piece_run(piece) == piece_count(piece);
    return y->data && y->dtype == DTYPE_F32 && is_run ? (float *)y->data + piece->first : NULL;
}

/* `fed`: the piece of the feed's value; NULL: nobody feeds. */
static void piece_forward(const GroupRun *g, const Lane *lane, const Piece *piece,
                          const float *fed) {
    const float *out[MAP_GROUP_MAX];
    for (int i = 0; i < g->count; i++) {
        const MapNode *n = &g->nodes[i];
        const Tensor *y = &n->v->value;
        MapBlock b = {.piece = *piece, .count = piece_count(piece), .met_nan = &n->v->met_nan};
        for (int j = 0; j < n->map->input_count; j++) {
            bool is_fed = fed && n->v->in[j] == g->feed;
            b.in[j] = is_fed            ? fed
                      : n->from[j] >= 0 ? out[n->from[j]]
                                        : map_outside_block(g, lane, i, j, piece);
        }
        float *place = place_of(piece, y);
        b.out = place ? place : lane->out + i * g->block_elements;
        out[i] = b.out;
        n->map->forward(n->v, &b);
        if (n->v->mask) mask_write(g, lane, n, &b);
        if (y->data && !place) piece_write(piece, b.out, y);
    }
    /* A value that is probed ends its group, or is its tail's. */
    if (!g->tail) probe_add(&g->probe, out[g->count - 1], piece_count(piece));
    if (g->tail) tail_forward(g, lane, piece, out[g->last_from]);
}

/* A product's block on its way through the maps. Where its value is kept in half precision, they
 * read it rounded, as backward will. */
static void fed_forward(void *context, const GemmBlock *block) {
    const GroupRun *g = context;
    const Tensor *x = &g->feed->value;
    Lane lane = map_lane(g);
    float *fed;
    Piece piece = map_piece_fed(g, block, &fed);
    if (x->data) piece_write(&piece, fed, x);
    if (x->data && x->dtype != DTYPE_F32) piece_read(&piece, x, fed);
    piece_forward(g, &lane, &piece, fed);
}

static void run_piece(const GroupRun *g, int64_t number) {
    Lane lane = map_lane(g);
    Piece piece = piece_at(&g->pieces, number);
    piece_forward(g, &lane, &piece, NULL);
}

static void run_forward(const GroupRun *g, const MapGroup *group) {
    enum { EACH = 8 /* operations an element, or an exponential's worth */ };
    int64_t operations = EACH * group->count * tensor_count(&group->ops[0]->value);
    PARALLEL_FOR(i, g->pieces.count, operations, run_piece(g, i));
}

/* Blocks of a product come as tiles, and masks are kept by piece for backward; else rows, which are
 * not copied, are faster. */
Pieces map_pieces_forward(const MapGroup *group) {
    bool are_kept = group->feed;
    for (int i = 0; i < group->count; i++) are_kept = are_kept || group->ops[i]->mask;
    return are_kept ? pieces_of(group->ops[0]) : pieces_in_rows(group->ops[0]);
}

void map_forward(Tape *t, const MapGroup *group) {
    Var *last = group->tail ? group->tail : group->ops[group->count - 1], *feed = group->feed;
    if (group->tail) group->tail->op->tail->prepare(t, group->tail);
    ArenaMark mark = arena_mark(t->arena);
    GroupRun g;
    map_group_init(&g, group, map_pieces_forward(group));
    map_scratch_init(&g, t->arena);
    g.probe = probe_begin(last->probe, t->arena);
    isa_active(); /* chosen before threads ask */
    if (feed)
        feed->op->feed->forward(t, feed, fed_forward, &g);
    else
        run_forward(&g, group);
    last->is_seen = probe_end(&g.probe);
    arena_rewind(t->arena, mark);
}
