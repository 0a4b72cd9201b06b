/* The step memory of a record (autograd/tape.h), known from its dry run and its plan. */
#ifndef NIBBLE_EXPERIMENTS_PLAN_RECORD_H
#define NIBBLE_EXPERIMENTS_PLAN_RECORD_H

#include "autograd/plan.h"

typedef struct RecordBytes {
    int64_t vars;    /* the record itself, and what ops note when they are recorded */
    int64_t block;   /* values and gradients, which share it */
    int64_t kept;    /* of it: values that live from forward to backward */
    int64_t scratch; /* the most that ops save and kernels take at one time */
    int64_t staged;  /* f32 copies of half precision, in an arena of their own */
} RecordBytes;

/* `plan` NULL: every value has memory of its own, and nothing goes back. */
RecordBytes record_bytes(const Tape *record, const Plan *plan);

/* Of the step arena, which all records of a tape share: all but `staged`. */
int64_t record_arena(const RecordBytes *bytes);

#endif
