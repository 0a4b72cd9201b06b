/* Storage formats: a dtype is a codec row (core/dtype.def).
 *
 * Words used throughout, for the quantized formats:
 *   code   k  what is stored: an unsigned integer of `code_bits` bits
 *   level  n  = step k + base - zero, the integer that products use; zero itself is always a level
 *             of the affine formats, so padding with 0 is exact
 *   value  x  = scale n, a real number
 *   entry  e  of a codebook, between -1 and 1, where codes number entries: value x = scale e
 * Conversions of a value to a level round half to even on x * (1 / scale), in f32, then clamp to
 * the levels that exist (PyTorch's fake_quantize does the same on CPU). */
#ifndef NIBBLE_CORE_DTYPE_H
#define NIBBLE_CORE_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum Dtype {
#define DTYPE(NAME, codec) DTYPE_##NAME,
#include "core/dtype.def"
#undef DTYPE
    DTYPE_COUNT
} Dtype;

/* The levels a b-bit code can name, before the zero point: base, base + step, ...,
 * base + step (2^bits - 1). Signed: base -2^(b-1), step 1. Unsigned: base 0, step 1. The
 * symmetric grid without zero: base -(2^b - 1), step 2; of 1 bit: -1 and 1. Ternary: 2 bits, but
 * the last code names no level: -1, 0, 1. */
typedef struct Grid {
    int bits, base, step;
    int unused; /* codes at the end that name no level */
} Grid;

Grid grid_signed(int bits);
Grid grid_unsigned(int bits);
Grid grid_odd(int bits); /* odd levels only */
Grid grid_ternary(void);
int grid_low(Grid grid);                    /* lowest level at zero point 0 */
int grid_high(Grid grid);                   /* highest level at zero point 0 */
int grid_last_code(Grid grid);              /* the highest level's */
Grid grid_of(int bits, int base, int step); /* of these numbers, as a file has them */

/* The plane of scales beside a plane of codes. Element i of a tensor, counted row-major, lies in
 * row r = i / row_length at column c = i % row_length; its scale is number r * ceil(row_length /
 * run_length) + c / run_length. Per tensor: both lengths are the element count. Per channel (axis
 * 0) or per token: both are the length of a row. Per group: run_length is the group size; groups
 * start anew in each row. In flat blocks, which run over rows: row_length is the element count,
 * run_length the size of a block. */
typedef struct Scales {
    int64_t row_length, run_length;
    int64_t count;      /* of scales */
    Dtype dtype;        /* the format scales are stored in; `scale` is already rounded to it */
    Grid grid;          /* of levels */
    const float *scale; /* [count], above 0; NULL: only in `stored` */
    const float *zero;  /* [count] zero points, integers; NULL: all 0 */
    /* The plane as a tensor of its own, [count] of `dtype`, perhaps with scales of its own (double
     * quantization): scale i = its element i + offset. NULL: `scale` is all there is. */
    const struct Tensor *stored;
    float offset;
} Scales;

int64_t scales_count(int64_t element_count, int64_t row_length, int64_t run_length);
/* How many elements from `element` on share its scale; `scale` is set to that scale's number. */
int64_t scales_run(const Scales *scales, int64_t element, int64_t *scale);
float scales_read(const Scales *scales, int64_t number); /* one scale, in whichever form it lies */

/* What a code stands for. */
typedef enum CodeMeaning {
    CODE_NUMBER, /* a number as it is, without scales */
    CODE_LEVEL,  /* a level of the scales' grid: products may run on levels */
    CODE_ENTRY,  /* an entry of the row's codebook, to be multiplied by a scale */
} CodeMeaning;

enum { CODES_OF_NIBBLE = 16 };

struct CodedJob;

