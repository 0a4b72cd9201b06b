/* What ops that map each element on its own share (autograd/map.h): y = f(x), dx = f'(x) dy. */
#ifndef NIBBLE_AUTOGRAD_OPS_ELEMENTWISE_H
#define NIBBLE_AUTOGRAD_OPS_ELEMENTWISE_H

#include "autograd/map.h"

/* The map `name`_map, whose gradient flows as MapFlow says, of two kernels over a run of elements:
 * `name`_kernel(x, y, count), and `name`_gradient(x, y, dy, dx, count), which overwrites dx; either
 * of x and y = f(x) may serve, as the op's flags say. */
#define ELEMENTWISE_MAP(name, how)                                                                 \
    static void name##_forward(const Var *v, const MapBlock *b) {                                  \
        (void)v;                                                                                   \
        name##_kernel(b->in[0], b->out, b->count);                                                 \
    }                                                                                              \
    static void name##_backward(const Var *v, const MapBlock *b) {                                 \
        (void)v;                                                                                   \
        name##_gradient(b->in[0], b->out, b->dy, b->dx[0], b->count);                              \
    }                                                                                              \
    static const Map name##_map = {                                                                \
        .input_count = 1, .flow = how, .forward = name##_forward, .backward = name##_backward};

bool elementwise_infer(Var *v, Error *err); /* the shape of input 0 */

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
