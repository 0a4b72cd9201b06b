#include "core/shares.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "core/parallel.h"

/* A cache line each: first << 32 | end of the tasks that are left. */
typedef struct Share {
    _Atomic uint64_t left;
    char padding[64 - sizeof(uint64_t)];
} Share;

int64_t shares_bytes(void) {
    return parallel_threads() * (int64_t)sizeof(Share);
}

Shares shares_new(int64_t tasks, Arena *scratch) {
    assert(tasks >= 0 && tasks <= UINT32_MAX);
    Shares shares = {arena_alloc(scratch, (size_t)shares_bytes()), parallel_threads()};
    for (int i = 0; i < shares.count; i++) {
        uint64_t first = (uint64_t)(tasks * i / shares.count);
        uint64_t end = (uint64_t)(tasks * (i + 1) / shares.count);
        atomic_init(&shares.share[i].left, first << 32 | end);
    }
    return shares;
}

static int64_t take(Share *share, bool is_own) {
    uint64_t left = atomic_load(&share->left);
    while (true) {
        uint64_t first = left >> 32, end = left & UINT32_MAX;
        if (first >= end) return -1;
        uint64_t rest = is_own ? (first + 1) << 32 | end : first << 32 | (end - 1);
        if (atomic_compare_exchange_weak(&share->left, &left, rest))
            return (int64_t)(is_own ? first : end - 1);
    }
}

int64_t shares_take(const Shares *shares) {
    int self = parallel_self();
    int64_t task = -1;
    for (int i = 0; task < 0 && i < shares->count; i++)
        task = take(&shares->share[(self + i) % shares->count], i == 0);
    return task;
}
