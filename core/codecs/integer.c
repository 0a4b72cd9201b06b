/* int2 to int8: b-bit integer codes under a plane of scales; value = scale x (step k + base -
 * zero).
 *
 * Element i has the bits i b and up of one little-endian stream, so eight codes fill b bytes:
 *
 *     int4   byte 0 [k1 k0] byte 1 [k3 k2] ...
 *     int3   byte 0 [k2: 2 low bits][k1][k0]   byte 1 [k5: 1 low bit][k4][k3][k2: high bit] ...
 *     int8   byte i [ki] */
#include <assert.h>

#include "core/dtype.h"

enum { BLOCK = 512 };

static void encode(const float *x, int64_t count, const Scales *scales, void *codes) {
    for (int64_t done = 0; done < count; done += BLOCK) {
        float levels[BLOCK];
        int64_t block = count - done < BLOCK ? count - done : BLOCK;
        quantize_levels(x + done, scales, done, block, levels);
        levels_pack(levels, scales, done, block, codes);
    }
}

static void decode(const void *codes, const Scales *scales, int64_t first, int64_t count,
                   float *x) {
    for (int64_t done = 0; done < count;) {
        float levels[BLOCK];
        int64_t aligned = (first + done) & ~(int64_t)7, skip = first + done - aligned;
        int64_t block = count - done + skip < BLOCK ? count - done + skip : BLOCK;
        levels_unpack(codes, scales, aligned, block, levels);
        levels_decode(levels + skip, scales, first + done, block - skip, x + done);
        done += block - skip;
    }
}

#define INTEGER(bits)                                                                              \
    extern const Codec codec_int##bits;                                                            \
    const Codec codec_int##bits = {                                                                \
        .name = "int" #bits,                                                                       \
        .help = #bits " bits: integer codes, with scales",                                         \
        .code_bits = bits,                                                                         \
        .stores = CODE_LEVEL,                                                                      \
        .encode = encode,                                                                          \
        .decode = decode,                                                                          \
    };

INTEGER(2)
INTEGER(3)
INTEGER(4)
INTEGER(5)
INTEGER(6)
INTEGER(7)
INTEGER(8)
