/* The part of the HDF5 format that nibble writes, for data/h5_*.c: numbers and types as they lie in
 * a file, and what a name may be.
 *
 * HDF5 File Format Specification 3.0. Of it: superblock 2 and 3; object headers 2 with the messages
 * of h5_tree.c; links in them or in a fractal heap under a B-tree 2 (h5_dense.c), as libhdf5 stores
 * more than eight; contiguous data without filters; offsets and lengths of 8 bytes, little-endian.
 * No object holds a time. Written are superblock 2 and links in headers alone. */
#ifndef NIBBLE_DATA_H5_FORMAT_H
#define NIBBLE_DATA_H5_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "data/h5.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "elements are copied as they are");

#define H5_SIGNATURE "\x89HDF\r\n\x1a\n"
#define H5_UNDEFINED UINT64_MAX /* an address: nowhere */

enum {
    H5_NAME_BYTES_MAX = 1024, /* of a path, with its end */
    H5_DEPTH_MAX = 16,        /* of a path: components */
    H5_SIGNATURE_BYTES = 8,
    H5_SUPERBLOCK_BYTES = 48,
    H5_CHECKSUM_BYTES = 4,
    H5_TYPE_BYTES_MAX = 20,
    H5_TEXT_TYPE_BYTES = 8,
};

enum { H5_CLASS_TEXT = 3, H5_CLASS_BITS = 15 }; /* of a type's first byte; above: its version */

/* Messages of object headers. */
enum {
    H5_MESSAGE_NONE = 0x00,
    H5_MESSAGE_SPACE = 0x01,
    H5_MESSAGE_LINK_INFO = 0x02,
    H5_MESSAGE_TYPE = 0x03,
    H5_MESSAGE_FILL = 0x05,
    H5_MESSAGE_LINK = 0x06,
    H5_MESSAGE_LAYOUT = 0x08,
    H5_MESSAGE_GROUP_INFO = 0x0A,
    H5_MESSAGE_ATTRIBUTE = 0x0C,
    H5_MESSAGE_CONTINUATION = 0x10,
    H5_MESSAGE_ATTRIBUTE_INFO = 0x15,
    H5_MESSAGE_COUNT = 0x16,
};

static inline uint64_t h5_get(const unsigned char *from, int bytes) {
    uint64_t value = 0;
    for (int i = bytes - 1; i >= 0; i--) value = value << 8 | from[i];
    return value;
}

static inline void h5_put(unsigned char *to, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) to[i] = (unsigned char)(value >> 8 * i);
}

/* Of all metadata: lookup3 of Bob Jenkins (hashlittle, 2006), from 0. */
uint32_t h5_checksum(const unsigned char *bytes, size_t count);
/* Whether it is what is stored there; while fuzzing it is, so that what lies behind is reached. */
bool h5_checksum_fits(const unsigned char *stored, const unsigned char *bytes, size_t count);

/* A type as a message has it; how many bytes it takes. */
size_t h5_type_encode(H5Element element, unsigned char out[H5_TYPE_BYTES_MAX]);
size_t h5_text_type_encode(size_t text_bytes, unsigned char out[H5_TYPE_BYTES_MAX]);
/* False: none of ours. Versions 1 to 3 are the same for these. */
bool h5_type_decode(const unsigned char *type, size_t count, H5Element *out);

/* Components without "." and without empty ones. `path` is the file's, for the message. */
bool h5_name_check(const char *path, const char *name, Error *err);
/* Copies `name` up to and with the component that starts at *used; false at the end. */
bool h5_next_component(const char *name, size_t *used, char prefix[H5_NAME_BYTES_MAX]);

#endif
