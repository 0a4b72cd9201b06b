/* Causal attention in tiles (Dao 2023, FlashAttention-2, by strips of 32 queries or keys):
 *     s = scale q k^T        p = softmax(s) over the keys that a query may see        o = p v
 * No matrix of length x length is kept: forward saves the logarithm l of each row's sum of
 * exponentials, and backward makes p = exp(s - l) again,
 *     dv = p^T do    dp = do v^T    ds = p (dp - rowsum(do o)) scale    dq = ds k    dk = ds^T q
 * once by strips of queries for dq, once by strips of keys for dk and dv. A strip is at most 32 x
 * length, a thread's own. Every number is one chain in an order that shapes give.
 *
 * Where keys and values are kept (autograd/kv_cache.h), the queries are those of the last
 * positions, and backward is not made.
 *
 * Products are the kernels' (core/kernels/isa.h): of rows as they lie, and panels of 32 columns,
 * which are packed for a head at a time, or kept. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "autograd/ops.h"
#include "autograd/ops/row_sum.h"
#include "core/counts.h"
#include "core/kernels/isa.h"
#include "core/parallel.h"

typedef struct Sizes {
    int64_t batch, length, heads, kv_heads, dim, group;
    int64_t queries, skip;      /* the last so many positions; those before them */
    int64_t q_stride, k_stride; /* floats from a position to the next */
    int64_t tiles, query_tiles; /* of PANEL positions; those that hold queries */
    int64_t padded;             /* their positions */
    int64_t dim_panels;
    int64_t room; /* positions of a head's panels */
} Sizes;

static Sizes sizes_of(const Var *v) {
    const AttentionAttr *attr = v->attr;
    Shape q = v->in[0]->value.shape, k = v->in[1]->value.shape;
    Sizes s = {.batch = q.dim[0], .length = k.dim[1], .heads = attr->heads};
    if (attr->kept) s.length = attr->kept->length;
    s.queries = q.dim[1];
    s.skip = s.length - s.queries;
    s.kv_heads = attr->kv_heads;
    s.group = s.heads / s.kv_heads;
    s.q_stride = q.dim[2];
    s.k_stride = k.dim[2];
    s.dim = s.q_stride / s.heads;
    s.tiles = count_pieces(s.length, PANEL);
    s.query_tiles = s.tiles - s.skip / PANEL;
    s.padded = s.tiles * PANEL;
    s.dim_panels = count_pieces(s.dim, PANEL);
    s.room = attr->kept ? attr->kept->room : s.padded;
    return s;
}

static bool infer(Var *v, Error *err) {
    const AttentionAttr *attr = v->attr;
    char a[SHAPE_TEXT_BYTES], b[SHAPE_TEXT_BYTES];
    Shape q = v->in[0]->value.shape;
    int64_t heads = attr->heads, kv_heads = attr->kv_heads;
    bool divides = heads > 0 && kv_heads > 0 && heads % kv_heads == 0;
    if (!divides || q.rank != 3 || q.dim[2] % heads)
        return FAIL(err, ERROR_INPUT, "%ld heads, %ld of keys, do not fit queries %s", (long)heads,
                    (long)kv_heads, shape_text(q, a));
    Shape wanted = SHAPE(q.dim[0], q.dim[1], q.dim[2] / heads * kv_heads);
    for (int i = 1; i < 3; i++)
        if (!shape_equal(v->in[i]->value.shape, wanted))
            return FAIL(err, ERROR_INPUT, "%s %s do not fit queries %s: they must be %s",
                        i == 1 ? "keys" : "values", shape_text(v->in[i]->value.shape, a),
                        shape_text(q, b), shape_text(wanted, (char[SHAPE_TEXT_BYTES]){0}));
    assert(attr->scale > 0);
    assert(!attr->kept || (q.dim[0] == 1 && attr->kept->length >= q.dim[1] && !v->in[3]));
    if (v->in[3] && !shape_equal(v->in[3]->value.shape, SHAPE(q.dim[0], q.dim[1])))
        return FAIL(err, ERROR_INPUT, "starts %s do not fit queries %s: one a position",
                    shape_text(v->in[3]->value.shape, a), shape_text(q, b));
    v->value.shape = q;
    return true;
}

