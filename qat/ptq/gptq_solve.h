/* GPTQ of one matrix (Frantar et al. 2022): weights are rounded column by column, and what rounding
 * a column does to the layer's output is made good in the columns that follow. With U from (H +
 * damping mean(diag H) I)^-1 = U^T U (qat/ptq/hessian.h), for column i q = Q(w_i)        e = (w_i -
 * q) / U_ii        w_j -= e U_ij for j > i Corrections of a block of columns reach the columns
 * behind it when the block is done.
 *
 * As in the published code: a scale per row comes from the weights as given; a column whose input
 * never differs from 0 (dead) counts as H = 1 and becomes 0; a group's scale comes from weights
 * that only finished blocks have corrected; `act_order` takes columns by falling diagonal of H, and
 * groups then have their scales beforehand, because they are stored in the order of the weight.
 * Arithmetic is in double; weights are rounded by quantize_levels, under scales as they are stored.
 */
#ifndef NIBBLE_QAT_PTQ_GPTQ_SOLVE_H
#define NIBBLE_QAT_PTQ_GPTQ_SOLVE_H

#include "core/arena.h"
#include "core/dtype.h"
#include "core/error.h"

typedef struct GptqSettings {
    int64_t block;      /* columns */
    double damping;     /* at first; ten times that after each failure, up to 1 */
    bool act_order;     /* columns by falling diagonal */
    bool static_groups; /* groups' scales from weights that nothing has corrected */
} GptqSettings;

/* The scales, and the offsets in value units where they are not NULL, of `rows` runs of `length`
 * values each; where there is nothing to see in a run they stay as they are, 0 at first. Not called
 * within a parallel region. */
typedef void (*GptqFit)(void *context, const float *x, int64_t rows, int64_t length, float *scale,
                        float *offset);

typedef struct GptqProblem {
    int64_t rows, columns;
    const float *weight;   /* [rows, columns] */
    const double *hessian; /* [columns, columns] */
    Grid grid;
    Dtype scale_dtype;
    int64_t run; /* columns under one scale: `columns`, or a group's */
    GptqFit fit; /* NULL: the solution's scale and offset are given, a row's or a group's */
    void *context;
    GptqSettings settings;
} GptqProblem;

typedef struct GptqSolution {
    float *values;         /* [rows, columns]: scale times level */
    float *scale, *offset; /* [rows, ceil(columns / run)], not rounded; offset NULL: symmetric */
    double damping;        /* that the factorization took */
    int64_t dead;          /* columns */
    /* Sum of squares of what the output loses, over the calibration inputs and by H's measure:
     * tr(D H D^T) of the change D of the weights. `nearest`: under the scales of the weights as
     * given, each rounded by itself; `energy`: of the weights themselves. */
    double error, nearest, energy;
} GptqSolution;

/* Fills the solution, whose arrays are the caller's. Fails on weights or a Hessian that are not
 * finite, and where no damping gives a factor. Scratch memory from `arena`, which is left as it was
 * found. The same bits for any number of threads. Not within a parallel region. */
bool gptq_solve(const GptqProblem *problem, GptqSolution *solution, Arena *arena, Error *err);

/* The bytes of `arena` that gptq_solve takes at most. */
int64_t gptq_solve_bytes(int64_t rows, int64_t columns, int64_t run, int64_t block);

#endif