typedef struct Codec {
    const char *name, *help;
    int code_bits;      /* per element in the plane of codes; 0: */
    int codes_per_byte; /* so many in a byte, of which no bits are one's own */
    int byte_count;     /* bytes of codes are below this; 0: any byte is */
    CodeMeaning stores;
    /* Of codebooks (core/codebook.h): elements under one scale unless somebody says otherwise, in
     * flat blocks; and the scale that so many values of a block of `block` elements are stored
     * under. */
    const struct Codebook *book;
    int64_t block;
    float (*fit)(const float *x, int64_t count, int64_t block);
    /* Of what stores no levels. `count` elements from element 0 on; `scales` NULL: the codec stores
     * numbers. Codes of a whole tensor are one little-endian stream of bits: element i has the bits
     * i * code_bits and up. */
    void (*encode)(const float *x, int64_t count, const Scales *scales, void *codes);
    /* Elements first .. first + count - 1, as values. */
    void (*decode)(const void *codes, const Scales *scales, int64_t first, int64_t count, float *x);
    /* Numbers of 16 bits of LANES rows at once (core/kernels/rows.def: f16_turn), or NULL. */
    void (*turn)(const uint32_t *words, int64_t words_stride, int64_t count, float *x,
                 int64_t x_stride);
    /* Products of few rows with such numbers (core/kernels/isa.h); where there is `turn`. */
    void (*multiply)(const struct CodedJob *job);
    /* Of what stores levels, which are read from any element on, and written from multiples of
     * `write_step` on; `codes` is the plane of the whole tensor. What follows the last element in
     * its byte is cleared. */
    void (*read_levels)(const void *codes, const Scales *scales, int64_t first, int64_t count,
                        float *levels);
    void (*write_levels)(const float *levels, const Scales *scales, int64_t first, int64_t count,
                         void *codes);
    int write_step;
} Codec;

const Codec *dtype_codec(Dtype dtype);
const char *dtype_name(Dtype dtype);
int dtype_find(const char *name);               /* the Dtype, or -1 */
Dtype dtype_integer(int bits);                  /* 2 to 8: DTYPE_INT2 .. DTYPE_INT8 */
Dtype dtype_packed(Grid grid);                  /* that takes least for its levels */
size_t dtype_bytes(Dtype dtype, int64_t count); /* of the plane of codes, rounded up to a byte */

/* Between values and codes of any dtype, as in Codec. */
void dtype_encode(Dtype dtype, const float *x, int64_t count, const Scales *scales, void *codes);
void dtype_decode(Dtype dtype, const void *codes, const Scales *scales, int64_t first,
                  int64_t count, float *x);

/* The first byte of the plane of codes that no codes make, or -1. */
int64_t dtype_find_unfit(Dtype dtype, const void *codes, int64_t count);

/* Values rounded to what `dtype` (a floating-point format) can hold. */
float dtype_round(Dtype dtype, float x);

/* The one quantizer: training, packing and inference all come here.
 * levels[i] for elements first.. of a tensor under `scales`; levels are integers held in f32. False
 * where some x is a NaN, whose level is a NaN. */
bool quantize_levels(const float *x, const Scales *scales, int64_t first, int64_t count,
                     float *levels);
/* The same as codes of a byte each (levels_to_bytes), a NaN's 0; `codes` is that of element
 * `first`.
 */
bool quantize_bytes(const float *x, const Scales *scales, int64_t first, int64_t count,
                    uint8_t *codes);
/* values[i] = scale x levels[i]; in place is fine. */
void levels_decode(const float *levels, const Scales *scales, int64_t first, int64_t count,
                   float *values);
/* Between levels and codes of a byte each; `codes` is that of element `first`. */
void levels_to_bytes(const float *levels, const Scales *scales, int64_t first, int64_t count,
                     uint8_t *codes);
void levels_from_bytes(const uint8_t *codes, const Scales *scales, int64_t first, int64_t count,
                       float *levels);
/* Between levels and codes of half a byte each, for grids of at most 4 bits: element 2 i in the low
 * half of byte i. `codes` is the plane of the whole tensor. Parts may begin and end anywhere, but a
 * byte that two parts share must be written in ascending order: writing its low half clears the
 * high one. */
void levels_to_nibbles(const float *levels, const Scales *scales, int64_t first, int64_t count,
                       uint8_t *codes);
void levels_from_nibbles(const uint8_t *codes, const Scales *scales, int64_t first, int64_t count,
                         float *levels);

#endif
