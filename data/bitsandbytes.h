/* Weights as bitsandbytes saves them in 4 bits: beside the codes of `NAME`, U8 [bytes, 1] with the
 * first of two in the high half, lie in the same file
 *
 *     NAME.quant_state.bitsandbytes__nf4  U8: JSON, {"quant_type", "blocksize", "shape", ...}
 *     NAME.absmax                         the scales, F32; or U8 where they are quantized again:
 *     NAME.nested_absmax                  F32, a scale for each block of scales
 *     NAME.quant_map, NAME.nested_quant_map   the codebooks
 *
 * What is read is a tensor of ours that decodes to the same bits. */
#ifndef NIBBLE_DATA_BITSANDBYTES_H
#define NIBBLE_DATA_BITSANDBYTES_H

#include "data/safetensors.h"

/* Whether the weight of that name is stored so. */
bool bitsandbytes_has(const SafeTensors *files, const char *name);

/* Into `arena`. ERROR_INPUT: another codebook, sizes that do not fit, numbers that are not finite;
 * the file and the tensor are named. */
bool bitsandbytes_read(const SafeTensors *files, const char *name, Arena *arena, Tensor *out,
                       Error *err);

#endif
