/* nibble: one code of at most 4 bits in each half of a byte, whatever its bits:
 *
 *     byte i [k(2i + 1) k(2i)]
 *
 * For activations between forward and backward, as `byte` is for codes of more bits. */
#include "core/dtype.h"

static void read_levels(const void *codes, const Scales *scales, int64_t first, int64_t count,
                        float *levels) {
    levels_from_nibbles(codes, scales, first, count, levels);
}

static void write_levels(const float *levels, const Scales *scales, int64_t first, int64_t count,
                         void *codes) {
    levels_to_nibbles(levels, scales, first, count, codes);
}

extern const Codec codec_nibble;
const Codec codec_nibble = {
    .name = "nibble",
    .help = "half a byte per integer code of at most 4 bits, with scales",
    .code_bits = 4,
    .stores = CODE_LEVEL,
    .read_levels = read_levels,
    .write_levels = write_levels,
    .write_step = 2,
};
