#include "autograd/map.h"

#include <assert.h>
#include <string.h>

#include "core/kernels/isa.h"
#include "core/kernels/operand.h"
#include "core/parallel.h"

enum {
    /* Of a value that fits the first cache with a few others; two rows of an image may have twice
     * as many. */
    BLOCK_ELEMENTS = 2048,
    CHUNKS_MAX = 64, /* partial sums kept: enough work for that many threads */
};

bool map_fits(const Var *v) {
    const Map *map = v->op ? v->op->map : NULL;
    return map && (!map->fits || map->fits(v));
}

static int64_t rows_per_block(Shape shape);

bool map_fits_tail(const Var *v) {
    const MapTail *tail = v->op ? v->op->tail : NULL;
    return tail && tail->fits(v, rows_per_block(v->in[0]->value.shape));
}

void map_prepare(Tape *t, Var *v) {
    if (v->op->map->prepare) v->op->map->prepare(t, v);
}

static int index_in(Var *const *ops, int count, const Var *v) {
    for (int i = 0; i < count; i++)
        if (ops[i] == v) return i;
    return -1;
}

MapFlow map_flow(const Var *v) {
    const Map *map = v->op->map;
    if (!map->backward) return MAP_FLOW_PLAIN;
    return map->flow_of ? map->flow_of(v) : map->flow;
}

