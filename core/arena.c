#include "core/arena.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

/* AddressSanitizer sees what lies between allocations and behind the last one as nobody's. */
#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#define SHUT(memory, bytes) __asan_poison_memory_region(memory, bytes)
#define OPEN(memory, bytes) __asan_unpoison_memory_region(memory, bytes)
#else
#define SHUT(memory, bytes) ((void)0)
#define OPEN(memory, bytes) ((void)0)
#endif

typedef struct Block {
    struct Block *previous;
    size_t capacity, used; /* bytes after this header */
    unsigned char *memory;
} Block;

struct Arena {
    const char *name;
    Block *last;
    size_t used_before_last; /* bytes used in all blocks but the last */
    size_t peak, system_calls;
};

enum {
    BLOCK_BYTES_MIN = 1 << 16,
    BLOCK_BYTES_MAPPED = 1 << 20, /* from here on freed blocks go back to the system at once */
    BLOCK_BYTES_LARGE = 1 << 28   /* from here on the machine is asked first */
};

#ifdef NIBBLE_FUZZ
enum { GAP_BYTES = ARENA_ALIGNMENT }; /* nobody's, for the sanitizer to see */
#else
enum { GAP_BYTES = 0 };
#endif

static _Noreturn void exhausted(const char *name, size_t held, size_t wanted) {
    fprintf(stderr,
            "nibble: out of memory: the %s arena holds %zu bytes and needs %zu more. "
            "Use a smaller batch or model; saved checkpoints are intact.\n",
            name, held, wanted);
    exit(1);
}

size_t checked_mul(size_t a, size_t b) {
    size_t product;
    if (__builtin_mul_overflow(a, b, &product)) exhausted("size computation", 0, SIZE_MAX);
    return product;
}

size_t checked_add(size_t a, size_t b) {
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum)) exhausted("size computation", 0, SIZE_MAX);
    return sum;
}

void *checked_malloc(const char *name, size_t bytes) {
    void *memory = malloc(bytes ? bytes : 1);
    if (!memory) exhausted(name, 0, bytes);
    return memory;
}

/* Linux grants more memory than there is and kills whoever uses it; so large blocks are compared
 * with what it says is available. */
static bool is_available(size_t bytes) {
    FILE *file = fopen("/proc/meminfo", "re");
    if (!file) return true;
    char line[128];
    size_t kilobytes = SIZE_MAX / 1024;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %zu kB", &kilobytes) == 1) break;
    fclose(file);
    return bytes / 1024 < kilobytes;
}

static Block *block_memory(size_t capacity) {
    size_t bytes = checked_add(sizeof(Block) + ARENA_ALIGNMENT, capacity);
    bool fits = bytes < BLOCK_BYTES_LARGE || is_available(bytes);
    return fits ? malloc(bytes) : NULL;
}

/* `wanted` is what blocks grow by; where there is less memory, what is needed has to do. */
static Block *block_new(Arena *arena, size_t needed, size_t wanted) {
    size_t capacity = wanted;
    Block *block = block_memory(capacity);
    if (!block && needed < wanted) block = block_memory(capacity = needed);
    if (!block) exhausted(arena->name, arena_used(arena), needed);
    arena->system_calls++;
    uintptr_t start = (uintptr_t)(block + 1);
    start = (start + ARENA_ALIGNMENT - 1) & ~(uintptr_t)(ARENA_ALIGNMENT - 1);
    *block = (Block){.capacity = capacity, .memory = (unsigned char *)start};
    SHUT(block->memory, capacity);
    return block;
}

static void blocks_free(Block *block, const Block *until) {
    while (block != until) {
        Block *previous = block->previous;
        free(block);
        block = previous;
    }
}

/* Left to itself, glibc keeps freed blocks of up to 32 MiB, once one of that size was freed, and a
 * process holds what it no longer uses. */
static void return_freed(void) {
#ifdef __GLIBC__
    static _Atomic bool is_set;
    if (!is_set) is_set = mallopt(M_MMAP_THRESHOLD, BLOCK_BYTES_MAPPED);
#endif
}

