/* Tensors: dense, row-major values that borrow their memory from an arena. */
#ifndef NIBBLE_CORE_TENSOR_H
#define NIBBLE_CORE_TENSOR_H

#include <stdbool.h>
#include <stdint.h>

#include "core/arena.h"
#include "core/dtype.h"
#include "core/error.h"

enum { SHAPE_RANK_MAX = 4 };

typedef struct Shape {
    int rank;                    /* 0: a scalar, one element */
    int64_t dim[SHAPE_RANK_MAX]; /* images are NHWC, linear weights [out, in], convolution weights
                                    [out, kernel_h, kernel_w, in / groups] */
} Shape;

#define SHAPE(...)                                                                                 \
    ((Shape){(int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), {__VA_ARGS__}})
#define SHAPE_SCALAR ((Shape){0})

int64_t shape_count(Shape shape); /* product of all dimensions */
int64_t shape_rows(Shape shape);  /* product of all but the last */
int64_t shape_last(Shape shape);  /* the last dimension; 1 for a scalar */
bool shape_equal(Shape a, Shape b);
/* "[128, 28, 28, 1]"; the buffer is the caller's and is returned. */
enum { SHAPE_TEXT_BYTES = 96 };
const char *shape_text(Shape shape, char text[SHAPE_TEXT_BYTES]);
/* Element count with an overflow check, for shapes that come from a file or a user. */
bool shape_check(Shape shape, int64_t *count, Error *err);

/* Where the elements of a matrix lie: a row after the other, or as products of few rows read them
 * (core/panels.h). */
typedef enum Layout { LAYOUT_ROWS, LAYOUT_PANELS } Layout;

/* `data` holds codes of `dtype`. With `scales`:
 *   an integer dtype: packed codes of levels;
 *   f32: levels, integers held in floats ("integers inside floats"): the value is scale * level;
 *   a codebook's dtype: codes of its entries: the value is scale * entry.
 * Without scales an f32, f16 or bf16 tensor holds values. */
typedef struct Tensor {
    Dtype dtype;
    Shape shape;
    void *data;
    const Scales *scales;
    Layout layout;
} Tensor;

/* An f32 tensor where the function called knows the shape. */
#define TENSOR_F32(pointer) (&(Tensor){.dtype = DTYPE_F32, .data = (void *)(uintptr_t)(pointer)})

Tensor tensor_new(Arena *arena, Dtype dtype, Shape shape); /* contents undefined */
Tensor tensor_zeros(Arena *arena, Dtype dtype, Shape shape);
int64_t tensor_count(const Tensor *tensor);
size_t tensor_bytes(const Tensor *tensor); /* codes and scales as stored */
float *tensor_f32(const Tensor *tensor);   /* the data of an f32 tensor in rows (asserted) */
/* Integers under scales, packed or as f32; else what it holds are values, however stored. In panels
 * lie values only. */
bool tensor_holds_levels(const Tensor *tensor);
bool tensor_has_one_scale(const Tensor *tensor); /* levels, all under the same one */
/* Values of the whole tensor, or of elements first .. first + count - 1, whatever its dtype. */
void tensor_decode(const Tensor *tensor, float *values);
void tensor_decode_part(const Tensor *tensor, int64_t first, int64_t count, float *values);

#endif
