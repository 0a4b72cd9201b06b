/* nibble: one code of at most 4 bits in each half of a byte, whatever its bits:
 *
 *     byte i [k(2i + 1) k(2i)]
 *
 * For activations between forward and backward, as `byte` is for codes of more bits. */
#include "core/dtype.h"

enum { BLOCK = 512 };

static void encode(const float *x, int64_t count, const Scales *scales, void *codes) {
    for (int64_t done = 0; done < count; done += BLOCK) {
        float levels[BLOCK];
        int64_t block = count - done < BLOCK ? count - done : BLOCK;
        quantize_levels(x + done, scales, done, block, levels);
        levels_to_nibbles(levels, scales, done, block, codes);
    }
}

static void decode(const void *codes, const Scales *scales, int64_t first, int64_t count,
                   float *x) {
    levels_from_nibbles(codes, scales, first, count, x);
    levels_decode(x, scales, first, count, x);
}

extern const Codec codec_nibble;
const Codec codec_nibble = {
    .name = "nibble",
    .help = "half a byte per integer code of at most 4 bits, with scales",
    .code_bits = 4,
    .stores = CODE_LEVEL,
    .encode = encode,
    .decode = decode,
};
