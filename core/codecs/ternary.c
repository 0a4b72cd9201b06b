/* ternary: codes 0, 1 and 2 under a plane of scales, five in a byte (3^5 = 243), 1.6 bits each.
 *
 *     byte i = k(5i) + 3 k(5i + 1) + 9 k(5i + 2) + 27 k(5i + 3) + 81 k(5i + 4)
 *
 * The stream knows no rows: a byte may hold the end of one and the beginning of the next. */
#include "core/codecs/together.h"

enum { FIVE = 5, BYTES = 243 /* that five codes make */ };

/* Five codes in the low bytes of a word, the first in the lowest. */
#define DIGIT0(word) word, (word) + 1, (word) + 2
#define DIGIT1(word) DIGIT0(word), DIGIT0((word) + (1ull << 8)), DIGIT0((word) + (2ull << 8))
#define DIGIT2(word) DIGIT1(word), DIGIT1((word) + (1ull << 16)), DIGIT1((word) + (2ull << 16))
#define DIGIT3(word) DIGIT2(word), DIGIT2((word) + (1ull << 24)), DIGIT2((word) + (2ull << 24))
#define DIGIT4(word) DIGIT3(word), DIGIT3((word) + (1ull << 32)), DIGIT3((word) + (2ull << 32))

static const uint64_t words[256] = {DIGIT4(0ull)}; /* bytes that mean nothing: code 0 */

static void pack(const uint8_t *codes, int64_t count, int bytes_together, uint8_t *bytes) {
    (void)bytes_together;
    for (int64_t i = 0; i < count; i += FIVE, codes += FIVE)
        *bytes++ =
            (uint8_t)(codes[0] + 3 * (codes[1] + 3 * (codes[2] + 3 * (codes[3] + 3 * codes[4]))));
}

static void unpack(const uint8_t *bytes, int64_t count, int bytes_together, uint8_t *codes) {
    (void)bytes_together;
    for (int64_t i = 0; i < count; i += FIVE) memcpy(codes + i, &words[*bytes++], sizeof *words);
}

static const Together together = {FIVE, 1, pack, unpack};

TOGETHER_LEVELS(together)

extern const Codec codec_ternary;
const Codec codec_ternary = {
    .name = "ternary",
    .help = "1.6 bits: three levels, five codes a byte, with scales",
    .codes_per_byte = FIVE,
    .byte_count = BYTES,
    .stores = CODE_LEVEL,
    .read_levels = read_levels,
    .write_levels = write_levels,
    .write_step = FIVE,
};