void map_needs(Var *const *ops, int count, bool has_masks, bool *is_made,
               bool (*reads)[MAP_INPUTS_MAX]) {
    memset(is_made, 0, sizeof *is_made * (size_t)count);
    for (int i = count - 1; i >= 0; i--) {
        const Var *v = ops[i];
        MapFlow flow = map_flow(v);
        bool takes_values = v->needs_grad && flow != MAP_FLOW_PLAIN;
        if (has_masks && flow == MAP_FLOW_MASK) takes_values = false;
        if (takes_values && !(v->op->flags & OP_SPARES_OUTPUT)) is_made[i] = true;
        for (int j = 0; j < v->op->map->input_count; j++) {
            reads[i][j] = is_made[i] || (takes_values && !(v->op->flags & OP_SPARES_INPUTS));
            int from = index_in(ops, i, v->in[j]);
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

typedef struct Node {
    Var *v;
    const Map *map;
    int from[MAP_INPUTS_MAX];   /* the node whose output is read, or -1: from outside */
    int target[MAP_INPUTS_MAX]; /* whose gradient from outside is written, or -1 */
    bool reads[MAP_INPUTS_MAX]; /* backward: the input's values are needed */
    bool is_made;               /* backward: the output's values are made again */
    bool is_live;               /* backward: a gradient comes here */
    bool has_outside;           /* part of it from v->grad */
    bool is_plain;              /* MAP_FLOW_PLAIN */
    int64_t sum_at, sum_count;
    MapGrads grads; /* of parameters */
} Node;

typedef struct Target {
    Var *v;
    Tensor grad;
    float beta;
} Target;

typedef struct Group {
    Node nodes[MAP_GROUP_MAX];
    Target targets[MAP_GROUP_MAX * MAP_INPUTS_MAX];
    int count, target_count;
    int64_t rows, channels, block_rows, blocks, chunks, sum_count;
    bool has_reduce; /* of an op that waits for its sums */
    int64_t block_elements;
    Var *tail;      /* or NULL */
    int tail_from;  /* the node that it reads */
    float *scratch; /* per thread: see lane_of */
} Group;

/* Blocks of one thread: of every node its output, its gradient and its decoded inputs. */
typedef struct Lane {
    float *out, *grad, *input, *spare; /* [node], [node], [node][2], [SPARES] blocks */
} Lane;

enum { BLOCKS_PER_NODE = 2 + MAP_INPUTS_MAX, SPARES = MAP_INPUTS_MAX + 1 };

static Lane lane_of(const Group *g, int64_t thread) {
    int64_t block = g->block_elements;
    float *base = g->scratch + thread * (g->count * BLOCKS_PER_NODE + SPARES) * block;
    return (Lane){base, base + g->count * block, base + 2 * g->count * block,
                  base + BLOCKS_PER_NODE * g->count * block};
}

/* Of images, where that makes blocks of a good size, an even number of rows that divides the
 * height, so that the windows of a pooling by two do not cross blocks; else 0. */
static int64_t image_rows_per_block(Shape shape) {
    if (shape.rank != 4 || shape.dim[1] % 2) return 0;
    int64_t row = shape.dim[2] * shape.dim[3], best = 0;
    for (int64_t rows = 2; rows <= shape.dim[1] && rows * row <= BLOCK_ELEMENTS; rows += 2)
        if (shape.dim[1] % rows == 0) best = rows;
    if (!best && row <= BLOCK_ELEMENTS) best = 2;
    return best * row >= BLOCK_ELEMENTS / 2 ? best : 0;
}

static int64_t rows_per_block(Shape shape) {
    int64_t of_image = image_rows_per_block(shape), channels = shape_last(shape);
    if (of_image) return of_image * shape.dim[2];
    return channels < BLOCK_ELEMENTS ? BLOCK_ELEMENTS / channels : 1;
}

int64_t map_block_elements(Shape shape) {
    return rows_per_block(shape) * shape_last(shape);
}

static int64_t block_count(Shape shape) {
    int64_t rows = shape_rows(shape), per_block = rows_per_block(shape);
    return (rows + per_block - 1) / per_block;
}

/* Of one block's mask. */
static int64_t mask_words(int64_t block_elements) {
    return (block_elements + MASK_RUN - 1) / MASK_RUN * LANES;
}

size_t map_mask_bytes(Shape shape) {
    int64_t words = mask_words(map_block_elements(shape));
    return checked_mul(sizeof(uint32_t), checked_mul((size_t)block_count(shape), (size_t)words));
}

static void group_init(Group *g, Var *const *ops, int count, Var *tail) {
    assert(count > 0 && count <= MAP_GROUP_MAX);
    Shape shape = ops[0]->value.shape;
    *g = (Group){.count = count, .rows = shape_rows(shape), .channels = shape_last(shape)};
    g->tail = tail;
    g->tail_from = tail ? index_in(ops, count, tail->in[0]) : -1;
    g->block_rows = rows_per_block(shape);
    g->blocks = block_count(shape);
    g->chunks = g->blocks < CHUNKS_MAX ? g->blocks : CHUNKS_MAX;
    int64_t elements = g->block_rows * g->channels, line = ARENA_ALIGNMENT / sizeof(float);
    g->block_elements = (elements + line - 1) / line * line;
    for (int i = 0; i < count; i++) {
        Node *n = &g->nodes[i];
        *n = (Node){.v = ops[i], .map = ops[i]->op->map};
        n->is_plain = map_flow(n->v) == MAP_FLOW_PLAIN;
        for (int j = 0; j < MAP_INPUTS_MAX; j++) {
            n->target[j] = n->from[j] = -1;
            if (j < n->map->input_count) n->from[j] = index_in(ops, i, ops[i]->in[j]);
        }
    }
}

static void scratch_init(Group *g, Arena *arena) {
    int64_t blocks = (int64_t)parallel_threads() * (g->count * BLOCKS_PER_NODE + SPARES);
    size_t floats = checked_mul((size_t)blocks, (size_t)g->block_elements);
    g->scratch = arena_alloc(arena, checked_mul(sizeof(float), floats));
}

static void span_of(const Group *g, int64_t block, int64_t *first, int64_t *count) {
    int64_t row = block * g->block_rows, rows = g->rows - row;
    *first = row * g->channels;
    *count = (rows < g->block_rows ? rows : g->block_rows) * g->channels;
}

/* The block of an input from outside: the memory itself, or decoded. */
static const float *outside_block(const Group *g, const Lane *lane, int node, int j, int64_t first,
                                  int64_t count) {
    const Node *n = &g->nodes[node];
    const Tensor *x = &n->v->in[j]->value;
    if (x->dtype == DTYPE_F32) return (const float *)x->data + first;
    float *to = lane->input + (node * MAP_INPUTS_MAX + j) * g->block_elements;
    operand_read(x, first, count, to);
    return to;
}

/* Of the block that begins at element `first`. */
static uint32_t *mask_block(const Group *g, const Var *v, int64_t first) {
    int64_t elements = g->block_rows * g->channels;
    return v->mask + first / elements * mask_words(elements);
}

/* What backward makes of ones is the mask. */
static void mask_write(const Group *g, const Lane *lane, const Node *n, const MapBlock *block) {
    float *ones = lane->spare, *passed = lane->spare + g->block_elements;
    for (int64_t i = 0; i < block->count; i++) ones[i] = 1;
    MapBlock b = *block;
    b.dy = ones;
    b.dx[0] = passed;
    n->map->backward(n->v, &b);
    isa_active()->mask_pack(passed, block->count, mask_block(g, n->v, block->first));
}

static void tail_forward(const Group *g, const Lane *lane, int64_t first, int64_t count,
                         const float *x) {
    const Tensor *y = &g->tail->value;
    int64_t ratio = g->tail->op->tail->ratio(g->tail), at = first / ratio;
    float *to = y->dtype == DTYPE_F32 ? (float *)y->data + at : lane->spare;
    g->tail->op->tail->forward(g->tail, first, count, x, to);
    if (y->dtype != DTYPE_F32) operand_write(to, at, count / ratio, y);
}

static void forward_block(const Group *g, const Lane *lane, int64_t first, int64_t count) {
    float *out[MAP_GROUP_MAX];
    for (int i = 0; i < g->count; i++) {
        const Node *n = &g->nodes[i];
        const Tensor *y = &n->v->value;
        MapBlock b = {.first = first, .count = count, .channels = g->channels};
        for (int j = 0; j < n->map->input_count; j++)
            b.in[j] =
                n->from[j] >= 0 ? out[n->from[j]] : outside_block(g, lane, i, j, first, count);
        bool is_in_place = y->data && y->dtype == DTYPE_F32;
        out[i] = is_in_place ? (float *)y->data + first : lane->out + i * g->block_elements;
        b.out = out[i];
        n->map->forward(n->v, &b);
        if (n->v->mask) mask_write(g, lane, n, &b);
        if (y->data && !is_in_place) operand_write(b.out, first, count, y);
    }
    if (g->tail) tail_forward(g, lane, first, count, out[g->tail_from]);
}

/* A value that is looked at ends its group. [thread][2], zeros; NULL: nobody looks. */
static float *extremes_new(Tape *t, const Var *last) {
    if (!last->wants_extremes) return NULL;
    assert(last->value.data && last->value.dtype == DTYPE_F32);
    return arena_zalloc(t->arena, sizeof(float) * 2 * (size_t)parallel_threads());
}

static void extremes_add(const Var *last, int64_t first, int64_t count, float *seen) {
    float low, high;
    isa_active()->extremes(tensor_f32(&last->value) + first, count, &low, &high);
    if (low < seen[0]) seen[0] = low;
    if (high > seen[1]) seen[1] = high;
}

static void extremes_finish(const float *seen, float *extremes) {
    extremes[0] = extremes[1] = 0;
    for (int i = 0; i < parallel_threads(); i++, seen += 2) {
        if (seen[0] < extremes[0]) extremes[0] = seen[0];
        if (seen[1] > extremes[1]) extremes[1] = seen[1];
    }
}

void map_forward(Tape *t, Var *const *ops, int count, Var *tail) {
    Var *last = ops[count - 1];
    if (tail) tail->op->tail->prepare(t, tail);
    if (last->wants_extremes) last->extremes = tape_alloc(t, 2 * sizeof(float));
    ArenaMark mark = arena_mark(t->arena);
    Group g;
    group_init(&g, ops, count, tail);
    scratch_init(&g, t->arena);
    float *seen = extremes_new(t, last);
    isa_active(); /* chosen before threads ask */
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < g.blocks; block++) {
        Lane lane = lane_of(&g, parallel_self());
        int64_t first, some;
        span_of(&g, block, &first, &some);
        forward_block(&g, &lane, first, some);
        if (seen) extremes_add(last, first, some, seen + 2 * parallel_self());
    }
    if (seen) extremes_finish(seen, last->extremes);
    arena_rewind(t->arena, mark);
}

/* ---- Backward ---- */

static int target_for(Group *g, Tape *t, Var *v) {
    for (int i = 0; i < g->target_count; i++)
        if (g->targets[i].v == v) return i;
    Target *target = &g->targets[g->target_count];
    *target = (Target){.v = v};
    target->grad = tape_grad_tensor(t, v, &target->beta);
    return g->target_count++;
}

/* What flows where; gradients of outside inputs are claimed. False: no gradient comes here. */
static bool backward_init(Group *g, Tape *t, Var *const *ops) {
    bool is_made[MAP_GROUP_MAX], reads[MAP_GROUP_MAX][MAP_INPUTS_MAX];
    bool is_any_live = false, has_masks = false;
    for (int i = 0; i < g->count; i++) has_masks = has_masks || ops[i]->mask;
    map_needs(ops, g->count, has_masks, is_made, reads);
    if (g->tail && g->tail->needs_grad && *g->tail->has_grad)
        g->nodes[g->tail_from].is_live = true;
    else
        g->tail = NULL;
    for (int i = g->count - 1; i >= 0; i--) {
        Node *n = &g->nodes[i];
        n->has_outside = n->v->grad && *n->v->has_grad;
        n->is_live = n->v->needs_grad && (n->is_live || n->has_outside);
        n->is_made = is_made[i];
        memcpy(n->reads, reads[i], sizeof n->reads);
        if (!n->is_live) continue;
        is_any_live = true;
        n->sum_at = g->sum_count;
        n->sum_count = n->map->sum_count ? n->map->sum_count(n->v) : 0;
        g->sum_count += n->sum_count;
        g->has_reduce = g->has_reduce || (n->map->reduce && !n->is_plain);
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
    const Group *g;
    Lane lane;
    int64_t first, count;
    double *sums;                                  /* of the chunk; NULL: complete already */
    bool writes;                                   /* gradients go to targets */
    const float *dy[MAP_GROUP_MAX];                /* of each node so far; NULL: none yet */
    bool is_begun[MAP_GROUP_MAX * MAP_INPUTS_MAX]; /* of each target, within this block */
} Pass;

static void values_make(const Pass *p, const float *in[MAP_GROUP_MAX][MAP_INPUTS_MAX]) {
    const Group *g = p->g;
    for (int i = 0; i < g->count; i++) {
        const Node *n = &g->nodes[i];
        MapBlock b = {.first = p->first, .count = p->count, .channels = g->channels};
        for (int j = 0; j < n->map->input_count; j++) {
            in[i][j] = NULL;
            if (n->reads[j])
                in[i][j] = n->from[j] >= 0 ? p->lane.out + n->from[j] * g->block_elements
                                           : outside_block(g, &p->lane, i, j, p->first, p->count);
            b.in[j] = in[i][j];
        }
        b.out = p->lane.out + i * g->block_elements;
        if (n->is_made) n->map->forward(n->v, &b);
    }
}

/* Where input j's gradient is to be written: straight to its place if it is the first there. */
static float *gradient_place(const Pass *p, const Node *n, int j) {
    const Group *g = p->g;
    float *spare = p->lane.spare + j * g->block_elements;
    int from = n->from[j], target = n->target[j];
    if (from >= 0 && g->nodes[from].is_live)
        return p->dy[from] ? spare : p->lane.grad + from * g->block_elements;
    if (target < 0 || !p->writes) return NULL;
    const Target *to = &g->targets[target];
    bool is_direct = !p->is_begun[target] && to->beta == 0.0f && to->grad.dtype == DTYPE_F32;
    return is_direct ? (float *)to->grad.data + p->first : spare;
}

/* grad (+)= dx, at the precision that it is kept in. */
static void target_join(const Pass *p, const Tensor *grad, bool joins, const float *dx) {
    float *sum = p->lane.spare + MAP_INPUTS_MAX * p->g->block_elements;
    if (grad->dtype == DTYPE_F32) sum = (float *)grad->data + p->first;
    if (joins && grad->dtype != DTYPE_F32) operand_read(grad, p->first, p->count, sum);
    if (joins) isa_active()->add(sum, dx, p->count, sum);
    if (!joins && grad->dtype == DTYPE_F32 && dx != sum)
        memcpy(sum, dx, sizeof *sum * (size_t)p->count);
    if (grad->dtype != DTYPE_F32) operand_write(joins ? sum : dx, p->first, p->count, grad);
}

/* `dx` is what input j gets: a block that was written as above, or one to be copied. */
static void input_gradient_add(Pass *p, const Node *n, int j, const float *dx) {
    const Group *g = p->g;
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
    const Group *g = p->g;
    const Node *n = &g->nodes[i];
    MapBlock b = {.first = p->first,
                  .count = p->count,
                  .channels = g->channels,
                  .out = p->lane.out + i * g->block_elements,
                  .dy = p->dy[i],
                  .sums = p->sums ? p->sums + n->sum_at : NULL};
    memcpy(b.in, in, sizeof b.in);
    if (n->map->reduce && p->sums) n->map->reduce(n->v, &b);
    if (n->map->reduce) b.sums = NULL;
    if (n->map->reduce && !n->is_plain && !p->writes) return; /* its backward needs the sums */
    if (n->is_plain) {
        for (int j = 0; j < n->map->input_count; j++) input_gradient_add(p, n, j, b.dy);
        return;
    }
    bool is_wanted = b.sums != NULL;
    for (int j = 0; j < n->map->input_count; j++) {
        if (n->v->in[j]->needs_grad) b.dx[j] = gradient_place(p, n, j);
        is_wanted = is_wanted || b.dx[j];
    }
    if (!is_wanted || (n->v->mask && !b.dx[0])) return;
    if (n->v->mask)
        isa_active()->mask_apply(mask_block(g, n->v, p->first), b.dy, b.count, b.dx[0]);
    else
        n->map->backward(n->v, &b);
    for (int j = 0; j < n->map->input_count; j++)
        if (b.dx[j]) input_gradient_add(p, n, j, b.dx[j]);
}

/* What readers outside the group gave: the memory itself, or decoded to the node's own block. */
static const float *outside_gradient(const Pass *p, int i) {
    const Tensor grad = var_grad(p->g->nodes[i].v);
    if (grad.dtype == DTYPE_F32) return (const float *)grad.data + p->first;
    float *own = p->lane.grad + i * p->g->block_elements;
    operand_read(&grad, p->first, p->count, own);
    return own;
}

/* What comes through the tail joins what came from elsewhere. */
static void tail_backward(Pass *p) {
    const Group *g = p->g;
    const Tensor grad = var_grad(g->tail);
    int64_t ratio = g->tail->op->tail->ratio(g->tail), at = p->first / ratio;
    const float *dy = operand_part(&grad, at, p->count / ratio, p->lane.spare + g->block_elements);
    float *own = p->lane.grad + g->tail_from * g->block_elements;
    const float *other = p->dy[g->tail_from];
    float *to = other ? p->lane.spare : own;
    g->tail->op->tail->backward(g->tail, p->first, p->count, dy, to);
    if (other) isa_active()->add(other, to, p->count, own);
    p->dy[g->tail_from] = own;
}

static void backward_block(const Group *g, int64_t block, double *sums, bool writes) {
    Pass p = {.g = g, .lane = lane_of(g, parallel_self()), .sums = sums, .writes = writes};
    const float *in[MAP_GROUP_MAX][MAP_INPUTS_MAX];
    span_of(g, block, &p.first, &p.count);
    values_make(&p, in);
    for (int i = 0; i < g->count; i++)
        if (g->nodes[i].has_outside) p.dy[i] = outside_gradient(&p, i);
    if (g->tail) tail_backward(&p);
    for (int i = g->count - 1; i >= 0; i--)
        if (g->nodes[i].is_live) node_backward(&p, i, in[i]);
}

static void backward_pass(const Group *g, double *sums, bool writes) {
#pragma omp parallel for schedule(static)
    for (int64_t chunk = 0; chunk < g->chunks; chunk++) {
        int64_t end = (chunk + 1) * g->blocks / g->chunks;
        for (int64_t block = chunk * g->blocks / g->chunks; block < end; block++)
            backward_block(g, block, sums ? sums + chunk * g->sum_count : NULL, writes);
    }
}

static void settle(const Group *g, double *sums) {
    for (int64_t chunk = 1; chunk < g->chunks; chunk++)
        for (int64_t i = 0; i < g->sum_count; i++) sums[i] += sums[chunk * g->sum_count + i];
    for (int i = 0; i < g->count; i++) {
        const Node *n = &g->nodes[i];
        if (n->is_live && n->map->settle) n->map->settle(n->v, sums + n->sum_at, &n->grads);
    }
}

/* Where an op's gradient needs sums of gradients (batch norm), the way back is walked twice. */
void map_backward(Tape *t, Var *const *ops, int count, Var *tail) {
    Group g;
    group_init(&g, ops, count, tail);
    if (!backward_init(&g, t, ops)) return; /* gradients that the tape allocates stay */
    ArenaMark mark = arena_mark(t->arena);
    scratch_init(&g, t->arena);
    double *sums = arena_new_array(t->arena, double, g.chunks *g.sum_count + 1);
    backward_pass(&g, sums, !g.has_reduce);
    settle(&g, sums);
    if (g.has_reduce) backward_pass(&g, NULL, true);
    arena_rewind(t->arena, mark);
}
