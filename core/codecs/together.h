/* Levels that are stored several together, in whole bytes: what codecs of packed codes share. */
#ifndef NIBBLE_CORE_CODECS_TOGETHER_H
#define NIBBLE_CORE_CODECS_TOGETHER_H

#include <string.h>

#include "core/dtype.h"

/* `codes` codes fill `bytes` bytes; the last of a tensor may be fewer. `pack` finds codes of 0
 * behind the last one; what `unpack` writes may go on for TOGETHER_MOST bytes behind it. */
typedef struct Together {
    int codes, bytes;
    void (*pack)(const uint8_t *codes, int64_t count, int bytes_together, uint8_t *bytes);
    void (*unpack)(const uint8_t *bytes, int64_t count, int bytes_together, uint8_t *codes);
} Together;

enum { TOGETHER_BLOCK = 520 /* a multiple of any `codes` */, TOGETHER_MOST = 8 };

static inline void together_write(const Together *t, const float *levels, const Scales *scales,
                                  int64_t first, int64_t count, void *codes) {
    uint8_t *bytes = (uint8_t *)codes + first / t->codes * t->bytes;
    for (int64_t done = 0; done < count; done += TOGETHER_BLOCK) {
        uint8_t staged[TOGETHER_BLOCK + TOGETHER_MOST];
        int64_t block = count - done < TOGETHER_BLOCK ? count - done : TOGETHER_BLOCK;
        levels_to_bytes(levels + done, scales, first + done, block, staged);
        memset(staged + block, 0, TOGETHER_MOST);
        t->pack(staged, block, t->bytes, bytes + done / t->codes * t->bytes);
    }
}

static inline void together_read(const Together *t, const void *codes, const Scales *scales,
                                 int64_t first, int64_t count, float *levels) {
    const uint8_t *bytes = (const uint8_t *)codes + first / t->codes * t->bytes;
    for (int64_t done = 0, skip = first % t->codes; done < count; skip = 0) {
        uint8_t staged[TOGETHER_BLOCK + TOGETHER_MOST];
        int64_t some = count - done < TOGETHER_BLOCK - skip ? count - done : TOGETHER_BLOCK - skip;
        t->unpack(bytes, some + skip, t->bytes, staged);
        levels_from_bytes(staged + skip, scales, first + done, some, levels + done);
        bytes += TOGETHER_BLOCK / t->codes * t->bytes;
        done += some;
    }
}

/* read_levels and write_levels of a codec's row; `together` may depend on `scales`. */
#define TOGETHER_LEVELS(together)                                                                  \
    static void write_levels(const float *levels, const Scales *scales, int64_t first,             \
                             int64_t count, void *codes) {                                         \
        const Together t = together;                                                               \
        together_write(&t, levels, scales, first, count, codes);                                   \
    }                                                                                              \
    static void read_levels(const void *codes, const Scales *scales, int64_t first, int64_t count, \
                            float *levels) {                                                       \
        const Together t = together;                                                               \
        together_read(&t, codes, scales, first, count, levels);                                    \
    }

#endif
