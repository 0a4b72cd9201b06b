#include "core/kernels/operand.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/codebook.h"
#include "core/panels.h"

enum { CHUNK = 1 << 14 /* elements decoded at a time by one thread; a multiple of 8 */ };

bool operand_is_plain(const Tensor *tensor) {
    return tensor->dtype == DTYPE_F32 && !tensor->scales && tensor->layout == LAYOUT_ROWS;
}

const float *operand_values(const Tensor *tensor, Arena *scratch) {
    if (operand_is_plain(tensor)) return tensor_f32(tensor);
    int64_t count = tensor_count(tensor);
    float *values = arena_alloc(scratch, checked_mul(sizeof *values, (size_t)count));
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < count; first += CHUNK) {
        int64_t some = count - first < CHUNK ? count - first : CHUNK;
        tensor_decode_part(tensor, first, some, values + first);
    }
    return values;
}

void operand_read(const Tensor *tensor, int64_t first, int64_t count, float *numbers) {
    const Codec *codec = dtype_codec(tensor->dtype);
    if (tensor->layout == LAYOUT_PANELS)
        panels_read(tensor, first, count, numbers);
    else if (tensor->dtype == DTYPE_F32)
        memcpy(numbers, tensor_f32(tensor) + first, sizeof *numbers * (size_t)count);
    else if (codec->read_levels)
        codec->read_levels(tensor->data, tensor->scales, first, count, numbers);
    else
        codec->decode(tensor->data, tensor->scales, first, count, numbers);
}

void operand_read_values(const Tensor *tensor, int64_t first, int64_t count, float *values) {
    if (operand_is_plain(tensor))
        memcpy(values, tensor_f32(tensor) + first, sizeof *values * (size_t)count);
    else
        tensor_decode_part(tensor, first, count, values);
}

const float *operand_part(const Tensor *tensor, int64_t first, int64_t count, float *buffer) {
    if (tensor->dtype == DTYPE_F32 && tensor->layout == LAYOUT_ROWS)
        return tensor_f32(tensor) + first;
    operand_read(tensor, first, count, buffer);
    return buffer;
}

void operand_write(const float *numbers, int64_t first, int64_t count, const Tensor *tensor) {
    const Codec *codec = dtype_codec(tensor->dtype);
    if (codec->write_levels) {
        assert(first % codec->write_step == 0); /* else others might be writing the same byte */
        codec->write_levels(numbers, tensor->scales, first, count, tensor->data);
        return;
    }
    assert(codec->stores == CODE_NUMBER);
    void *to = (char *)tensor->data + first * codec->code_bits / 8;
    if (tensor->dtype == DTYPE_F32)
        memcpy(to, numbers, sizeof *numbers * (size_t)count);
    else
        codec->encode(numbers, count, NULL, to);
}

bool operand_lies(const Operand *operand) {
    const Tensor *t = &operand->tensor;
    return t->dtype == DTYPE_F32 && t->layout == LAYOUT_ROWS && (operand->as_levels || !t->scales);
}

void operand_copy(const Operand *operand, int64_t first, int64_t count, float *numbers) {
    if (operand->as_levels)
        operand_read(&operand->tensor, first, count, numbers);
    else
        operand_read_values(&operand->tensor, first, count, numbers);
}

const float *operand_at(const Operand *operand, int64_t first, int64_t count, float *buffer) {
    if (operand_lies(operand)) return tensor_f32(&operand->tensor) + first;
    operand_copy(operand, first, count, buffer);
    return buffer;
}

int64_t operand_values_scratch(const Tensor *tensor) {
    if (operand_is_plain(tensor)) return 0;
    return arena_padded((int64_t)sizeof(float) * tensor_count(tensor));
}

bool operand_in_words(const Tensor *tensor) {
    const Scales *scales = tensor->scales;
    int64_t bits = dtype_codec(tensor->dtype)->code_bits, columns = shape_last(tensor->shape);
    if (!bits || 32 % bits || (uintptr_t)tensor->data % sizeof(uint32_t)) return false;
    if (columns * bits % 32) return false;
    if (!scales) return true;
    bool begins_anew = scales->row_length == columns;
    return scales->run_length * bits % 32 == 0 &&
           (begins_anew || columns % scales->run_length == 0);
}

bool operand_entries(const Tensor *tensor, float entries[CODES_OF_NIBBLE]) {
    const Codec *codec = dtype_codec(tensor->dtype);
    const Scales *scales = tensor->scales;
    if (codec->code_bits != 4 || !scales) return false;
    if (codec->book) {
        codebook_by_code(codec->book, entries);
        return true;
    }
    if (codec->stores != CODE_LEVEL || scales->zero) return false;
    for (int code = 0; code < CODES_OF_NIBBLE; code++)
        entries[code] = (float)(scales->grid.step * code + scales->grid.base);
    return true;
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
    return (int64_t)((EXACT_SUM_LIMIT - 1) / largest);
}