/* ---- Panels of one head: turned as keys, plain as values (autograd/attention_panels.h) ---- */

static void tile_pack(const Sizes *s, const float *x, int64_t stride, int64_t tile, float *panels) {
    int64_t rows = count_least(PANEL, s->length - tile * PANEL);
    attention_put_keys(x, stride, rows, s->dim, tile, panels);
}

static void pack_turned(const Sizes *s, const float *x, int64_t stride, float *panels) {
    PARALLEL_FOR(tile, s->tiles, s->length * s->dim, tile_pack(s, x, stride, tile, panels));
}

static void pack_plain(const Sizes *s, const float *x, int64_t stride, float *panels) {
    PARALLEL_FOR(i, s->length, s->length * s->dim,
                 attention_put_value(x + i * stride, s->dim, s->room, i, panels));
}

static int64_t turned_floats(const Sizes *s) {
    return attention_key_floats(s->dim, s->room);
}
static int64_t plain_floats(const Sizes *s) {
    return attention_value_floats(s->dim, s->room);
}
static int64_t strip_floats(const Sizes *s) {
    return PANEL * s->padded;
}

static float *floats(Tape *t, int64_t count) {
    return arena_alloc(t->arena, sizeof(float) * (size_t)count);
}

static int64_t padded_bytes(int64_t count) {
    return arena_padded((int64_t)sizeof(float) * count);
}

/* strip [rows][padded] columns of tiles first .. end - 1 = x [rows][dim] times turned panels. */
static void strip_make(const Sizes *s, const float *x, int64_t stride, int64_t rows,
                       const float *turned, int64_t first, int64_t end, float *strip) {
    for (int64_t tile = first; tile < end; tile++) {
        ProductJob job = {.rows = x,
                          .row_stride = stride,
                          .row_count = rows,
                          .panel = turned + tile * s->dim * PANEL,
                          .panel_stride = PANEL,
                          .depth = s->dim,
                          .columns = PANEL,
                          .is_first = true,
                          .sum = strip + tile * PANEL,
                          .sum_stride = s->padded};
        if (tile == s->tiles - 1) job.columns = s->length - tile * PANEL;
        isa_active()->product(&job);
    }
}

/* out [rows][dim] = factor[row] (NULL: 1) times strip [rows][first .. first + depth - 1] times the
 * plain panels, plus beta times what is there. */
static void strip_apply(const Sizes *s, const float *strip, int64_t rows, int64_t first,
                        int64_t depth, const float *plain, const float *factor, float beta,
                        float *out, int64_t stride) {
    float part[PANEL * PANEL];
    for (int64_t p = 0; p < s->dim_panels; p++) {
        int64_t columns = s->dim - p * PANEL < PANEL ? s->dim - p * PANEL : PANEL;
        ProductJob job = {.rows = strip + first,
                          .row_stride = s->padded,
                          .row_count = rows,
                          .panel = plain + (p * s->room + first) * PANEL,
                          .panel_stride = PANEL,
                          .depth = depth,
                          .columns = columns,
                          .is_first = true,
                          .sum = part,
                          .sum_stride = PANEL};
        isa_active()->product(&job);
        for (int64_t r = 0; r < rows; r++) {
            float *to = out + r * stride + p * PANEL, f = factor ? factor[r] : 1;
            for (int64_t c = 0; c < columns; c++) {
                float value = part[r * PANEL + c] * f;
                to[c] = beta == 0 ? value : beta * to[c] + value;
            }
        }
    }
}

/* ---- What a query sees ---- */

/* The first key that the query at `position` may see. */
static int64_t start_of(const Var *v, const Sizes *s, int64_t b, int64_t position) {
    if (!v->in[3]) return 0;
    int64_t start = (int64_t)var_f32(v->in[3])[b * s->length + position];
    return start < 0 ? 0 : start > position ? position : start;
}

static void clear(float *x, int64_t first, int64_t end) {
    if (end > first) memset(x + first, 0, sizeof(float) * (size_t)(end - first));
}

/* Some queries of one head, side by side in a tile, or of the same position and several heads that
 * share keys; and the keys from the first tile that one of them sees. */
