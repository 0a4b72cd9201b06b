/* Floating-point operations of a record: those of its products (Op.flops), two per multiply-add,
 * taps on padding included, as is the custom in the literature. What is elementwise counts as none.
 * Works on dry records too, so a plan needs no data. */
#ifndef NIBBLE_AUTOGRAD_FLOPS_H
#define NIBBLE_AUTOGRAD_FLOPS_H

#include "autograd/tape.h"

/* Of an op whose output is, element by element, a sum over all but the first dimension of its
 * weight, input 1: for its row. */
Flops flops_of_product(const Var *v);

/* One element per Var of the record, by Var.index; memory from `arena`. The gradient to an input
 * counts only where another product lies before: the first has nobody to tell; that to a weight
 * where it learns. */
Flops *flops_by_var(const Tape *t, Arena *arena);

/* Forward and backward of the whole record: what a training step cannot do without. */
double flops_of_step(const Tape *t);

#endif
