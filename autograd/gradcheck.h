/* Backward against finite differences of forward, for any record of ops.
 *
 * The loss is sum_k w_k y_k over the values of an output, with fixed weights w of both signs and
 * magnitudes from 0.5 to 1.5, summed in double. Each checked element x of each leaf is moved to x +
 * h and x - h (h = 2^-8 times the leaf's root mean square), the record is replayed, and |backward -
 * (loss(x + h) - loss(x - h)) / 2h|  <=  tolerance where tolerance = 2e-3 of the larger of the two
 * + 5e-4 of the leaf's largest gradient + what f32 rounding of the outputs can cause (4 * 2^-24 |w
 * y|_2 / h). A derivative that is wrong by 1 % is caught; a kink or a tie within h of a value is
 * not supposed to be there. */
#ifndef NIBBLE_AUTOGRAD_GRADCHECK_H
#define NIBBLE_AUTOGRAD_GRADCHECK_H

#include "autograd/tape.h"

enum { GRADCHECK_ELEMENTS_MAX = 64 }; /* checked per leaf; of larger leaves, evenly spread ones */

/* Checks every leaf on `t` that has a gradient, from `out` (which may hold levels: its values
 * count). Records onto the tape and overwrites gradients. `t` must have had keeps_residuals and
 * needs_grad since tape_begin. On failure `err` names op, leaf, element and both numbers. */
bool gradcheck(Tape *t, Var *out, Error *err);

#endif
