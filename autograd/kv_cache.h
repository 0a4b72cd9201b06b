/* Keys and values of the positions that a network has seen, for every layer of attention: so that
 * what follows costs no more than its own positions. Of one sequence, in f32. The logits have the
 * bits that all positions at once would give, since every product is a chain of its own.
 *
 * A record that has one (TokenContext.cache) runs without gradients and without a plan; whoever
 * records it advances the cache behind it. */
#ifndef NIBBLE_AUTOGRAD_KV_CACHE_H
#define NIBBLE_AUTOGRAD_KV_CACHE_H

#include "autograd/module.h"

typedef struct KvEntry {
    const Module *owner;  /* the layer */
    float *keys, *values; /* [capacity, width] */
} KvEntry;

typedef struct KvCache {
    Arena *arena;
    int64_t capacity; /* positions */
    int64_t length;   /* those that all layers have; a smaller number forgets the last ones */
    KvEntry *entries;
    int count, room;
} KvCache;

KvCache *kv_cache_new(int64_t capacity, Arena *arena);

/* Keeps k and v [1, positions, width] of the positions behind the cache's, which must have room for
 * them; they become those of all positions, constants that live as long as the cache. */
void kv_cache_extend(KvCache *cache, const Module *owner, Tape *t, Var **k, Var **v);

/* Behind the record of so many positions. */
void kv_cache_advance(KvCache *cache, int64_t positions);

#endif
