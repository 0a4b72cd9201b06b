#include "core/tensor.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/panels.h"

int64_t shape_count(Shape shape) {
    int64_t count = 1;
    for (int i = 0; i < shape.rank; i++) count *= shape.dim[i];
    return count;
}

int64_t shape_rows(Shape shape) {
    int64_t rows = 1;
    for (int i = 0; i + 1 < shape.rank; i++) rows *= shape.dim[i];
    return rows;
}

int64_t shape_last(Shape shape) {
    return shape.rank > 0 ? shape.dim[shape.rank - 1] : 1;
}

bool shape_equal(Shape a, Shape b) {
    if (a.rank != b.rank) return false;
    for (int i = 0; i < a.rank; i++)
        if (a.dim[i] != b.dim[i]) return false;
    return true;
}

const char *shape_text(Shape shape, char text[SHAPE_TEXT_BYTES]) {
    assert(shape.rank <= SHAPE_RANK_MAX);
    char *end = text + SHAPE_TEXT_BYTES;
    char *p = text + snprintf(text, SHAPE_TEXT_BYTES, "[");
    for (int i = 0; i < shape.rank; i++)
        p += snprintf(p, (size_t)(end - p), "%s%lld", i ? ", " : "", (long long)shape.dim[i]);
    snprintf(p, (size_t)(end - p), "]");
    return text;
}

bool shape_check(Shape shape, int64_t *count, Error *err) {
    if (shape.rank < 0 || shape.rank > SHAPE_RANK_MAX)
        return FAIL(err, ERROR_INPUT, "%d dimensions; from 0 to %d are supported", shape.rank,
                    SHAPE_RANK_MAX);
    char text[SHAPE_TEXT_BYTES];
    int64_t product = 1, bytes;
    for (int i = 0; i < shape.rank; i++) {
        if (shape.dim[i] < 1)
            return FAIL(err, ERROR_INPUT, "shape %s: dimensions must be at least 1",
                        shape_text(shape, text));
        if (__builtin_mul_overflow(product, shape.dim[i], &product))
            return FAIL(err, ERROR_INPUT, "shape %s is too large", shape_text(shape, text));
    }
    /* of the widest element, in bits: what dtype_bytes can count */
    if (__builtin_mul_overflow(product, (int64_t)(8 * sizeof(double)), &bytes))
        return FAIL(err, ERROR_INPUT, "shape %s is too large", shape_text(shape, text));
    *count = product;
    return true;
}

Tensor tensor_new(Arena *arena, Dtype dtype, Shape shape) {
    void *data = arena_alloc(arena, dtype_bytes(dtype, shape_count(shape)));
    return (Tensor){.dtype = dtype, .shape = shape, .data = data};
}

Tensor tensor_zeros(Arena *arena, Dtype dtype, Shape shape) {
    Tensor tensor = tensor_new(arena, dtype, shape);
    memset(tensor.data, 0, dtype_bytes(dtype, shape_count(shape)));
    return tensor;
}

int64_t tensor_count(const Tensor *tensor) {
    return shape_count(tensor->shape);
}

size_t tensor_bytes(const Tensor *tensor) {
    size_t bytes = dtype_bytes(tensor->dtype, tensor_count(tensor));
    const Scales *scales = tensor->scales;
    if (!scales) return bytes;
    if (scales->stored)
        bytes += tensor_bytes(scales->stored) + (scales->stored->scales ? sizeof(float) : 0);
    else
        bytes += dtype_bytes(scales->dtype, scales->count);
    if (scales->zero) bytes += (size_t)scales->count; /* zero points fit in a byte */
    return bytes;
}

float *tensor_f32(const Tensor *tensor) {
    assert(tensor->dtype == DTYPE_F32 && tensor->layout == LAYOUT_ROWS);
    return tensor->data;
}

bool tensor_holds_levels(const Tensor *tensor) {
    bool in_rows = tensor->layout == LAYOUT_ROWS;
    return in_rows && tensor->scales && dtype_codec(tensor->dtype)->stores != CODE_ENTRY;
}

bool tensor_has_one_scale(const Tensor *tensor) {
    return tensor_holds_levels(tensor) && tensor->scales->count == 1 && tensor->scales->scale;
}

void tensor_decode(const Tensor *tensor, float *values) {
    tensor_decode_part(tensor, 0, tensor_count(tensor), values);
}

void tensor_decode_part(const Tensor *tensor, int64_t first, int64_t count, float *values) {
    if (tensor->layout == LAYOUT_PANELS)
        panels_read(tensor, first, count, values);
    else if (tensor->dtype == DTYPE_F32 && tensor->scales)
        levels_decode(tensor_f32(tensor) + first, tensor->scales, first, count, values);
    else
        dtype_decode(tensor->dtype, tensor->data, tensor->scales, first, count, values);
}
