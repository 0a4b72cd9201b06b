/* How much a convolution (core/conv.h) takes from its scratch arena, known before it runs: planes,
 * packed weights, offsets, sums, decoded operands. */
#ifndef NIBBLE_CORE_CONV_SCRATCH_H
#define NIBBLE_CORE_CONV_SCRATCH_H

#include "core/conv.h"

/* Bytes, with the present number of threads, of tensors that need no data: to the byte where no
 * operand holds levels, else at most a little more than is taken. */
int64_t conv_forward_scratch(const ConvGeometry *geometry, const Tensor *x, const Tensor *w,
                             const Tensor *y);
int64_t conv_backward_input_scratch(const ConvGeometry *geometry, const Tensor *dy, const Tensor *w,
                                    const Tensor *dx);
int64_t conv_backward_weight_scratch(const ConvGeometry *geometry, const Tensor *x,
                                     const Tensor *dy);

#endif
