/* Keys and values of the positions that a network has seen, for every layer of attention: so that
 * what follows costs no more than its own positions. Of one sequence, in f32. The logits have the
 * bits that all positions at once would give, since every product is a chain of its own.
 *
 * A record that has one (TokenContext.cache) runs without gradients and without a plan; whoever
 * records it advances the cache behind it. */
#ifndef NIBBLE_AUTOGRAD_KV_CACHE_H
#define NIBBLE_AUTOGRAD_KV_CACHE_H

#include "autograd/module.h"
#include "autograd/ops.h"

typedef struct KvEntry {
    const Module *owner; /* the layer */
    AttentionPanels *kept;
} KvEntry;

typedef struct KvCache {
    Arena *arena;
    int64_t capacity; /* positions */
    int64_t length;   /* those that all layers have; a smaller number forgets the last ones */
    KvEntry *entries;
    int count, room;
} KvCache;

KvCache *kv_cache_new(int64_t capacity, Arena *arena);

/* Keeps k and v [1, positions, kv_heads x dim] of the positions behind the cache's, which must have
 * room for them. What attention reads then: of all positions, until the next call for this layer;
 * NULL where the record has failed. */
const AttentionPanels *kv_cache_extend(KvCache *cache, const Module *owner, const Tape *t,
                                       const Var *k, const Var *v, int64_t kv_heads);

/* Behind the record of so many positions. */
void kv_cache_advance(KvCache *cache, int64_t positions);

#endif
