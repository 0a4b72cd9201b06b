/* A file's bytes. */
#ifndef NIBBLE_DATA_BYTES_H
#define NIBBLE_DATA_BYTES_H

#include <stdbool.h>
#include <stddef.h>

#include "core/arena.h"
#include "core/error.h"

typedef struct Bytes {
    const unsigned char *data;
    size_t count;
} Bytes;

/* A whole regular file into `arena`. ERROR_INPUT: it does not exist, is a directory or a pipe, or
 * may not be read; ERROR_SYSTEM: the device failed. */
bool bytes_read(const char *path, Arena *arena, Bytes *out, Error *err);

#endif
