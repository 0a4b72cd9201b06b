/* bf16: the upper half of an f32, rounded half to even. Range of f32, 8 bits of precision.
 *
 *     15 14      7 6       0
 *     [s][exponent][fraction] */
#include <string.h>

#include "core/dtype.h"

extern const Codec codec_bf16;

static void encode(const float *x, int64_t count, const Scales *scales, void *codes) {
    (void)scales;
    uint16_t *code = codes;
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        uint32_t quieted = bits >> 16 | 0x40; /* a NaN must not round into an infinity */
        code[i] = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? quieted : rounded);
    }
}

static void decode(const void *codes, const Scales *scales, int64_t first, int64_t count,
                   float *x) {
    (void)scales;
    const uint16_t *code = (const uint16_t *)codes + first;
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits = (uint32_t)code[i] << 16;
        memcpy(x + i, &bits, sizeof bits);
    }
}

const Codec codec_bf16 = {
    .name = "bf16",
    .help = "16 bits: the upper half of an f32, rounded half to even",
    .code_bits = 16,
    .encode = encode,
    .decode = decode,
};
