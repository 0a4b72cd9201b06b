/* What mean and sum share: y = factor * the sum over one axis, or over everything (axis -1).
 *
 * Sums run in double; a sum over everything is cut into runs of a fixed length whose results are
 * added in order, so that the bits do not depend on the number of threads. */
#ifndef NIBBLE_AUTOGRAD_OPS_REDUCE_H
#define NIBBLE_AUTOGRAD_OPS_REDUCE_H

#include "autograd/tape.h"

/* The attribute of both ops is the axis, an int. */
bool reduce_infer(Var *v, Error *err);
void reduce_forward(Tape *t, Var *v, bool is_mean);
int64_t reduce_forward_scratch(const Var *v); /* bytes of the tape's arena */
void reduce_backward(Tape *t, Var *v, bool is_mean);

/* The sum of f(x_i, y_i) in fixed runs; for losses. `sum_run` sums one run; y may be NULL. */
typedef double ReduceRun(const float *x, const float *y, int64_t count);
double reduce_runs(Tape *t, ReduceRun *sum_run, const float *x, const float *y, int64_t count);
int64_t reduce_runs_scratch(int64_t count); /* bytes of the tape's arena */

#endif
