/* f32: IEEE 754 single precision, stored as it is.
 *
 *     31 30      23 22                    0
 *     [s][exponent][       fraction       ] */
#include <string.h>

#include "core/dtype.h"

extern const Codec codec_f32;

static void encode(const float *x, int64_t count, const Scales *scales, void *codes) {
    (void)scales;
    memcpy(codes, x, (size_t)count * sizeof *x);
}

static void decode(const void *codes, const Scales *scales, int64_t first, int64_t count,
                   float *x) {
    (void)scales;
    memcpy(x, (const float *)codes + first, (size_t)count * sizeof *x);
}

const Codec codec_f32 = {
    .name = "f32",
    .help = "32 bits: IEEE 754 single precision",
    .code_bits = 32,
    .encode = encode,
    .decode = decode,
};
