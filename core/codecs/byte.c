/* byte: one code of at most 8 bits in each byte, unlike int2 to int8 not packed:
 *
 *     byte i [ki]
 *
 * For activations between forward and backward, where speed counts more than the last bit; of at
 * most 4 bits: core/codecs/nibble.c. */
#include "core/dtype.h"

static void read_levels(const void *codes, const Scales *scales, int64_t first, int64_t count,
                        float *levels) {
    levels_from_bytes((const uint8_t *)codes + first, scales, first, count, levels);
}

static void write_levels(const float *levels, const Scales *scales, int64_t first, int64_t count,
                         void *codes) {
    levels_to_bytes(levels, scales, first, count, (uint8_t *)codes + first);
}

extern const Codec codec_byte;
const Codec codec_byte = {
    .name = "byte",
    .help = "a byte per integer code, with scales",
    .code_bits = 8,
    .stores = CODE_LEVEL,
    .read_levels = read_levels,
    .write_levels = write_levels,
    .write_step = 1,
};
