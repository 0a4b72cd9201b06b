/* int2 to int8: b-bit integer codes under a plane of scales; value = scale x (step k + base -
 * zero).
 *
 * Element i has the bits i b and up of one little-endian stream, so eight codes fill b bytes:
 *
 *     int4   byte 0 [k1 k0] byte 1 [k3 k2] ...
 *     int3   byte 0 [k2: 2 low bits][k1][k0]   byte 1 [k5: 1 low bit][k4][k3][k2: high bit] ...
 *     int8   byte i [ki] */
#include "core/codecs/together.h"

enum { TOGETHER = 8 /* codes that fill whole bytes */ };

static void bits_pack(const uint8_t *codes, int64_t count, int bits, uint8_t *bytes) {
    for (int64_t i = 0; i < count; i += 8, bytes += bits) {
        int64_t eight = count - i < 8 ? count - i : 8;
        uint64_t word = 0;
        for (int64_t j = 0; j < eight; j++) word |= (uint64_t)codes[i + j] << (j * bits);
        int64_t byte_count = (eight * bits + 7) / 8;
        for (int64_t j = 0; j < byte_count; j++) bytes[j] = (uint8_t)(word >> (8 * j));
    }
}

static void bits_unpack(const uint8_t *bytes, int64_t count, int bits, uint8_t *codes) {
    uint64_t mask = (1u << bits) - 1;
    for (int64_t i = 0; i < count; i += 8, bytes += bits) {
        int64_t eight = count - i < 8 ? count - i : 8;
        int64_t byte_count = (eight * bits + 7) / 8;
        uint64_t word = 0;
        for (int64_t j = 0; j < byte_count; j++) word |= (uint64_t)bytes[j] << (8 * j);
        for (int64_t j = 0; j < eight; j++) codes[i + j] = (uint8_t)(word >> (j * bits) & mask);
    }
}

#define BITS(scales) ((Together){TOGETHER, (scales)->grid.bits, bits_pack, bits_unpack})
TOGETHER_LEVELS(BITS(scales))

#define INTEGER(bits)                                                                              \
    extern const Codec codec_int##bits;                                                            \
    const Codec codec_int##bits = {                                                                \
        .name = "int" #bits,                                                                       \
        .help = #bits " bits: integer codes, with scales",                                         \
        .code_bits = bits,                                                                         \
        .stores = CODE_LEVEL,                                                                      \
        .read_levels = read_levels,                                                                \
        .write_levels = write_levels,                                                              \
        .write_step = TOGETHER,                                                                    \
    };

INTEGER(2)
INTEGER(3)
INTEGER(4)
INTEGER(5)
INTEGER(6)
INTEGER(7)
INTEGER(8)
