/* IDX, the format of MNIST (http://yann.lecun.com/exdb/mnist, "THE IDX FILE FORMAT"), plain or
 * gzip.
 *
 *     offset  bytes
 *     0       2      zero
 *     2       1      element type: 0x08, unsigned bytes, the only one accepted
 *     3       1      rank r, 1 to 4
 *     4       4 r    dimensions, big-endian
 *     4+4r    ...    their product of bytes, and nothing after them */
#ifndef NIBBLE_DATA_IDX_H
#define NIBBLE_DATA_IDX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/arena.h"
#include "core/error.h"

enum { IDX_RANK_MAX = 4 };

typedef struct IdxArray {
    int rank;
    int64_t dim[IDX_RANK_MAX];
    const unsigned char *values;
} IdxArray;

/* Of a file's bytes; `name` is for messages. The values live in `arena`. No more is allocated than
 * the bytes can hold. */
bool idx_decode(const char *name, const unsigned char *file, size_t bytes, Arena *arena,
                IdxArray *out, Error *err);
bool idx_read(const char *path, Arena *arena, IdxArray *out, Error *err);

#endif
