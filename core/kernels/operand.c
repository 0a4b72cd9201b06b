#include "core/kernels/operand.h"

#include <assert.h>
#include <math.h>

enum { CHUNK = 1 << 14 /* elements decoded at a time by one thread; a multiple of 8 */ };

bool operand_is_levels(const Tensor *tensor) {
    return tensor->scales != NULL;
}

bool operand_is_plain(const Tensor *tensor) {
    return tensor->dtype == DTYPE_F32 && !tensor->scales;
}

static void decode_chunk(const Tensor *tensor, int64_t first, int64_t count, float *values) {
    if (tensor->dtype == DTYPE_F32)
        levels_decode(tensor_f32(tensor) + first, tensor->scales, first, count, values);
    else
        dtype_codec(tensor->dtype)->decode(tensor->data, tensor->scales, first, count, values);
}

const float *operand_values(const Tensor *tensor, Arena *scratch) {
    if (operand_is_plain(tensor)) return tensor_f32(tensor);
    int64_t count = tensor_count(tensor);
    float *values = arena_alloc(scratch, checked_mul(sizeof *values, (size_t)count));
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < count; first += CHUNK) {
        int64_t some = count - first < CHUNK ? count - first : CHUNK;
        decode_chunk(tensor, first, some, values + first);
    }
    return values;
}

const float *operand_levels(const Tensor *tensor, Arena *scratch) {
    assert(operand_is_levels(tensor));
    if (tensor->dtype == DTYPE_F32) return tensor_f32(tensor);
    int64_t count = tensor_count(tensor);
    float *levels = arena_alloc(scratch, checked_mul(sizeof *levels, (size_t)count));
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < count; first += CHUNK) {
        int64_t some = count - first < CHUNK ? count - first : CHUNK;
        levels_unpack(tensor->data, tensor->scales, first, some, levels + first);
    }
    return levels;
}

double scales_level_max(const Scales *scales) {
    double most = 0, low = grid_low(scales->grid), high = grid_high(scales->grid);
    for (int64_t i = 0; i < (scales->zero ? scales->count : 1); i++) {
        double zero = scales->zero ? (double)scales->zero[i] : 0;
        most = fmax(most, fmax(fabs(low - zero), fabs(high - zero)));
    }
    return most;
}

int64_t exact_products(const Scales *a, const Scales *b) {
    double largest = scales_level_max(a) * scales_level_max(b);
    assert(largest < EXACT_SUM_LIMIT);
    if (largest == 0) return INT64_MAX;
    return (int64_t)((EXACT_SUM_LIMIT - 1) / largest);
}
