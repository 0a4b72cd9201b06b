#include "autograd/piece.h"

#include <assert.h>
#include <string.h>

#include "core/counts.h"
#include "core/gemm.h"
#include "core/kernels/operand.h"

enum {
    /* Of whole rows: a value that fits the first cache with a few others; two rows of an image may
     * have twice as many. */
    RUN_ELEMENTS = 2048,
    TILE_BYTES = GEMM_BLOCK * GEMM_BLOCK * 2 /* of a tile in half precision, or in codes */
};

/* Of images, where that makes pieces of a good size, an even number of rows that divides the
 * height, so that the windows of a pooling by two do not cross pieces; else 0. */
static int64_t image_rows(Shape shape) {
    if (shape.rank != 4 || shape.dim[1] % 2) return 0;
    int64_t row = shape.dim[2] * shape.dim[3], best = 0;
    for (int64_t rows = 2; rows <= shape.dim[1] && rows * row <= RUN_ELEMENTS; rows += 2)
        if (shape.dim[1] % rows == 0) best = rows;
    if (!best && row <= RUN_ELEMENTS) best = 2;
    return best * row >= RUN_ELEMENTS / 2 ? best : 0;
}

static int64_t rows_together(Shape shape) {
    int64_t of_image = image_rows(shape), channels = shape_last(shape);
    if (of_image) return of_image * shape.dim[2];
    return channels < RUN_ELEMENTS ? RUN_ELEMENTS / channels : 1;
}

static Pieces pieces_new(Shape shape, bool are_tiles) {
    Pieces p = {.rows = shape_rows(shape), .channels = shape_last(shape), .are_tiles = are_tiles};
    p.most_rows = are_tiles ? GEMM_BLOCK : rows_together(shape);
    p.columns = are_tiles ? GEMM_BLOCK : p.channels;
    p.across = count_pieces(p.channels, p.columns);
    p.count = count_pieces(p.rows, p.most_rows) * p.across;
    return p;
}

Pieces pieces_of(const Var *v) {
    Shape shape = v->value.shape;
    return pieces_new(shape,
                      shape.rank != 4 && !v->is_parameter && shape_last(shape) >= GEMM_BLOCK);
}

Pieces pieces_in_rows(const Var *v) {
    return pieces_new(v->value.shape, false);
}

int64_t pieces_elements(const Pieces *pieces) {
    return pieces->most_rows * pieces->columns;
}

Piece piece_at(const Pieces *p, int64_t index) {
    int64_t row = index / p->across * p->most_rows, column = index % p->across * p->columns;
    return (Piece){.index = index,
                   .first = row * p->channels + column,
                   .rows = count_least(p->most_rows, p->rows - row),
                   .columns = count_least(p->columns, p->channels - column),
                   .channel = column,
                   .stride = p->channels};
}

/* Bits of an element where rows of a tile are whole bytes, which can be copied; else 0. */
static int64_t bits_of(const Piece *piece, const Tensor *x) {
    if (x->layout != LAYOUT_ROWS) return 0;
    if (x->dtype == DTYPE_F32) return 32;
    if (x->scales && !tensor_has_one_scale(x)) return 0;
    int64_t bits = dtype_codec(x->dtype)->code_bits;
    bool is_whole = piece->stride * bits % 8 == 0 && piece->columns * bits % 8 == 0;
    return is_whole && piece->first * bits % 8 == 0 ? bits : 0;
}

static inline __attribute__((always_inline)) void rows_move(const char *from, int64_t from_stride,
                                                            char *to, int64_t to_stride,
                                                            int64_t rows, size_t bytes) {
    for (int64_t i = 0; i < rows; i++) memcpy(to + i * to_stride, from + i * from_stride, bytes);
}

/* A whole tile's rows have one of four lengths, for which no call is needed. */
static void rows_copy(const char *from, int64_t from_stride, char *to, int64_t to_stride,
                      int64_t rows, int64_t bytes) {
    switch (bytes) {
    case GEMM_BLOCK * 4:
        rows_move(from, from_stride, to, to_stride, rows, GEMM_BLOCK * 4);
        break;
    case GEMM_BLOCK * 2:
        rows_move(from, from_stride, to, to_stride, rows, GEMM_BLOCK * 2);
        break;
    case GEMM_BLOCK:
        rows_move(from, from_stride, to, to_stride, rows, GEMM_BLOCK);
        break;
    case GEMM_BLOCK / 2:
        rows_move(from, from_stride, to, to_stride, rows, GEMM_BLOCK / 2);
        break;
    default:
        rows_move(from, from_stride, to, to_stride, rows, (size_t)bytes);
    }
}

/* Rows of a tile side by side, as a tensor of their own. */
static Tensor tile_tensor(const Piece *piece, const Tensor *x, unsigned char *codes) {
    assert(piece_count(piece) <= GEMM_BLOCK * GEMM_BLOCK);
    return (Tensor){
        .dtype = x->dtype, .shape = SHAPE(piece_count(piece)), .data = codes, .scales = x->scales};
}

static void tile_read(const Piece *piece, const Tensor *x, float *to) {
    unsigned char codes[TILE_BYTES];
    int64_t bits = bits_of(piece, x);
    int64_t bytes = piece->columns * bits / 8, stride = piece->stride * bits / 8;
    const char *from = (const char *)x->data + piece->first * bits / 8;
    if (bits && x->dtype == DTYPE_F32) {
        rows_copy(from, stride, (char *)to, bytes, piece->rows, bytes);
    } else if (bits) {
        Tensor tile = tile_tensor(piece, x, codes);
        rows_copy(from, stride, (char *)codes, bytes, piece->rows, bytes);
        operand_read(&tile, 0, piece_count(piece), to);
    } else {
        for (int64_t i = 0; i < piece->rows; i++)
            operand_read(x, piece->first + i * piece->stride, piece->columns,
                         to + i * piece->columns);
    }
}

static void tile_write(const Piece *piece, const float *from, const Tensor *y) {
    unsigned char codes[TILE_BYTES];
    int64_t bits = bits_of(piece, y);
    int64_t bytes = piece->columns * bits / 8, stride = piece->stride * bits / 8;
    char *to = (char *)y->data + piece->first * bits / 8;
    assert(bits);
    if (y->dtype == DTYPE_F32) {
        rows_copy((const char *)from, bytes, to, stride, piece->rows, bytes);
    } else {
        Tensor tile = tile_tensor(piece, y, codes);
        operand_write(from, 0, piece_count(piece), &tile);
        rows_copy((char *)codes, bytes, to, stride, piece->rows, bytes);
    }
}

const float *piece_read(const Piece *piece, const Tensor *x, float *buffer) {
    if (piece_run(piece) == piece_count(piece))
        return operand_part(x, piece->first, piece_count(piece), buffer);
    tile_read(piece, x, buffer);
    return buffer;
}

void piece_write(const Piece *piece, const float *numbers, const Tensor *y) {
    if (piece_run(piece) == piece_count(piece))
        operand_write(numbers, piece->first, piece_count(piece), y);
    else
        tile_write(piece, numbers, y);
}
