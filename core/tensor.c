#include "core/tensor.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

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
    if (__builtin_mul_overflow(product, (int64_t)sizeof(double), &bytes))
        return FAIL(err, ERROR_INPUT, "shape %s is too large", shape_text(shape, text));
    *count = product;
    return true;
}

Tensor tensor_new(Arena *arena, Dtype dtype, Shape shape) {
    return (Tensor){dtype, shape, arena_alloc(arena, dtype_bytes(dtype, shape_count(shape))), NULL};
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
    bytes += dtype_bytes(scales->dtype, scales->count);
    if (scales->zero) bytes += (size_t)scales->count; /* zero points fit in a byte */
    return bytes;
}

float *tensor_f32(const Tensor *tensor) {
    assert(tensor->dtype == DTYPE_F32);
    return tensor->data;
}

void tensor_decode(const Tensor *tensor, float *values) {
    int64_t count = tensor_count(tensor);
    if (tensor->dtype == DTYPE_F32 && tensor->scales)
        levels_decode(tensor_f32(tensor), tensor->scales, 0, count, values);
    else
        dtype_codec(tensor->dtype)->decode(tensor->data, tensor->scales, 0, count, values);
}
