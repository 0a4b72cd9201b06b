/* What an optimizer keeps per element of a Param: f32, or codes of 8 bits in flat blocks of 256
 * with a scale each (Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization"). A code
 * numbers the entry of a dynamic map, signed or unsigned, that is nearest to element / scale; the
 * scale is the block's largest magnitude, in f32. One deviation from the paper: an element above 0
 * under the unsigned map never becomes 0, because an update divides by the root of it. */
#ifndef NIBBLE_OPTIM_STATE_H
#define NIBBLE_OPTIM_STATE_H

#include "core/tensor.h"

/* Below so many elements state stays f32, as in bitsandbytes. */
enum { STATE_CODED_MIN = 4096 };

/* A map with what encoding needs. */
typedef struct StateMap StateMap;
const StateMap *state_map_new(Arena *arena, bool is_unsigned);

/* Zeros: in codes of a map, or f32 (NULL). */
Tensor state_new(Arena *arena, Shape shape, const StateMap *map);
double state_coded_bytes_each(void); /* per element, of codes and scales */

/* Elements first .. first + count - 1, where `first` is a multiple of 256, and so is `count` unless
 * it ends the tensor. Reading gives the memory itself where it is f32, else decodes to `buffer`
 * [count]; writing takes what reading gave. Numbers must be finite to be read again. */
float *state_read(const Tensor *state, int64_t first, int64_t count, float *buffer);
void state_write(const Tensor *state, const StateMap *map, int64_t first, int64_t count,
                 const float *values);

#endif