typedef struct Queries {
    int64_t b, head, first, rows;
    bool are_heads;
    int64_t last;           /* position, and one more */
    int64_t key, tile, end; /* first key; tiles of keys */
} Queries;

enum { HEADS = 4 /* whose sums are enough that none waits for its last addition */ };

static Queries queries_at(const Var *v, const Sizes *s, int64_t b, int64_t kv, int64_t task) {
    Queries q = {.b = b, .head = kv * s->group + task / s->query_tiles};
    int64_t at = s->skip / PANEL + task % s->query_tiles, end = (at + 1) * PANEL;
    q.first = at * PANEL > s->skip ? at * PANEL : s->skip;
    q.last = s->length < end ? s->length : end;
    q.rows = q.last - q.first;
    q.tile = start_of(v, s, b, q.first) / PANEL; /* starts do not fall */
    q.key = q.tile * PANEL;
    q.end = at + 1;
    return q;
}

/* Of the last position HEADS of a group, or what is left of it. */
static Queries heads_at(const Sizes *s, int64_t kv, int64_t part) {
    Queries q = {.head = kv * s->group + part * HEADS, .first = s->length - 1, .last = s->length};
    q.are_heads = true;
    q.rows = count_least(HEADS, s->group - part * HEADS);
    q.end = s->tiles;
    return q;
}

static int64_t query_stride(const Sizes *s, const Queries *q) {
    return q->are_heads ? s->dim : s->q_stride;
}

static int64_t query_offset(const Sizes *s, const Queries *q) {
    return (q->b * s->queries + q->first - s->skip) * s->q_stride + q->head * s->dim;
}

static int64_t row_number(const Sizes *s, const Queries *q) {
    return (q->b * s->heads + q->head) * s->queries + q->first - s->skip;
}

/* ---- Forward ---- */

/* Scores to exponentials over the largest; factors are 1 over their sums, l goes to `saved`. */
static void soften(const Var *v, const Sizes *s, const Queries *q, float *strip, float *factor,
                   float *saved) {
    const AttentionAttr *attr = v->attr;
    for (int64_t r = 0; r < q->rows; r++) {
        float *row = strip + r * s->padded, most;
        int64_t position = q->are_heads ? q->first : q->first + r;
        int64_t start = start_of(v, s, q->b, position), end = position + 1;
        isa_active()->largest(row + start, end - start, &most);
        float shift = most * attr->scale;
        isa_active()->exponentials(row + start, end - start, attr->scale, shift, row + start);
        double sum = row_sum(row + start, end - start);
        clear(row, q->key, start);
        clear(row, end, q->last);
        factor[r] = (float)(1 / sum);
        saved[row_number(s, q) + r] = (float)((double)shift + log(sum));
    }
}

/* What queries read and a thread needs. */
typedef struct Forward {
    const Var *v;
    Sizes s;
    float *strips;
} Forward;

/* Of a head of keys their panels, and those of the values. */
static void attend(const Forward *w, const float *keys, const float *values, const Queries *q) {
    const Sizes *s = &w->s;
    const Var *v = w->v;
    float *strip = w->strips + parallel_self() * strip_floats(s), factor[PANEL];
    int64_t at = query_offset(s, q), stride = query_stride(s, q);
    strip_make(s, var_f32(v->in[0]) + at, stride, q->rows, keys, q->tile, q->end, strip);
    soften(v, s, q, strip, factor, v->saved);
    strip_apply(s, strip, q->rows, q->key, q->last - q->key, values, factor, 0, var_f32(v) + at,
                stride);
}

static void attend_packed(const Forward *w, const float *keys, const float *values, int64_t b,
                          int64_t kv, int64_t task) {
    Queries q = queries_at(w->v, &w->s, b, kv, task);
    attend(w, keys, values, &q);
}

/* All heads, one after the other. */
static void forward_packing(Tape *t, const Forward *w) {
    const Sizes *s = &w->s;
    const float *k = var_f32(w->v->in[1]), *x = var_f32(w->v->in[2]);
    float *keys = floats(t, turned_floats(s)), *values = floats(t, plain_floats(s));
    int64_t tasks = s->group * s->query_tiles;
    int64_t operations = 2 * s->group * s->queries * s->length * s->dim;
    for (int64_t i = 0; i < s->batch * s->kv_heads; i++) {
        int64_t b = i / s->kv_heads, kv = i % s->kv_heads;
        int64_t offset = b * s->length * s->k_stride + kv * s->dim;
        pack_turned(s, k + offset, s->k_stride, keys);
        pack_plain(s, x + offset, s->k_stride, values);
        PARALLEL_FOR_DYNAMIC(task, tasks, operations, attend_packed(w, keys, values, b, kv, task));
    }
}