Arena *arena_new(const char *name) {
    return_freed();
    Arena *arena = calloc(1, sizeof *arena);
    if (!arena) exhausted(name, 0, sizeof *arena);
    arena->name = name;
    return arena;
}

void arena_free(Arena *arena) {
    if (!arena) return;
    blocks_free(arena->last, NULL);
    free(arena);
}

void *arena_alloc(Arena *arena, size_t bytes) {
    size_t rounded =
        checked_add(bytes, ARENA_ALIGNMENT + GAP_BYTES - 1) & ~(size_t)(ARENA_ALIGNMENT - 1);
    Block *block = arena->last;
    if (!block || block->capacity - block->used < rounded) {
        size_t held = block ? arena->used_before_last + block->used : 0;
        size_t growth =
            held < BLOCK_BYTES_LARGE ? held : BLOCK_BYTES_LARGE; /* doubles small ones */
        size_t capacity = rounded > growth ? rounded : growth;
        if (capacity < BLOCK_BYTES_MIN) capacity = BLOCK_BYTES_MIN;
        Block *fresh = block_new(arena, rounded, capacity);
        fresh->previous = block;
        arena->used_before_last = held;
        arena->last = block = fresh;
    }
    void *memory = block->memory + block->used;
    OPEN(memory, bytes);
    block->used += rounded;
    size_t used = arena->used_before_last + block->used;
    if (used > arena->peak) arena->peak = used;
    return memory;
}

void *arena_zalloc(Arena *arena, size_t bytes) {
    return memset(arena_alloc(arena, bytes), 0, bytes);
}

char *arena_strdup(Arena *arena, const char *text) {
    size_t bytes = strlen(text) + 1;
    return memcpy(arena_alloc(arena, bytes), text, bytes);
}

char *arena_format(Arena *arena, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    assert(length >= 0);
    char *text = arena_alloc(arena, (size_t)length + 1);
    vsnprintf(text, (size_t)length + 1, format, again);
    va_end(args);
    va_end(again);
    return text;
}

ArenaMark arena_mark(const Arena *arena) {
    return (ArenaMark){arena->last, arena->last ? arena->last->used : 0};
}

void arena_rewind(Arena *arena, ArenaMark mark) {
    if (!mark.block) {
        arena_reset(arena);
        return;
    }
    while (arena->last != mark.block) {
        Block *previous = arena->last->previous;
        assert(previous && "the mark belongs to another arena or was rewound already");
        arena->used_before_last -= previous->used;
        free(arena->last);
        arena->last = previous;
    }
    arena->last->used = mark.used;
    SHUT(arena->last->memory + mark.used, arena->last->capacity - mark.used);
}

void arena_reset(Arena *arena) {
    Block *last = arena->last;
    if (!last) return;
    if (last->previous || last->capacity < arena->peak) {
        /* What was rewound on the way counts too, or the same pattern would ask for it again. */
        size_t total = 0;
        for (const Block *b = last; b; b = b->previous) total = checked_add(total, b->capacity);
        if (total < arena->peak) total = arena->peak;
        blocks_free(last, NULL);
        arena->last = last = NULL;
        arena->used_before_last = 0;
        arena->last = last = block_new(arena, arena->peak, total);
    }
    last->used = 0;
    arena->used_before_last = 0;
    SHUT(last->memory, last->capacity);
}

void arena_reserve(Arena *arena, size_t bytes) {
    arena_reset(arena);
    if (arena->last && arena->last->capacity >= bytes) return;
    blocks_free(arena->last, NULL);
    arena->last = NULL;
    arena->last = block_new(arena, bytes, bytes);
}

size_t arena_used(const Arena *arena) {
    return arena->last ? arena->used_before_last + arena->last->used : 0;
}

size_t arena_peak(const Arena *arena) {
    return arena->peak;
}

size_t arena_system_calls(const Arena *arena) {
    return arena->system_calls;
}
