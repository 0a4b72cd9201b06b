/* What ops that map each element on its own share: y = f(x), dx = f'(x) dy.
 *
 * An op gives two kernels over a run of elements; the runs, the threads and the sum of gradients
 * are here. Elements do not depend on each other, so that no split of the work changes a bit. */
#ifndef NIBBLE_AUTOGRAD_OPS_ELEMENTWISE_H
#define NIBBLE_AUTOGRAD_OPS_ELEMENTWISE_H

#include "autograd/tape.h"

enum {
    ELEMENTWISE_RUN = 4096, /* elements a kernel gets at most: the operands stay in L1 and L2 */
};

typedef void ElementwiseKernel(const float *x, float *y, int64_t count);
/* dx = f'(x) dy, overwriting; either of x and y = f(x) may serve. */
typedef void ElementwiseGradient(const float *x, const float *y, const float *dy, float *dx,
                                 int64_t count);

bool elementwise_infer(Var *v, Error *err); /* the shape of input 0 */
void elementwise_forward(Var *v, ElementwiseKernel *kernel);
void elementwise_backward(Tape *t, Var *v, ElementwiseGradient *gradient);

/* out = x + beta out (beta 0 or 1): hands a gradient on as it is. */
void elementwise_add(const float *x, float beta, float *out, int64_t count);

/* A leaf of both signs whose values keep at least `clear` from 0, and below 1 + clear. */
Var *elementwise_sample(Tape *t, Shape shape, float clear);

/* How a gradient joins what is there: nothing (beta 0; the old bits are undefined) or a sum. Where
 * tape_grad set `beta` in the same function, parallel loops take it as firstprivate: shared, its
 * address is known to others, and no compiler vectorises the loop. */
static inline float gradient_join(float beta, float old, float more) {
    return beta == 0 ? more : old + more;
}

#endif
