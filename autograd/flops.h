/* Floating-point operations of a record: those of its products (linear, conv2d), two per
 * multiply-add, taps on padding included, as is the custom in the literature. What is elementwise
 * counts as none. Works on dry records too, so a plan needs no data. */
#ifndef NIBBLE_AUTOGRAD_FLOPS_H
#define NIBBLE_AUTOGRAD_FLOPS_H

#include "autograd/tape.h"

typedef struct Flops {
    double forward;
    double input_grad;  /* only where another product lies before: the first has nobody to tell */
    double weight_grad; /* only where the weight learns */
} Flops;

/* One element per Var of the record, by Var.index; memory from `arena`. */
Flops *flops_by_var(const Tape *t, Arena *arena);

/* Forward and backward of the whole record: what a training step cannot do without. */
double flops_of_step(const Tape *t);

#endif