static void attend_kept(const Forward *w, const AttentionPanels *kept, int64_t kv, int64_t task) {
    const Sizes *s = &w->s;
    Queries q = s->queries == 1 ? heads_at(s, kv, task) : queries_at(w->v, s, 0, kv, task);
    attend(w, kept->keys + kv * turned_floats(s), kept->values + kv * plain_floats(s), &q);
}

/* All heads at once. */
static void forward_kept(const Forward *w, const AttentionPanels *kept) {
    const Sizes *s = &w->s;
    int64_t tasks = s->queries == 1 ? count_pieces(s->group, HEADS) : s->group * s->query_tiles;
    int64_t operations = 2 * s->heads * s->queries * s->length * s->dim;
    PARALLEL_FOR_DYNAMIC(i, s->kv_heads * tasks, operations,
                         attend_kept(w, kept, i / tasks, i % tasks));
}

static void forward(Tape *t, Var *v) {
    const AttentionPanels *kept = ((const AttentionAttr *)v->attr)->kept;
    Forward w = {.v = v, .s = sizes_of(v)};
    const Sizes *s = &w.s;
    if (!v->saved)
        v->saved = tape_alloc(t, sizeof(float) * (size_t)(s->batch * s->heads * s->queries));
    ArenaMark mark = arena_mark(t->arena);
    w.strips = floats(t, parallel_threads() * strip_floats(s));
    if (kept)
        forward_kept(&w, kept);
    else
        forward_packing(t, &w);
    arena_rewind(t->arena, mark);
}

static int64_t saved_bytes(const Tape *t, const Var *v) {
    (void)t;
    Sizes s = sizes_of(v);
    return padded_bytes(s.batch * s.heads * s.queries);
}

static int64_t forward_scratch(const Var *v) {
    Sizes s = sizes_of(v);
    return padded_bytes(turned_floats(&s)) + padded_bytes(plain_floats(&s)) +
           padded_bytes(parallel_threads() * strip_floats(&s));
}

/* ---- Backward ---- */

typedef struct Backward {
    const Var *v;
    Sizes s;
    float *delta;                /* [batch, heads, length]: rowsum(do o) */
    float *strips;               /* [threads][2][PANEL][padded] */
    float *turned[2], *plain[2]; /* panels of one head */
    float *grad[3], beta[3];
} Backward;

static void make_deltas(const Backward *w) {
    const Sizes *s = &w->s;
    int64_t rows = s->batch * s->length * s->heads;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        int64_t h = i % s->heads, position = i / s->heads % s->length;
        int64_t b = i / s->heads / s->length;
        const float *o = var_f32(w->v) + i * s->dim, *d = var_grad_f32(w->v) + i * s->dim;
        double sum = 0;
        for (int64_t c = 0; c < s->dim; c++) sum += (double)o[c] * (double)d[c];
        w->delta[(b * s->heads + h) * s->length + position] = (float)sum;
    }
}

/* Of queries: scores to ds, given dp. */
static void turn_queries(const Backward *w, const Queries *q, float *scores, const float *dp) {
    const AttentionAttr *attr = w->v->attr;
    const float *saved = w->v->saved;
    for (int64_t r = 0; r < q->rows; r++) {
        float *row = scores + r * w->s.padded;
        const float *d = dp + r * w->s.padded;
        int64_t number = row_number(&w->s, q) + r;
        int64_t start = start_of(w->v, &w->s, q->b, q->first + r), end = q->first + r + 1;
        isa_active()->exponentials(row + start, end - start, attr->scale, saved[number],
                                   row + start);
        for (int64_t i = start; i < end; i++)
            row[i] = row[i] * (d[i] - w->delta[number]) * attr->scale;
        clear(row, q->key, start);
        clear(row, end, q->first + q->rows);
    }
}

