/* Operands of products: from any tensor to plain f32, as values or as levels. */
#ifndef NIBBLE_CORE_KERNELS_OPERAND_H
#define NIBBLE_CORE_KERNELS_OPERAND_H

#include "core/arena.h"
#include "core/tensor.h"

/* Sums of products of integers below this are exact in f32, in any order. */
#define EXACT_SUM_LIMIT 16777216.0 /* 2^24 */

bool operand_is_plain(const Tensor *tensor); /* f32 values, usable where they lie */

/* The values of the whole tensor in f32: where they lie if that is so, else in scratch, of which
 * they take so many bytes. */
const float *operand_values(const Tensor *tensor, Arena *scratch);
int64_t operand_values_scratch(const Tensor *tensor);

/* Elements from `first` on as numbers for a kernel: levels where the tensor holds levels, else
 * values. */
void operand_read(const Tensor *tensor, int64_t first, int64_t count, float *numbers);
/* The same as values, whatever the tensor holds. */
void operand_read_values(const Tensor *tensor, int64_t first, int64_t count, float *values);
/* The same without a copy where the numbers lie as f32; else they are read into `buffer`. */
const float *operand_part(const Tensor *tensor, int64_t first, int64_t count, float *buffer);

/* What a kernel takes of a tensor, part by part: its levels, or the values that it means. */
typedef struct Operand {
    Tensor tensor;
    bool as_levels; /* of a tensor that holds levels */
} Operand;

bool operand_lies(const Operand *operand); /* its numbers lie in tensor.data as f32 */
void operand_copy(const Operand *operand, int64_t first, int64_t count, float *numbers);
/* Where they lie, else copied into `buffer`. */
const float *operand_at(const Operand *operand, int64_t first, int64_t count, float *buffer);

/* The way back, for f32, half precision and levels. `first` is a multiple of the codec's
 * write_step, and what is behind the last element in its byte is cleared: parts that several
 * threads write begin and end at such multiples. */
void operand_write(const float *numbers, int64_t first, int64_t count, const Tensor *tensor);

/* Whether rows of a matrix of codes begin with whole words of 32 bits, in memory that is aligned
 * so, and runs of a scale do. */
bool operand_in_words(const Tensor *tensor);

/* What each code of half a byte stands for before it is multiplied by its scale; false: the tensor
 * has none, or codes stand for other numbers under other scales. */
bool operand_entries(const Tensor *tensor, float entries[CODES_OF_NIBBLE]);

/* Largest magnitude that a level can have. */
double scales_level_max(const Scales *scales);

/* How many products of a level of `a` and one of `b` can be summed exactly in f32. */
int64_t exact_products(const Scales *a, const Scales *b);

#endif
