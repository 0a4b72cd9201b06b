/* How a quantizer's grid is used by the values that it meets: which it clips, which codes it never
 * gives. */
#ifndef NIBBLE_EXPERIMENTS_TRAIN_CODE_USE_H
#define NIBBLE_EXPERIMENTS_TRAIN_CODE_USE_H

#include "qat/quantizer.h"

enum { CODES_MAX = 256 };

/* Zeros to begin with. */
typedef struct CodeUse {
    int64_t count, clipped; /* values; those more than 0.501 steps beyond the last level */
    bool is_used[CODES_MAX];
    int codes; /* of the grid; 0: no quantizer was met */
} CodeUse;

/* Adds what `q` made in the latest record, of which every value is kept (evaluate_kept). Of all
 * scales together. NULL, or one that the record did not use: nothing. */
void code_use_add(CodeUse *use, const Quant *q, const Tape *record);

double code_use_clipped(const CodeUse *use); /* the share; NAN: no quantizer */
int code_use_unused(const CodeUse *use);     /* codes that no value has; -1: no quantizer */

#endif
