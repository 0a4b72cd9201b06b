/* Tensors of any dtype in an HDF5 file, as they are stored (docs/formats.md). */
#ifndef NIBBLE_DATA_STORED_H
#define NIBBLE_DATA_STORED_H

#include "core/tensor.h"
#include "data/h5.h"

/* An f32 tensor of this shape, all of whose numbers are finite and at least `least` (-FLT_MAX: any
 * finite ones); the error names the file, the tensor and the number. */
bool stored_read_floats(const H5Reader *reader, const char *name, Shape shape, float least,
                        float *values, Error *err);

/* An f32 tensor without scales is a data set of that name. Any other is a group: its dtype and
 * shape, its codes, and its plane of scales in the same way. Not for levels. */
void stored_write(H5Writer *writer, const char *name, const Tensor *tensor);
/* The same into the memory of a tensor of this dtype, shape and blocks; fails where the file's is
 * another, where a number or an offset is not finite, and where a scale is not or is below 0. */
bool stored_read(const H5Reader *reader, const char *name, const Tensor *tensor, Error *err);
/* The same into a new tensor in `arena`, of the dtype, shape and blocks that the file says. */
bool stored_read_new(const H5Reader *reader, const char *name, Arena *arena, Tensor *out,
                     Error *err);

#endif
