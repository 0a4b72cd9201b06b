#include "autograd/kv_cache.h"

#include <assert.h>
#include <string.h>

KvCache *kv_cache_new(int64_t capacity, Arena *arena) {
    KvCache *cache = arena_new_array(arena, KvCache, 1);
    *cache = (KvCache){.arena = arena, .capacity = capacity};
    return cache;
}

static KvEntry *entry_add(KvCache *cache, const Module *owner, int64_t width) {
    if (cache->count == cache->room) {
        cache->room = cache->room ? 2 * cache->room : 16;
        KvEntry *wider = arena_new_array(cache->arena, KvEntry, cache->room);
        if (cache->count) memcpy(wider, cache->entries, sizeof *wider * (size_t)cache->count);
        cache->entries = wider;
    }
    KvEntry *entry = &cache->entries[cache->count++];
    size_t bytes = sizeof(float) * (size_t)(cache->capacity * width);
    *entry = (KvEntry){owner, arena_alloc(cache->arena, bytes), arena_alloc(cache->arena, bytes)};
    return entry;
}

static KvEntry *entry_of(KvCache *cache, const Module *owner, int64_t width) {
    for (int i = 0; i < cache->count; i++)
        if (cache->entries[i].owner == owner) return &cache->entries[i];
    return entry_add(cache, owner, width);
}

static Var *extend(const KvCache *cache, float *kept, Tape *t, const Var *x) {
    int64_t positions = x->value.shape.dim[1], width = x->value.shape.dim[2];
    memcpy(kept + cache->length * width, var_f32(x), sizeof *kept * (size_t)(positions * width));
    Tensor all = {.dtype = DTYPE_F32, .shape = SHAPE(1, cache->length + positions, width)};
    all.data = kept;
    return tape_constant(t, all);
}

void kv_cache_extend(KvCache *cache, const Module *owner, Tape *t, Var **k, Var **v) {
    Shape shape = (*k)->value.shape;
    if (t->error.code != ERROR_NONE) return;
    assert(!t->plan && !t->mode.is_dry && !t->mode.needs_grad);
    assert(shape.dim[0] == 1 && cache->length + shape.dim[1] <= cache->capacity);
    KvEntry *entry = entry_of(cache, owner, shape.dim[2]);
    *k = extend(cache, entry->keys, t, *k);
    *v = extend(cache, entry->values, t, *v);
}

void kv_cache_advance(KvCache *cache, int64_t positions) {
    cache->length += positions;
}
