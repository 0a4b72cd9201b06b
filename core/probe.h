/* Probes: what an observer asks of values, the least and the greatest and a histogram, found by
 * whoever writes them, block by block while they are in cache, or by a pass of its own. The same
 * answer either way, for any number of threads: extremes and counts know no order. */
#ifndef NIBBLE_CORE_PROBE_H
#define NIBBLE_CORE_PROBE_H

#include <stdint.h>

#include "core/arena.h"

enum { PROBE_BINS = 4096 };

typedef struct Probe {
    /* The question. */
    uint32_t *counts; /* [PROBE_BINS], or NULL: no histogram */
    float limit;      /* bins are equal and cover [-limit, limit], the outer two what lies beyond;
                         a power of two, or 0: no histogram this time */
    /* The answer, and in counts. */
    float low, high; /* 0 among the values; NaNs are passed over */
} Probe;

/* A probe at work. */
typedef struct ProbeRun {
    Probe *probe;            /* NULL: nothing is asked, and every call is nothing */
    struct ProbePart *parts; /* [thread] */
} ProbeRun;

/* Begin; every block once, by any thread; end, which says whether anything was asked (`probe` may
 * be NULL). What `begin` takes from `scratch` is the caller's to rewind. */
ProbeRun probe_begin(Probe *probe, Arena *scratch);
void probe_add(const ProbeRun *run, const float *x, int64_t count);
bool probe_end(const ProbeRun *run);

/* All of it: a pass over x. `scratch` is left as it was found. */
void probe_over(Probe *probe, const float *x, int64_t count, Arena *scratch);

int64_t probe_scratch(const Probe *probe); /* bytes that probe_begin takes */

#endif
