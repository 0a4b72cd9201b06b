/* Looks: what an observer asks of values, the least and the greatest and a histogram, found by
 * whoever writes them, block by block while they are in cache, or by a pass of its own. The same
 * answer either way, for any number of threads: extremes and counts know no order. */
#ifndef NIBBLE_CORE_LOOK_H
#define NIBBLE_CORE_LOOK_H

#include <stdint.h>

#include "core/arena.h"

enum { LOOK_BINS = 4096 };

typedef struct Look {
    /* The question. */
    uint32_t *counts; /* [LOOK_BINS], or NULL: no histogram */
    float limit;      /* bins are equal and cover [-limit, limit], the outer two what lies beyond;
                         a power of two, or 0: no histogram this time */
    /* The answer, and in counts. */
    float low, high; /* 0 among the values; NaNs are passed over */
} Look;

/* A look at work. */
typedef struct LookRun {
    Look *look;             /* NULL: nothing is asked, and every call is nothing */
    struct LookPart *parts; /* [thread] */
} LookRun;

/* Begin; every block once, by any thread; end, which says whether anything was asked (`look` may be
 * NULL). What `begin` takes from `scratch` is the caller's to rewind. */
LookRun look_begin(Look *look, Arena *scratch);
void look_add(const LookRun *run, const float *x, int64_t count);
bool look_end(const LookRun *run);

/* All of it: a pass over x. `scratch` is left as it was found. */
void look_over(Look *look, const float *x, int64_t count, Arena *scratch);

int64_t look_scratch(const Look *look); /* bytes that look_begin takes */

#endif
