#include "core/tensor.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/floats.h"

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
    if (scales->stored)
        bytes += tensor_bytes(scales->stored) + (scales->stored->scales ? sizeof(float) : 0);
    else
        bytes += dtype_bytes(scales->dtype, scales->count);
    if (scales->zero) bytes += (size_t)scales->count; /* zero points fit in a byte */
    return bytes;
}

float *tensor_f32(const Tensor *tensor) {
    assert(tensor->dtype == DTYPE_F32);
    return tensor->data;
}

bool tensor_holds_levels(const Tensor *tensor) {
    return tensor->scales && dtype_codec(tensor->dtype)->stores != CODE_ENTRY;
}

bool tensor_has_one_scale(const Tensor *tensor) {
    return tensor_holds_levels(tensor) && tensor->scales->count == 1 && tensor->scales->scale;
}

void tensor_decode(const Tensor *tensor, float *values) {
    tensor_decode_part(tensor, 0, tensor_count(tensor), values);
}

void tensor_decode_part(const Tensor *tensor, int64_t first, int64_t count, float *values) {
    if (tensor->dtype == DTYPE_F32 && tensor->scales)
        levels_decode(tensor_f32(tensor) + first, tensor->scales, first, count, values);
    else
        dtype_decode(tensor->dtype, tensor->data, tensor->scales, first, count, values);
}

/* A scale for each block, in f32. */
static Scales scales_fit(Arena *arena, const Codec *codec, const float *x, int64_t count,
                         int64_t block) {
    int64_t blocks = scales_count(count, count, block);
    float *scale = arena_new_array(arena, float, blocks);
    for (int64_t i = 0; i < blocks; i++) {
        int64_t first = i * block, some = count - first < block ? count - first : block;
        scale[i] = codec->fit(x + first, some, block);
    }
    return (Scales){.row_length = count, .run_length = block, .count = blocks, .scale = scale};
}

static float mean_of(const float *x, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += (double)x[i];
    return (float)(sum / (double)count);
}

/* The same scales, from now on in the form that is stored. `scale` is overwritten. */
static bool scales_store(Arena *arena, const Scales *fitted, float *scale, const Storage *storage,
                         const Scales **out, Error *err) {
    Storage form = {.dtype = storage->scale_dtype, .block = storage->scale_block};
    Scales *s = arena_new_array(arena, Scales, 1);
    *s = *fitted;
    s->dtype = form.dtype;
    if (dtype_codec(form.dtype)->stores == CODE_ENTRY) {
        s->offset = mean_of(scale, s->count);
        for (int64_t i = 0; i < s->count; i++) scale[i] -= s->offset;
    }
    Tensor *stored = arena_new_array(arena, Tensor, 1);
    if (!tensor_encode(arena, scale, SHAPE(s->count), &form, stored, err)) {
        error_prefix(err, "scales of blocks of %lld", (long long)s->run_length);
        return false;
    }
    s->stored = stored;
    s->scale = form.dtype == DTYPE_F32 ? stored->data : NULL;
    *out = s;
    return true;
}

/* What rounding to the dtype makes infinite. */
static bool numbers_check(const Tensor *tensor, const float *values, Error *err) {
    enum { SOME = 512 };
    float kept[SOME];
    int64_t count = tensor_count(tensor);
    for (int64_t first = 0; first < count; first += SOME) {
        int64_t some = count - first < SOME ? count - first : SOME;
        tensor_decode_part(tensor, first, some, kept);
        for (int64_t i = 0; i < some; i++)
            if (!isfinite(kept[i]))
                return FAIL(err, ERROR_NUMERIC, "element %lld is %g, which %s cannot hold",
                            (long long)(first + i), (double)values[first + i],
                            dtype_name(tensor->dtype));
    }
    return true;
}

bool tensor_encode(Arena *arena, const float *values, Shape shape, const Storage *storage,
                   Tensor *out, Error *err) {
    const Codec *codec = dtype_codec(storage->dtype);
    assert(codec->stores != CODE_LEVEL && "levels are a quantizer's");
    *out = tensor_zeros(arena, storage->dtype, shape);
    int64_t count = tensor_count(out), unfit = floats_find_unfit(values, count, -FLT_MAX);
    if (unfit >= 0)
        return FAIL(err, ERROR_NUMERIC, "element %lld is %g: only finite values can be stored",
                    (long long)unfit, (double)values[unfit]);
    if (codec->stores == CODE_NUMBER) {
        codec->encode(values, count, NULL, out->data);
        return numbers_check(out, values, err);
    }
    Arena *scratch = arena_new("scales");
    int64_t block = storage->block ? storage->block : codec->block;
    Scales fitted = scales_fit(scratch, codec, values, count, block);
    codec->encode(values, count, &fitted, out->data);
    bool ok =
        scales_store(arena, &fitted, (float *)(uintptr_t)fitted.scale, storage, &out->scales, err);
    arena_free(scratch);
    return ok;
}
