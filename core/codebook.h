/* Codebooks: codes number entries between -1 and 1, and a value is scale x entry. What the codec
 * rows of core/codecs that store entries have in common.
 *
 * Codes of 8 bits are a byte each, codes of 4 bits half a byte:
 *
 *     8 bits   byte i [ki]          4 bits   byte i [k(2i + 1) k(2i)]  */
#ifndef NIBBLE_CORE_CODEBOOK_H
#define NIBBLE_CORE_CODEBOOK_H

#include <stdbool.h>

#include "core/dtype.h"

typedef struct Codebook {
    int bits;             /* of a code: 4 or 8 */
    const float *entries; /* [1 << bits], ascending from -1 to 1 */
    const uint8_t *codes; /* [1 << bits]: each entry's code; NULL: its number */
    /* `count` values of one block over their scale, as the format's author rounds it. `is_whole`:
     * the block is of full length. In place is not asked for. */
    void (*normalize)(const float *x, int64_t count, float scale, bool is_whole, float *unit);
} Codebook;

/* The number of the entry that `unit` is nearest to: how many midpoints of neighbours, in f32, lie
 * below it. A NaN's is 0. */
int codebook_nearest(const Codebook *book, float unit);

/* The entries of a book of 4 bits in the order of their codes. */
void codebook_by_code(const Codebook *book, float entries[CODES_OF_NIBBLE]);

/* As Codec's. */
void codebook_encode(const Codebook *book, const float *x, int64_t count, const Scales *scales,
                     void *codes);
void codebook_decode(const Codebook *book, const void *codes, const Scales *scales, int64_t first,
                     int64_t count, float *x);

/* The largest magnitude: the plainest `fit` of a Codec. */
float codebook_largest(const float *x, int64_t count, int64_t block);

/* The codec row of a file that has its static `entries` and `normalize`. */
#define CODEBOOK(NAME, BITS, BLOCK, FIT, HELP) CODEBOOK_CODED(NAME, BITS, NULL, BLOCK, FIT, HELP)
/* The same where codes do not ascend with their entries. */
#define CODEBOOK_CODED(NAME, BITS, CODES, BLOCK, FIT, HELP)                                        \
    static const Codebook book = {BITS, entries, CODES, normalize};                                \
    static void encode(const float *x, int64_t count, const Scales *scales, void *codes) {         \
        codebook_encode(&book, x, count, scales, codes);                                           \
    }                                                                                              \
    static void decode(const void *codes, const Scales *scales, int64_t first, int64_t count,      \
                       float *x) {                                                                 \
        codebook_decode(&book, codes, scales, first, count, x);                                    \
    }                                                                                              \
    extern const Codec codec_##NAME;                                                               \
    const Codec codec_##NAME = {                                                                   \
        .name = #NAME,                                                                             \
        .help = HELP,                                                                              \
        .code_bits = BITS,                                                                         \
        .stores = CODE_ENTRY,                                                                      \
        .book = &book,                                                                             \
        .block = BLOCK,                                                                            \
        .fit = FIT,                                                                                \
        .encode = encode,                                                                          \
        .decode = decode,                                                                          \
    }

#endif