static void query_pass(const Backward *w, int64_t b, int64_t kv) {
    const Sizes *s = &w->s;
    int64_t offset = b * s->length * s->k_stride + kv * s->dim;
    const float *k = var_f32(w->v->in[1]) + offset, *x = var_f32(w->v->in[2]) + offset;
    pack_turned(s, k, s->k_stride, w->turned[0]);
    pack_turned(s, x, s->k_stride, w->turned[1]);
    pack_plain(s, k, s->k_stride, w->plain[0]);
#pragma omp parallel for schedule(dynamic)
    for (int64_t task = 0; task < s->group * s->tiles; task++) {
        float *scores = w->strips + parallel_self() * 2 * strip_floats(s);
        float *dp = scores + strip_floats(s);
        Queries q = queries_at(w->v, s, b, kv, task);
        int64_t at = query_offset(s, &q);
        strip_make(s, var_f32(w->v->in[0]) + at, s->q_stride, q.rows, w->turned[0], q.tile, q.end,
                   scores);
        strip_make(s, var_grad_f32(w->v) + at, s->q_stride, q.rows, w->turned[1], q.tile, q.end,
                   dp);
        turn_queries(w, &q, scores, dp);
        strip_apply(s, scores, q.rows, q.key, q.first + q.rows - q.key, w->plain[0], NULL,
                    w->beta[0], w->grad[0] + at, s->q_stride);
    }
}

/* Of keys from `first` on, one a row: scores to p, dp to ds; queries before a key, or of which it
 * is before the start, do not see it. */
static void turn_keys(const Backward *w, int64_t b, int64_t head, int64_t first, int64_t rows,
                      float *scores, float *dp) {
    const Sizes *s = &w->s;
    const AttentionAttr *attr = w->v->attr;
    int64_t number = (b * s->heads + head) * s->length;
    const float *l = (const float *)w->v->saved + number, *delta = w->delta + number;
    for (int64_t r = 0; r < rows; r++) {
        float *p = scores + r * s->padded, *d = dp + r * s->padded;
        int64_t key = first + r, end = s->length;
        while (end > key + 1 && start_of(w->v, s, b, end - 1) > key) end--;
        for (int64_t i = key; i < end; i++) p[i] = p[i] * attr->scale - l[i];
        isa_active()->exponentials(p + key, end - key, 1, 0, p + key);
        for (int64_t i = key; i < end; i++) d[i] = p[i] * (d[i] - delta[i]) * attr->scale;
        clear(p, first, key);
        clear(p, end, s->length);
        clear(d, first, key);
        clear(d, end, s->length);
    }
}

/* One head of queries; `beta`: of what other heads of the group, or readers, left. */
static void key_pass(const Backward *w, int64_t b, int64_t head, const float beta[3]) {
    const Sizes *s = &w->s;
    int64_t kv = head / s->group, offset = b * s->length * s->q_stride + head * s->dim;
    const float *q = var_f32(w->v->in[0]) + offset, *dy = var_grad_f32(w->v) + offset;
    pack_turned(s, q, s->q_stride, w->turned[0]);
    pack_turned(s, dy, s->q_stride, w->turned[1]);
    pack_plain(s, q, s->q_stride, w->plain[0]);
    pack_plain(s, dy, s->q_stride, w->plain[1]);
#pragma omp parallel for schedule(dynamic)
    for (int64_t tile = 0; tile < s->tiles; tile++) {
        float *scores = w->strips + parallel_self() * 2 * strip_floats(s);
        float *dp = scores + strip_floats(s);
        int64_t first = tile * PANEL, rows = s->length - first < PANEL ? s->length - first : PANEL;
        int64_t at = (b * s->length + first) * s->k_stride + kv * s->dim;
        strip_make(s, var_f32(w->v->in[1]) + at, s->k_stride, rows, w->turned[0], tile, s->tiles,
                   scores);
        strip_make(s, var_f32(w->v->in[2]) + at, s->k_stride, rows, w->turned[1], tile, s->tiles,
                   dp);
        turn_keys(w, b, head, first, rows, scores, dp);
        if (w->grad[1])
            strip_apply(s, dp, rows, first, s->length - first, w->plain[0], NULL, beta[1],
                        w->grad[1] + at, s->k_stride);
        if (w->grad[2])
            strip_apply(s, scores, rows, first, s->length - first, w->plain[1], NULL, beta[2],
                        w->grad[2] + at, s->k_stride);
    }
}

