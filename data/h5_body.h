/* The bytes of a file while its metadata are read: every access is checked here.
 *
 * In a file as nibble writes it no two objects share a byte. So what is taken in all must not
 * exceed what the file has, and time and memory are bounded by its size, whatever points where. */
#ifndef NIBBLE_DATA_H5_BODY_H
#define NIBBLE_DATA_H5_BODY_H

#include "data/h5_format.h"

typedef struct H5Body {
    const char *path; /* for messages */
    const unsigned char *bytes;
    size_t count;
    size_t left; /* bytes that may still be taken */
    Arena *arena;
    Error *err;
    char place[H5_NAME_BYTES_MAX]; /* the object being read, for messages */
} H5Body;

/* ERROR_INPUT: "PATH: damaged: PLACE: what". */
bool h5_body_refuse(const H5Body *body, const char *what);
/* `count` bytes at an address; NULL: the file has none there, or has given all it had. */
const unsigned char *h5_body_take(H5Body *body, uint64_t address, uint64_t count);
/* The same of a block that begins with a signature of four letters, and ends with a checksum. */
const unsigned char *h5_body_block(H5Body *body, uint64_t address, uint64_t count,
                                   const char *signature);

/* What is left of a message. */
typedef struct H5Span {
    const unsigned char *at;
    size_t left;
    bool is_short; /* more was asked for than there was */
} H5Span;

const unsigned char *h5_span_skip(H5Span *span, size_t count); /* NULL: too short */
uint64_t h5_span_get(H5Span *span, int bytes);                 /* 0 where it is too short */

/* ---- Dense storage: more than eight links or attributes (h5_dense.c) ---- */

/* Their encoded messages, in any order. */
typedef struct H5Dense {
    H5Span *messages;
    int64_t count;
} H5Dense;

typedef enum H5DenseKind { H5_DENSE_LINKS = 5, H5_DENSE_ATTRIBUTES = 8 } H5DenseKind;

/* `heap` and `tree` are addresses; H5_UNDEFINED: there are none. */
bool h5_dense_read(H5Body *body, uint64_t heap, uint64_t tree, H5DenseKind kind, H5Dense *out);

#endif
