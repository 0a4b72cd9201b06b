/* What add and mul share: `a` of any shape with `b` of the same shape, or of the shape of a's
 * trailing dimensions, which is then repeated over the leading ones. Seen as a [rows, columns] and
 * b [columns]. */
#ifndef NIBBLE_AUTOGRAD_OPS_BINARY_H
#define NIBBLE_AUTOGRAD_OPS_BINARY_H

#include "autograd/tape.h"

bool binary_infer(Var *v, Error *err);

/* db = beta db + the sum over rows of dy (of dy * a where `a` is given), in double, row by row. */
void binary_backward_b(const float *dy, const float *a, int64_t rows, int64_t columns, float beta,
                       float *db);

#endif
