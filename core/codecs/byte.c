/* byte: one code of at most 8 bits in each byte, unlike int2 to int8 not packed:
 *
 *     byte i [ki]
 *
 * For activations between forward and backward, where speed counts more than the last bit; of at
 * most 4 bits: core/codecs/nibble.c. */
#include "core/dtype.h"

enum { BLOCK = 512 };

static void encode(const float *x, int64_t count, const Scales *scales, void *codes) {
    for (int64_t done = 0; done < count; done += BLOCK) {
        float levels[BLOCK];
        int64_t block = count - done < BLOCK ? count - done : BLOCK;
        quantize_levels(x + done, scales, done, block, levels);
        levels_to_bytes(levels, scales, done, block, (uint8_t *)codes + done);
    }
}

static void decode(const void *codes, const Scales *scales, int64_t first, int64_t count,
                   float *x) {
    levels_from_bytes((const uint8_t *)codes + first, scales, first, count, x);
    levels_decode(x, scales, first, count, x);
}

extern const Codec codec_byte;
const Codec codec_byte = {
    .name = "byte",
    .help = "a byte per integer code, with scales",
    .code_bits = 8,
    .stores = CODE_LEVEL,
    .encode = encode,
    .decode = decode,
};
