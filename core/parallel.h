/* Threads. OpenMP owns them.
 *
 * Kernels write `#pragma omp parallel for` themselves; this file is the only one that includes
 * omp.h. A region has no `if` clause and no region inside: libgomp keeps one idle team, and a team
 * of another size means malloc calls in every step. Rule: what a kernel computes may depend on
 * shapes, never on the number of threads. */
#ifndef NIBBLE_CORE_PARALLEL_H
#define NIBBLE_CORE_PARALLEL_H

#include <stdint.h>

#include "core/error.h"

enum { PARALLEL_THREADS_MAX = 256 };

/* Call before any kernel. `threads` 0 means: what an earlier call chose, or else as many as this
 * process may use (affinity, a container's share of processor time and OMP_NUM_THREADS are
 * respected). */
bool parallel_init(int threads, Error *err);
int parallel_threads(void);    /* threads that a region gets */
int parallel_self(void);       /* this thread's index in its region, from 0 */
bool parallel_is_active(void); /* whether the caller is inside a region already */

/* Whether so many multiply-adds, or as short operations, are worth a region: below, starting it
 * takes longer than they do. */
static inline bool parallel_pays(int64_t operations) {
    return operations >= 1 << 15;
}

/* `call` for i = 0 .. count - 1; by the calling thread alone where a region does not pay. DYNAMIC:
 * of calls that differ in length. */
#define PARALLEL_FOR(i, count, operations, call)                                                   \
    PARALLEL_LOOP("omp parallel for schedule(static)", i, count, operations, call)
#define PARALLEL_FOR_DYNAMIC(i, count, operations, call)                                           \
    PARALLEL_LOOP("omp parallel for schedule(dynamic)", i, count, operations, call)
#define PARALLEL_LOOP(region, i, count, operations, call)                                          \
    do {                                                                                           \
        if (parallel_pays(operations)) {                                                           \
            _Pragma(region) for (int64_t i = 0; i < (count); i++) call;                            \
        } else {                                                                                   \
            for (int64_t i = 0; i < (count); i++) call;                                            \
        }                                                                                          \
    } while (0)

/* Between steps of long work: where nobody asked for a number of threads, as many as other programs
 * leave cores for. Threads that must share a core wait for each other in every region, and two then
 * are slower than one. Looks at the machine four times a second at most. */
void parallel_adapt(void);

#endif
