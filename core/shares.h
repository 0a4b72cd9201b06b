/* Tasks in shares: a thread takes its own share, front to back, then what others have left, back to
 * front (affinity scheduling; Markatos and LeBlanc 1994). So products over the same weights meet
 * the same part on the same thread, whose cache has it, and no thread waits for a slow one. */
#ifndef NIBBLE_CORE_SHARES_H
#define NIBBLE_CORE_SHARES_H

#include <stdint.h>

#include "core/arena.h"

typedef struct Shares {
    struct Share *share; /* [count], one a thread */
    int count;
} Shares;

/* Of tasks 0 .. tasks - 1, fewer than 2^32. From `scratch`, which the caller rewinds. */
Shares shares_new(int64_t tasks, Arena *scratch);

/* The calling thread's next task, or -1: none is left. Every task is given once. */
int64_t shares_take(const Shares *shares);

int64_t shares_bytes(void); /* that shares_new takes */

#endif