static void backward(Tape *t, Var *v) {
    Backward w = {.v = v, .s = sizes_of(v)};
    const Sizes *s = &w.s;
    assert(!((const AttentionAttr *)v->attr)->kept);
    for (int i = 0; i < 3; i++) w.grad[i] = tape_grad(t, v->in[i], &w.beta[i]);
    ArenaMark mark = arena_mark(t->arena);
    w.delta = floats(t, s->batch * s->heads * s->length);
    w.strips = floats(t, parallel_threads() * 2 * strip_floats(s));
    for (int i = 0; i < 2; i++) {
        w.turned[i] = floats(t, turned_floats(s));
        w.plain[i] = floats(t, plain_floats(s));
    }
    make_deltas(&w);
    for (int64_t i = 0; w.grad[0] && i < s->batch * s->kv_heads; i++)
        query_pass(&w, i / s->kv_heads, i % s->kv_heads);
    for (int64_t i = 0; (w.grad[1] || w.grad[2]) && i < s->batch * s->heads; i++) {
        const float joined[3] = {1, 1, 1};
        bool is_first = i % s->heads % s->group == 0;
        key_pass(&w, i / s->heads, i % s->heads, is_first ? w.beta : joined);
    }
    arena_rewind(t->arena, mark);
}

static int64_t backward_scratch(const Var *v) {
    Sizes s = sizes_of(v);
    return padded_bytes(s.batch * s.heads * s.length) +
           padded_bytes(parallel_threads() * 2 * strip_floats(&s)) +
           2 * (padded_bytes(turned_floats(&s)) + padded_bytes(plain_floats(&s)));
}

/* Of keys that a query sees when nothing but order forbids it. */
static Flops flops(const Var *v) {
    Sizes s = sizes_of(v);
    double seen = (double)s.skip + (double)(s.queries + 1) / 2; /* by a query, in the mean */
    double pairs = (double)(s.batch * s.heads) * (double)s.queries * seen;
    double one = 2 * pairs * (double)s.dim; /* product */
    return (Flops){.forward = 2 * one, .input_grad = 4 * one};
}

static Var *sample(Tape *t, int which) {
    static const struct {
        int64_t batch, length, heads, kv_heads, dim;
    } sizes[] = {{1, 5, 1, 1, 3}, {2, 4, 4, 2, 2}, {1, 35, 2, 1, 2}};
    if (which >= 3) return NULL;
    int64_t batch = sizes[which].batch, length = sizes[which].length, dim = sizes[which].dim;
    AttentionAttr attr = {.heads = sizes[which].heads, .kv_heads = sizes[which].kv_heads};
    attr.scale = 0.7f;
    Var *q = tape_sample_leaf(t, SHAPE(batch, length, attr.heads * dim), -1, 1);
    Var *k = tape_sample_leaf(t, SHAPE(batch, length, attr.kv_heads * dim), -1, 1);
    Var *v = tape_sample_leaf(t, SHAPE(batch, length, attr.kv_heads * dim), -1, 1);
    Var *starts = NULL;
    if (which == 1) { /* two documents a row */
        float *at = tape_alloc(t, sizeof(float) * (size_t)(batch * length));
        for (int64_t i = 0; i < batch * length; i++) at[i] = i % length < 2 ? 0 : 2;
        Tensor tensor = {.dtype = DTYPE_F32, .shape = SHAPE(batch, length), .data = at};
        starts = tape_constant(t, tensor);
    }
    return op_attention(t, q, k, v, starts, attr);
}

Var *op_attention(Tape *t, Var *q, Var *k, Var *v, Var *starts, AttentionAttr attr) {
    Var *in[] = {q, k, v, starts};
    return tape_record(t, &op_row_attention, 4, in, &attr, sizeof attr);
}

const Op op_row_attention = {
    .name = "attention",
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .sample = sample,
    .saved_bytes = saved_bytes,
    .forward_scratch = forward_scratch,
    .backward_scratch = backward_scratch,
    .flops = flops,
};
