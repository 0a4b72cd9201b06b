/* Rounding down or up as something that can be learned (Nagel et al. 2020, Up or Down? Adaptive
 * Rounding for Post-Training Quantization, equations 22 to 25). Of a weight w under scale s, with
 * the level d below it (or at it):
 *
 *     level = clip(d + step h(V), lowest, highest)     h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1)
 *     penalty = sum 1 - |2 h - 1|^beta
 *
 * V starts where level = w / s. The penalty pulls h to 0 or 1, more of it the smaller beta is. */
#ifndef NIBBLE_QAT_PTQ_SOFT_ROUNDING_H
#define NIBBLE_QAT_PTQ_SOFT_ROUNDING_H

#include "core/arena.h"
#include "core/tensor.h"

typedef struct SoftRounding {
    int64_t count;
    const Scales *scales;
    float *down;    /* d, without the zero point's limits */
    float *v;       /* V */
    float *momenta; /* Adam's first and second, [2][count] */
    int64_t steps;  /* of Adam so far */
} SoftRounding;

/* Of `weight` [count]; memory of `arena`, the weight is not kept. `scales` must live as long. */
SoftRounding soft_rounding_new(const float *weight, int64_t count, const Scales *scales,
                               Arena *arena);

/* The values that the soft levels have, [count]. */
void soft_rounding_values(const SoftRounding *s, float *values);
/* Levels with h rounded: what is left when learning ends. */
void soft_rounding_levels(const SoftRounding *s, float *levels);
double soft_rounding_penalty(const SoftRounding *s, double beta);

/* From the gradient to the values, in place: dv = dvalue scale dlevel/dV + weight dpenalty/dV. */
void soft_rounding_gradient(const SoftRounding *s, double weight, double beta, float *gradient);
/* A step of Adam (beta 0.9 and 0.999, epsilon 1e-8). */
void soft_rounding_step(SoftRounding *s, const float *gradient, double rate);

#endif
