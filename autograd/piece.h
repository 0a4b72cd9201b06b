/* Pieces of values: what maps work on at a time (autograd/map.h), a rectangle of the value as a
 * matrix [rows][channels], channels last.
 *
 * Of images and parameters, and where there are few channels, a piece is whole rows, one behind the
 * other in memory; of other matrices it is a tile, as products make them (core/gemm.h). Which, and
 * how large, depends on the value's shape and on whether it is made of parameters, so that sums by
 * piece have the same bits whatever drives them. */
#ifndef NIBBLE_AUTOGRAD_PIECE_H
#define NIBBLE_AUTOGRAD_PIECE_H

#include "autograd/tape.h"

/* How a value is cut. */
typedef struct Pieces {
    int64_t rows, channels;     /* of the value */
    int64_t most_rows, columns; /* of a piece; the last ones may have fewer */
    int64_t across, count;      /* pieces side by side, and in all */
    bool are_tiles;             /* of GEMM_BLOCK rows and columns, in the order of rows */
} Pieces;

typedef struct Piece {
    int64_t index;
    int64_t first;         /* element of the value: the piece's first */
    int64_t rows, columns; /* the elements, dense: [rows][columns] */
    int64_t channel;       /* of the first column */
    int64_t stride;        /* channels of the value: from one row to the next */
} Piece;

Pieces pieces_of(const Var *v);
Pieces pieces_in_rows(const Var *v); /* never tiles: where no bit depends on how the value is cut */
int64_t pieces_elements(const Pieces *pieces); /* of the largest piece */
Piece piece_at(const Pieces *pieces, int64_t index);

static inline int64_t piece_count(const Piece *piece) {
    return piece->rows * piece->columns;
}

/* Elements that lie one behind the other in the value: the piece is one such run, or one a row. */
static inline int64_t piece_run(const Piece *piece) {
    return piece->columns == piece->stride ? piece_count(piece) : piece->columns;
}

/* The piece's numbers (levels where x holds levels), dense: where they lie, or in `buffer`. */
const float *piece_read(const Piece *piece, const Tensor *x, float *buffer);
/* The way back, for f32, half precision, and levels under one scale as bytes and nibbles. */
void piece_write(const Piece *piece, const float *numbers, const Tensor *y);

#endif
