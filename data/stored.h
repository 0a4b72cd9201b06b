/* Tensors of any dtype in an HDF5 file, as they are stored (docs/formats.md). */
#ifndef NIBBLE_DATA_STORED_H
#define NIBBLE_DATA_STORED_H

#include "core/tensor.h"
#include "data/h5.h"

/* An f32 tensor without scales is a data set of that name. Any other is a group: its dtype and
 * shape, its codes, and its plane of scales in the same way. Not for levels. */
void stored_write(H5Writer *writer, const char *name, const Tensor *tensor);
/* The same into the memory of a tensor of this dtype, shape and blocks; fails where the file's is
 * another. */
bool stored_read(const H5Reader *reader, const char *name, const Tensor *tensor, Error *err);

#endif
