#include "autograd/kv_cache.h"

#include <assert.h>
#include <string.h>

KvCache *kv_cache_new(int64_t capacity, Arena *arena) {
    KvCache *cache = arena_new_array(arena, KvCache, 1);
    *cache = (KvCache){.arena = arena, .capacity = capacity};
    return cache;
}

/* Not touched: a long context takes memory as it is used. */
static float *floats(Arena *arena, int64_t heads, int64_t of_head) {
    size_t count = checked_mul((size_t)heads, (size_t)of_head);
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
    kept->room = attention_room(cache->capacity);
    kept->keys = floats(cache->arena, kv_heads, attention_key_floats(dim, kept->room));
    kept->values = floats(cache->arena, kv_heads, attention_value_floats(dim, kept->room));
    cache->entries[cache->count++] = (KvEntry){owner, kept};
    return kept;
}

static AttentionPanels *panels_of(KvCache *cache, const Module *owner, int64_t kv_heads,
                                  int64_t dim) {
    for (int i = 0; i < cache->count; i++)
        if (cache->entries[i].owner == owner) return cache->entries[i].kept;
    return entry_add(cache, owner, kv_heads, dim);
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
        attention_put_key(var_f32(k) + i * dim, dim, at,
                          kept->keys + head * attention_key_floats(dim, kept->room));
        attention_put_value(var_f32(v) + i * dim, dim, kept->room, at,
                            kept->values + head * attention_value_floats(dim, kept->room));
    }
    kept->length = cache->length + positions;
    return kept;
}

void kv_cache_advance(KvCache *cache, int64_t positions) {
    cache->length += positions;
}
