/* Another program's HDF5 file, read by libhdf5 (1.10.8), which is not safe on bytes that nobody
 * checked: such a file can crash or stall the process. Only for one that may die (data/sandbox.h).
 *
 * Chunks and the filters deflate, shuffle, fletcher32 are accepted; external storage, virtual data
 * sets, soft and external links, and plugins are not. Names are as in data/h5.h. Where memory
 * failed, nobody knows what a file holds: ERROR_SYSTEM; else ERROR_INPUT.
 *
 * libhdf5 is not thread-safe: call from one thread at a time. */
#ifndef NIBBLE_DATA_H5_FOREIGN_H
#define NIBBLE_DATA_H5_FOREIGN_H

#include "data/h5.h"

typedef struct H5Foreign H5Foreign;

/* The bytes of a file; `path` is for messages alone. NULL: no HDF5 file, or damaged. Both must
 * outlive it. Ends with h5_foreign_close. */
H5Foreign *h5_foreign_open(const char *path, const void *bytes, size_t count, Arena *arena,
                           Error *err);
void h5_foreign_close(H5Foreign *file); /* accepts NULL */

/* A tensor's element is what it becomes in memory: floats of 16 bits are read as f32. Another type,
 * rank or storage is an error that names the object and what was found. */
bool h5_foreign_info(const H5Foreign *file, const char *name, H5Info *info, Error *err);
/* Of a tensor of rank at least 1: how many rows lie in one row of chunks; 1 where there are none.
 * Who reads so many at a time, from a multiple of it on, inflates each chunk once. Chunks that hold
 * far more than the tensor, or that are too large, are refused. */
bool h5_foreign_chunk_rows(const H5Foreign *file, const char *name, int64_t *rows, Error *err);
/* Rows first .. first + count - 1 along the first dimension of a tensor of rank at least 1. */
bool h5_foreign_rows(const H5Foreign *file, const char *name, int64_t first, int64_t count,
                     void *data, Error *err);
/* The strings of a data set, or else of an attribute of the file, of fixed or variable length and
 * any padding, [count], allocated in `arena`. count -1: there is neither. Something else of that
 * name is an error that says what was found. */
bool h5_foreign_strings(const H5Foreign *file, const char *name, Arena *arena,
                        const char ***strings, int64_t *count, Error *err);

#endif
