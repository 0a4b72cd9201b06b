#include "autograd/kv_cache.h"

#include <assert.h>
#include <string.h>

#include "core/counts.h"
#include "core/kernels/isa.h"

KvCache *kv_cache_new(int64_t capacity, Arena *arena) {
    KvCache *cache = arena_new_array(arena, KvCache, 1);
    *cache = (KvCache){.arena = arena, .capacity = capacity};
    return cache;
}

static int64_t padded(int64_t dim) {
    return count_pieces(dim, PANEL) * PANEL;
}

/* Not touched: a long context takes memory as it is used. */
static float *floats(Arena *arena, size_t count) {
    return arena_alloc(arena, checked_mul(sizeof(float), count));
}

static AttentionPanels *entry_add(KvCache *cache, const Module *owner, int64_t kv_heads,
                                  int64_t dim) {
    if (cache->count == cache->room) {
        cache->room = cache->room ? 2 * cache->room : 16;
        KvEntry *wider = arena_new_array(cache->arena, KvEntry, cache->room);
        if (cache->count) memcpy(wider, cache->entries, sizeof *wider * (size_t)cache->count);
        cache->entries = wider;
    }
    AttentionPanels *kept = arena_new_array(cache->arena, AttentionPanels, 1);
    kept->room = count_pieces(cache->capacity, PANEL) * PANEL;
    size_t width = (size_t)(kv_heads * dim), wide = (size_t)(kv_heads * padded(dim));
    kept->keys = floats(cache->arena, checked_mul((size_t)kept->room, width));
    kept->values = floats(cache->arena, checked_mul((size_t)kept->room, wide));
    cache->entries[cache->count++] = (KvEntry){owner, kept};
    return kept;
}

static AttentionPanels *panels_of(KvCache *cache, const Module *owner, int64_t kv_heads,
                                  int64_t dim) {
    for (int i = 0; i < cache->count; i++)
        if (cache->entries[i].owner == owner) return cache->entries[i].kept;
    return entry_add(cache, owner, kv_heads, dim);
}

/* What lies in a panel beside what was kept is computed with, and seen by nobody; so it is zeros.
 */
static void keep_key(const float *key, int64_t dim, int64_t position, float *panels) {
    int64_t lane = position % PANEL;
    float *panel = panels + (position - lane) * dim;
    if (lane == 0) memset(panel, 0, sizeof *panel * (size_t)(dim * PANEL));
    for (int64_t c = 0; c < dim; c++) panel[c * PANEL + lane] = key[c];
}

static void keep_value(const float *value, int64_t dim, int64_t position, int64_t room,
                       float *panels) {
    for (int64_t c = 0; c < dim; c += PANEL) {
        int64_t some = count_least(PANEL, dim - c);
        float *to = panels + c * room + position * PANEL;
        memcpy(to, value + c, sizeof *to * (size_t)some);
        memset(to + some, 0, sizeof *to * (size_t)(PANEL - some));
    }
}

const AttentionPanels *kv_cache_extend(KvCache *cache, const Module *owner, const Tape *t,
                                       const Var *k, const Var *v, int64_t kv_heads) {
    Shape shape = k->value.shape;
    int64_t positions = shape.dim[1], dim = shape.dim[2] / kv_heads;
    if (t->error.code != ERROR_NONE) return NULL;
    assert(!t->plan && !t->mode.is_dry && !t->mode.needs_grad);
    assert(shape.dim[0] == 1 && cache->length + positions <= cache->capacity);
    AttentionPanels *kept = panels_of(cache, owner, kv_heads, dim);
    for (int64_t i = 0; i < positions * kv_heads; i++) {
        int64_t at = cache->length + i / kv_heads, head = i % kv_heads;
        keep_key(var_f32(k) + i * dim, dim, at, kept->keys + head * kept->room * dim);
        keep_value(var_f32(v) + i * dim, dim, at, kept->room,
                   kept->values + head * kept->room * padded(dim));
    }
    kept->length = cache->length + positions;
    return kept;
}

void kv_cache_advance(KvCache *cache, int64_t positions) {
    cache->length += positions;
}
