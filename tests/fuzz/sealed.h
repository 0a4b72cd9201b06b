/* Files of ours for targets: a body that somebody changed, and sealed again. */
#ifndef NIBBLE_TESTS_FUZZ_SEALED_H
#define NIBBLE_TESTS_FUZZ_SEALED_H

#include "data/envelope.h"
#include "data/h5_format.h"
#include "tests/fuzz/fuzz.h"

/* Writes a file of that name; its path. */
static inline const char *sealed_file(const char *name, FuzzPart body, Arena *arena) {
    enum { LENGTH_AT = 28 /* in the superblock */ };
    char digest[ENVELOPE_DIGEST_TEXT];
    uint8_t *file = arena_zalloc(arena, body.bytes + ENVELOPE_TRAILER_BYTES);
    uint8_t *trailer = file + body.bytes;
    if (body.bytes) memcpy(file, body.data, body.bytes);
    if (body.bytes >= LENGTH_AT + 8) h5_put(file + LENGTH_AT, body.bytes, 8);
    memcpy(trailer, "NIBBLEH5", 8);
    h5_put(trailer + 8, 1, 4);
    h5_put(trailer + 16, body.bytes, 8);
    envelope_digest(file, body.bytes, digest);
    for (int i = 0; i < ENVELOPE_DIGEST_BYTES; i++) {
        char pair[3] = {digest[2 * i], digest[2 * i + 1], 0};
        trailer[24 + i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    return fuzz_file(name, (FuzzPart){file, body.bytes + ENVELOPE_TRAILER_BYTES});
}

#endif
