/* How much a convolution (core/conv.h) takes from its scratch arena, known before it runs: planes,
 * packed weights, offsets, sums. Decoded operands come on top (core/kernels/operand.h). */
#ifndef NIBBLE_CORE_CONV_SCRATCH_H
#define NIBBLE_CORE_CONV_SCRATCH_H

#include "core/conv.h"

/* What operands and results are kept as, by what it changes: what is not f32 is copied or rounded
 * image by image. */
typedef struct ConvOperands {
    bool x_is_f32, y_is_f32;   /* x as values or levels in f32; y */
    bool dx_is_f32, dy_is_f32; /* gradients */
} ConvOperands;

/* Bytes, with the present number of threads. */
int64_t conv_forward_scratch(const ConvGeometry *geometry, ConvOperands operands);
int64_t conv_backward_input_scratch(const ConvGeometry *geometry, ConvOperands operands);
int64_t conv_backward_weight_scratch(const ConvGeometry *geometry, ConvOperands operands);

#endif
