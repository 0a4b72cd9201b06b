#include "core/codebook.h"

#include <assert.h>
#include <math.h>

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
    float largest = 0;
    for (int64_t i = 0; i < count; i++) largest = fmaxf(largest, fabsf(x[i]));
    return largest;
}

static int code_of(const Codebook *book, int entry) {
    return book->codes ? book->codes[entry] : entry;
}

/* In ascending order: a low half clears the high one. */
static void code_write(const Codebook *book, uint8_t *codes, int64_t element, int code) {
    if (book->bits == 8)
        codes[element] = (uint8_t)code;
    else if (element % 2 == 0)
        codes[element / 2] = (uint8_t)code;
    else
        codes[element / 2] |= (uint8_t)(code << 4);
}

void codebook_encode(const Codebook *book, const float *x, int64_t count, const Scales *scales,
                     void *codes) {
    assert(book->bits == 4 || book->bits == 8);
    for (int64_t done = 0, some; done < count; done += some) {
        float unit[BLOCK];
        int64_t number, column = done % scales->row_length % scales->run_length;
        int64_t run = scales_run(scales, done, &number);
        bool is_whole = column + run == scales->run_length;
        some = run < count - done ? run : count - done;
        if (some > BLOCK) some = BLOCK;
        book->normalize(x + done, some, scales_read(scales, number), is_whole, unit);
        for (int64_t i = 0; i < some; i++)
            code_write(book, codes, done + i, code_of(book, codebook_nearest(book, unit[i])));
    }
}

/* Elements first .. first + count - 1, under one scale. */
static void run_decode(const Codebook *book, const uint8_t *codes, float scale, int64_t first,
                       int64_t count, float *x) {
    if (book->bits == 8) {
        assert(!book->codes);
        for (int64_t i = 0; i < count; i++) x[i] = scale * book->entries[codes[first + i]];
        return;
    }
    float values[16]; /* each entry under this scale: the same products, once */
    for (int i = 0; i < 16; i++) values[code_of(book, i)] = scale * book->entries[i];
    int64_t is_high = first % 2; /* then one code, and whole bytes behind it */
    if (is_high && count) x[0] = values[codes[first / 2] >> 4];
    if (count > is_high)
        isa_active()->entries_from_nibbles(codes + first / 2 + is_high, count - is_high, values,
                                           x + is_high);
}

/* Scales first .. first + count - 1: where they lie as f32, else read into `buffer`. */
static const float *scales_part(const Scales *scales, int64_t first, int64_t count, float *buffer) {
    if (scales->scale) return scales->scale + first;
    const Tensor *stored = scales->stored;
    dtype_decode(stored->dtype, stored->data, stored->scales, first, count, buffer);
    for (int64_t i = 0; i < count; i++) buffer[i] += scales->offset;
    return buffer;
}

/* Scales follow each other as runs do, so they are read some at a time. */
void codebook_decode(const Codebook *book, const void *codes, const Scales *scales, int64_t first,
                     int64_t count, float *x) {
    enum { SOME = 16 };
    float buffer[SOME];
    const float *scale = NULL;
    int64_t begin = 0, end = 0; /* of the scales at hand */
    for (int64_t done = 0; done < count;) {
        int64_t number, run = scales_run(scales, first + done, &number);
        if (number >= end) {
            int64_t most = (count - done) / scales->run_length + 1, rest = scales->count - number;
            begin = number;
            end = number + count_least(count_least(SOME, rest), most);
            scale = scales_part(scales, begin, end - begin, buffer);
        }
        if (run > count - done) run = count - done;
        run_decode(book, codes, scale[number - begin], first + done, run, x + done);
        done += run;
    }
}
