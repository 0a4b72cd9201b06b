/* binary: codes 0 and 1 under a plane of scales, eight in a byte.
 *
 *     byte i [k(8i + 7) ... k(8i + 1) k(8i)] */
#include "core/codecs/together.h"

enum { EIGHT = 8 };

/* Eight codes are the bytes of a word, the first the lowest. */
static void pack(const uint8_t *codes, int64_t count, int bytes_together, uint8_t *bytes) {
    (void)bytes_together;
    for (int64_t i = 0; i < count; i += EIGHT) {
        uint64_t word;
        memcpy(&word, codes + i, sizeof word);
        /* moves bit 8 j to bit 56 + j */
        *bytes++ = (uint8_t)(word * 0x0102040810204080ull >> 56);
    }
}

static void unpack(const uint8_t *bytes, int64_t count, int bytes_together, uint8_t *codes) {
    (void)bytes_together;
    const uint64_t each = 0x0101010101010101ull;
    for (int64_t i = 0; i < count; i += EIGHT) {
        uint64_t own = *bytes++ * each & 0x8040201008040201ull; /* byte j keeps bit j alone */
        uint64_t word = (own + 0x7f * each) >> 7 & each;        /* whether it is set */
        memcpy(codes + i, &word, sizeof word);
    }
}

static const Together together = {EIGHT, 1, pack, unpack};

TOGETHER_LEVELS(together)

extern const Codec codec_binary;
const Codec codec_binary = {
    .name = "binary",
    .help = "1 bit: two levels, with scales",
    .code_bits = 1,
    .stores = CODE_LEVEL,
    .read_levels = read_levels,
    .write_levels = write_levels,
    .write_step = EIGHT,
};
