#include "core/codebook.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/counts.h"
#include "core/kernels/isa.h"
#include "core/tensor.h"

enum { BLOCK = 512 /* elements staged on the stack */ };

int codebook_nearest(const Codebook *book, float unit) {
    int low = 0, high = (1 << book->bits) - 1;
    while (low < high) {
        int middle = (low + high) / 2;
        if (unit > (book->entries[middle] + book->entries[middle + 1]) / 2)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

float codebook_largest(const float *x, int64_t count, int64_t block) {
    (void)block;
    float low = 0, high = 0;
    isa_active()->extremes(x, count, &low, &high);
    return fmaxf(fabsf(low), high);
}

static int code_of(const Codebook *book, int entry) {
    return book->codes ? book->codes[entry] : entry;
}

/* The codes of `count` numbers. */
static void codes_find(const Codebook *book, const float *unit, int64_t count, uint8_t *codes) {
    if (book->bits == 4) {
        float middles[CODES_OF_NIBBLE - 1];
        for (int i = 0; i < CODES_OF_NIBBLE - 1; i++)
            middles[i] = (book->entries[i] + book->entries[i + 1]) / 2;
        isa_active()->middles_below(unit, count, middles, codes);
    } else {
        for (int64_t i = 0; i < count; i++) codes[i] = (uint8_t)codebook_nearest(book, unit[i]);
    }
    for (int64_t i = 0; book->codes && i < count; i++) codes[i] = book->codes[codes[i]];
}

/* From element `first` on, in ascending order: a low half clears the high one. */
static void codes_write(const Codebook *book, const uint8_t *codes, int64_t first, int64_t count,
                        uint8_t *to) {
    if (book->bits == 8) {
        memcpy(to + first, codes, (size_t)count);
        return;
    }
    int64_t is_high = first % 2;
    to += first / 2;
    if (is_high && count) *to |= (uint8_t)(*codes << 4);
    if (count > is_high) isa_active()->nibbles_pack(codes + is_high, count - is_high, to + is_high);
}

void codebook_encode(const Codebook *book, const float *x, int64_t count, const Scales *scales,
                     void *codes) {
    assert(book->bits == 4 || book->bits == 8);
    for (int64_t done = 0, some; done < count; done += some) {
        float unit[BLOCK];
        uint8_t found[BLOCK];
        int64_t number, column = done % scales->row_length % scales->run_length;
        int64_t run = scales_run(scales, done, &number);
        bool is_whole = column + run == scales->run_length;
        some = count_least(count_least(run, count - done), BLOCK);
        book->normalize(x + done, some, scales_read(scales, number), is_whole, unit);
        codes_find(book, unit, some, found);
        codes_write(book, found, done, some, codes);
    }
}

/* Scales first .. first + count - 1: where they lie as f32, else read into `buffer`. */
static const float *scales_part(const Scales *scales, int64_t first, int64_t count, float *buffer) {
    if (scales->scale) return scales->scale + first;
    const Tensor *stored = scales->stored;
    dtype_decode(stored->dtype, stored->data, stored->scales, first, count, buffer);
    for (int64_t i = 0; i < count; i++) buffer[i] += scales->offset;
    return buffer;
}

static void bytes_decode(const float *entries, const uint8_t *codes, const float *scale,
                         int64_t run, int64_t count, float *x) {
    for (int64_t some; count > 0; count -= some, codes += some, x += some, scale++) {
        some = count_least(run, count);
        for (int64_t i = 0; i < some; i++) x[i] = *scale * entries[codes[i]];
    }
}

void codebook_by_code(const Codebook *book, float entries[CODES_OF_NIBBLE]) {
    for (int i = 0; i < CODES_OF_NIBBLE; i++) entries[code_of(book, i)] = book->entries[i];
}

/* Whole runs follow each other with their scales, and are decoded in one go. */
void codebook_decode(const Codebook *book, const void *codes, const Scales *scales, int64_t first,
                     int64_t count, float *x) {
    enum { SOME = 16 };
    float scale_buffer[SOME], of_codes[CODES_OF_NIBBLE];
    bool is_byte = book->bits == 8, are_even = scales->run_length % 2 == 0;
    bool are_whole = scales->row_length % scales->run_length == 0 && (is_byte || are_even);
    const float *entries = book->codes ? of_codes : book->entries;
    if (book->codes) codebook_by_code(book, of_codes);
    for (int64_t done = 0, some; done < count; done += some) {
        int64_t number, at = first + done, run = scales_run(scales, at, &number), pieces = 1;
        bool is_high = !is_byte && at % 2;
        if (are_whole && run == scales->run_length)
            pieces = count_least(scales->scale ? count : SOME, count_pieces(count - done, run));
        some = is_high ? 1 : count_least(pieces * run, count - done);
        const float *scale = scales_part(scales, number, pieces, scale_buffer);
        const uint8_t *from = (const uint8_t *)codes + (is_byte ? at : at / 2);
        if (is_byte)
            bytes_decode(entries, from, scale, run, some, x + done);
        else if (is_high)
            x[done] = *scale * entries[*from >> 4];
        else
            isa_active()->entries_from_nibbles(from, some, entries, scale, run, x + done, PANEL);
    }
}
