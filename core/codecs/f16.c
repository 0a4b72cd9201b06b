/* f16: IEEE 754 half precision, rounded half to even, with subnormals, infinities and NaNs.
 *
 *     15 14     10 9        0
 *     [s][exponent][fraction]
 */
#include "core/dtype.h"
#include "core/kernels/isa.h"

extern const Codec codec_f16;

static void encode(const float *x, int64_t count, const Scales *scales, void *codes) {
    (void)scales;
    isa_active()->f16_encode(x, count, codes);
}

static void decode(const void *codes, const Scales *scales, int64_t first, int64_t count,
                   float *x) {
    (void)scales;
    isa_active()->f16_decode((const uint16_t *)codes + first, count, x);
}

static void turn(const uint32_t *words, int64_t words_stride, int64_t count, float *x,
                 int64_t x_stride) {
    isa_active()->f16_turn(words, words_stride, count, x, x_stride);
}

static void multiply(const CodedJob *job) {
    isa_active()->f16_product(job);
}

const Codec codec_f16 = {
    .name = "f16",
    .help = "16 bits: IEEE 754 half precision",
    .code_bits = 16,
    .encode = encode,
    .decode = decode,
    .turn = turn,
    .multiply = multiply,
};
