/* The factors of a product (core/gemm.c), some of their numbers at a time, in f32 as its kernel
 * reads them: rows that it broadcasts, and a panel that it reads as vectors. */
#ifndef NIBBLE_CORE_GEMM_FACTOR_H
#define NIBBLE_CORE_GEMM_FACTOR_H

#include "core/gemm.h"
#include "core/kernels/isa.h"
#include "core/kernels/operand.h"

/* Numbers of k: all of them, or some that are multiplied while they are in cache. */
typedef struct Slice {
    int64_t first, depth;
} Slice;

/* Made together of [k][outer], so that pieces of its rows are long. */
enum { PANELS_FEW = 4, PANELS_MAX = 8 /* where each piece is decoded apart, which takes a call */ };

/* A factor as the product sees it: `outer` rows of op(a), or columns of op(b), of k numbers. */
typedef struct Factor {
    Operand operand;
    Scales scales;         /* the operand's; see factor_ready_scales */
    int64_t outer, stride; /* between stored rows */
    bool is_k_last;        /* stored [outer][k], else [k][outer] */
    bool is_panel;         /* else rows */
    bool is_in_place;      /* read where it lies */
    bool in_panels;        /* it lies in panels, and is one: has_entries, has_halves, or f32 */
    bool is_coded;         /* codes are multiplied as they lie: of a panel its scales are made */
    /* What is made at a time: blocks of PANEL rows or columns, and numbers of k. */
    int64_t blocks, depth;
    /* Of codes of half a byte that are multiplied as values: what each stands for, before it is
     * multiplied by its scale. */
    bool has_entries, has_halves; /* halves: numbers of 16 bits */
    float entries[CODES_OF_NIBBLE];
} Factor;

/* Numbers of a slice: rows [outer][stride], or a panel [depth][stride], PANEL or LANES of them,
 * that holds zeros past the last column. */
typedef struct Tile {
    const float *at;
    int64_t stride;
} Tile;

/* Without what is made at a time. */
Factor factor_of(const Matrix *matrix, bool as_levels, bool is_k_last, bool is_panel);
int64_t factor_panels(const Factor *factor);    /* of [k][outer], made together at most */
bool factor_can_be_coded(const Factor *factor); /* whether is_coded may be set */

/* Where values are multiplied, are not coded, and their scales lie in another form than f32:
 * decodes these, all at once, into `scratch`. */
void factor_ready_scales(Factor *factor, Arena *scratch);
int64_t factor_scales_scratch(const Factor *factor);

int64_t factor_made_floats(const Factor *factor); /* 0: it is read in place */
/* A slice of at most factor.blocks blocks from `index` on, into `made`. */
void factor_make(const Factor *factor, int64_t index, int64_t blocks, Slice slice, float *made);
/* Of this slice the block `index`: in place, or the block `nth` of what was made from `from` on. */
Tile factor_tile(const Factor *factor, int64_t index, Slice slice, const float *made, int64_t nth,
                 int64_t from);

/* The sums of a job with coded panels, `blocks` of them from `index` on: one, or any where they lie
 * so. Its rows and sums are set. `made`: the tile of the one. */
void factor_multiply(const Factor *factor, int64_t index, int64_t blocks, Tile made, CodedJob *job);

#endif
