/* Half precision on a tape: tensors are kept in it, and ops that know only f32 get copies of what
 * they read; what they write is rounded when they are done. For the tape alone. */
#ifndef NIBBLE_AUTOGRAD_HALF_H
#define NIBBLE_AUTOGRAD_HALF_H

#include "autograd/tape.h"

/* What the Vars that an op works on hold while it has copies. */
typedef struct HalfStage {
    Tensor in[OP_INPUTS_MAX], own; /* own: forward its value, backward its gradient */
    Tensor value;                  /* backward */
} HalfStage;

bool half_is(Dtype dtype); /* f16 or bf16 */

/* Around v's forward. */
void half_forward_begin(Tape *t, Var *v, HalfStage *stage);
void half_forward_end(Tape *t, Var *v, const HalfStage *stage);

/* Around v's backward; ops with OP_READS_HALF get no copies. */
void half_backward_begin(Tape *t, Var *v, HalfStage *stage);
void half_backward_end(Tape *t, Var *v, const HalfStage *stage);

/* An f32 copy of v's gradient, which is rounded and kept when the op at work is done; `has_sum`:
 * there is something to add to. */
float *half_gradient(Tape *t, Var *v, bool has_sum);

#endif
