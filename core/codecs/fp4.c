/* fp4: a floating-point number of a sign, two bits of exponent and one of mantissa, times a scale,
 * so that the largest is 1; as bitsandbytes has it on a CPU. Blocks of 64; the scale is the largest
 * magnitude.
 *
 *     byte i [k(2i + 1) k(2i)]      code [s e e m]
 *
 * A code's magnitude, in twelfths: 0, 1/16, 8, 12, 4, 6, 2, 3 for its low bits 0 .. 7. */
#include "core/codecs/absmax.h"

#define SUBNORMAL 5.208333333e-03f

static const float entries[16] = {
    -1.0f, -0.66666667f, -0.5f,       -0.33333333f, -0.25f,      -0.16666667f, -SUBNORMAL,  0.0f,
    -0.0f, SUBNORMAL,    0.16666667f, 0.25f,        0.33333333f, 0.5f,         0.66666667f, 1.0f,
};

/* Of the two zeros bitsandbytes takes -0, code 8, for what is just above. */
static const uint8_t code_of_entry[16] = {11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3};

CODEBOOK_CODED(fp4, 4, code_of_entry, 64, fit, "4 bits: a floating-point number, with scales");
