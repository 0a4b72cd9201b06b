/* f16: IEEE 754 half precision, rounded half to even, with subnormals, infinities and NaNs.
 *
 *     15 14     10 9        0
 *     [s][exponent][fraction]
 *
 * No branches, so that compilers make vector code of the loops for any instruction set. */
#include <string.h>

#include "core/dtype.h"

extern const Codec codec_f16;

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint16_t encode_one(float x) {
    uint32_t bits = bits_of(x), magnitude = bits & 0x7fffffff, sign = bits >> 16 & 0x8000;
    /* Normal results: rebias the exponent (127 to 15), round away 13 fraction bits half to even; a
     * carry moves into the exponent, as it should. */
    uint32_t normal = (magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
    /* Below 2^-14 the spacing is fixed, 2^-24: adding 0.5 aligns the unit in the last place. */
    uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
    uint32_t code = magnitude < 0x38800000 ? subnormal : normal;
    code = magnitude >= 0x477ff000 ? 0x7c00 : code; /* 65520 and up round to infinity */
    uint32_t nan = 0x7e00 | (magnitude >> 13 & 0x3ff);
    code = magnitude > 0x7f800000 ? nan : code;
    return (uint16_t)(code | sign);
}

static float decode_one(uint16_t code) {
    uint32_t sign = (uint32_t)(code & 0x8000) << 16, magnitude = code & 0x7fff;
    uint32_t shifted = magnitude << 13;
    uint32_t normal = shifted + (112u << 23);
    /* Subnormal: fraction x 2^-24, an exact product. */
    uint32_t subnormal = bits_of((float)(int32_t)magnitude * 0x1p-24f);
    uint32_t special = shifted | 0x7f800000 | (magnitude > 0x7c00 ? 0x400000 : 0);
    uint32_t bits = magnitude < 0x400 ? subnormal : normal;
    bits = magnitude >= 0x7c00 ? special : bits;
    return float_of(bits | sign);
}

static void encode(const float *x, int64_t count, const Scales *scales, void *codes) {
    (void)scales;
    uint16_t *code = codes;
    for (int64_t i = 0; i < count; i++) code[i] = encode_one(x[i]);
}

static void decode(const void *codes, const Scales *scales, int64_t first, int64_t count,
                   float *x) {
    (void)scales;
    const uint16_t *code = (const uint16_t *)codes + first;
    for (int64_t i = 0; i < count; i++) x[i] = decode_one(code[i]);
}

const Codec codec_f16 = {
    .name = "f16",
    .help = "16 bits: IEEE 754 half precision",
    .code_bits = 16,
    .encode = encode,
    .decode = decode,
};
