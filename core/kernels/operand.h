/* Operands of products: from any tensor to plain f32, as values or as levels. */
#ifndef NIBBLE_CORE_KERNELS_OPERAND_H
#define NIBBLE_CORE_KERNELS_OPERAND_H

#include "core/arena.h"
#include "core/tensor.h"

/* Sums of products of integers below this are exact in f32, in any order. */
#define EXACT_SUM_LIMIT 16777216.0 /* 2^24 */

bool operand_is_plain(const Tensor *tensor); /* f32 values, usable where they lie */

/* The whole tensor in f32: where it lies if it can be used so, else in scratch. */
const float *operand_values(const Tensor *tensor, Arena *scratch);
const float *operand_levels(const Tensor *tensor, Arena *scratch);

/* Elements from `first` on as numbers for a kernel: levels where the tensor holds levels, else
 * values. */
void operand_read(const Tensor *tensor, int64_t first, int64_t count, float *numbers);
/* The same as values, whatever the tensor holds. */
void operand_read_values(const Tensor *tensor, int64_t first, int64_t count, float *values);
/* The same without a copy where the numbers lie as f32; else they are read into `buffer`. */
const float *operand_part(const Tensor *tensor, int64_t first, int64_t count, float *buffer);

/* The same tensor in a form that operand_read takes from anywhere: as it is, or decoded whole into
 * scratch. `as_levels`: levels are wanted, not values. */
Tensor operand_numbers(const Tensor *tensor, bool as_levels, Arena *scratch);

/* Bytes that these three take from `scratch`; of tensors that need no data. */
int64_t operand_values_scratch(const Tensor *tensor);
int64_t operand_levels_scratch(const Tensor *tensor);
int64_t operand_numbers_scratch(const Tensor *tensor, bool as_levels);

/* The way back, for f32, half precision, and (levels) byte and nibble tensors. Of nibbles, `first`
 * is even, and an odd count clears the half byte behind it: parts that several threads write begin
 * at even elements. */
void operand_write(const float *numbers, int64_t first, int64_t count, const Tensor *tensor);

/* Largest magnitude that a level can have. */
double scales_level_max(const Scales *scales);

/* How many products of a level of `a` and one of `b` can be summed exactly in f32. */
int64_t exact_products(const Scales *a, const Scales *b);

#endif
