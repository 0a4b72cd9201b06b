/* Lifetimes instead of frees: memory belongs to an arena and goes when the arena does.
 *
 * Allocation never fails in the caller's eyes. When the machine is out of memory, the arena's name
 * and size are printed and the process ends with exit code 1; files on
 * disk are only ever replaced whole, so the last checkpoint stays intact.
 * An arena is used by one thread at a time. */
#ifndef NIBBLE_CORE_ARENA_H
#define NIBBLE_CORE_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Arena Arena;
typedef struct ArenaMark {
    void *block;
    size_t used;
} ArenaMark;

enum { ARENA_ALIGNMENT = 64 }; /* bytes: a cache line, and the widest vector register */

Arena *arena_new(const char *name); /* `name` must outlive the arena: a literal */
void arena_free(Arena *arena);      /* accepts NULL */

void *arena_alloc(Arena *arena, size_t bytes);  /* 64-byte aligned, contents undefined */
void *arena_zalloc(Arena *arena, size_t bytes); /* 64-byte aligned, zeros */

/* What an allocation of so many bytes takes, for those who say beforehand what they will take. */
static inline int64_t arena_padded(int64_t bytes) {
    return (bytes + ARENA_ALIGNMENT - 1) / ARENA_ALIGNMENT * ARENA_ALIGNMENT;
}

char *arena_strdup(Arena *arena, const char *text);
char *arena_format(Arena *arena, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* `count` zeroed elements; sizes are multiplied with an overflow check. */
#define arena_new_array(arena, Type, count)                                                        \
    ((Type *)arena_zalloc((arena), checked_mul(sizeof(Type), (size_t)(count))))

/* Everything allocated after the mark is released; earlier allocations stay. */
ArenaMark arena_mark(const Arena *arena);
void arena_rewind(Arena *arena, ArenaMark mark);

/* Releases everything but keeps the memory for the next use. If more than one block was needed,
 * they become one of the total size, so that a repeated pattern soon allocates from the system
 * no more. */
void arena_reset(Arena *arena);

/* Releases everything, and holds at least `bytes` in one piece from then on. What was held before
 * goes back first, so that a larger need never meets the memory of a smaller one. */
void arena_reserve(Arena *arena, size_t bytes);

size_t arena_used(const Arena *arena);         /* bytes handed out now */
size_t arena_peak(const Arena *arena);         /* most bytes ever handed out */
size_t arena_system_calls(const Arena *arena); /* how often the system was asked for memory */

/* Product or sum of sizes; on overflow the process ends as for exhausted memory. Sizes that come
 * from a file are checked with __builtin_mul_overflow and reported, before they get here. */
size_t checked_mul(size_t a, size_t b);
size_t checked_add(size_t a, size_t b);
/* For libraries that free what they ask for, by free; without memory the process ends likewise, so
 * that they do not take it for a fault of their input. `name` says whose it is. */
void *checked_malloc(const char *name, size_t bytes);

#endif
