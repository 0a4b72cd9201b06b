/* Files that are whole or absent, and prove it: a body followed by a trailer with its digest.
 *
 *     offset   bytes
 *     0        n      the body (an HDF5 file)
 *     n        8      magic "NIBBLEH5"
 *     n + 8    4      version, 1, little-endian
 *     n + 12   4      zero
 *     n + 16   8      n, little-endian
 *     n + 24   16     XXH3-128 of the body in its canonical (big-endian) form
 *
 * All but the digest have one right value, so no bit of a file can change unnoticed. */
#ifndef NIBBLE_DATA_ENVELOPE_H
#define NIBBLE_DATA_ENVELOPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/arena.h"
#include "core/error.h"

enum {
    ENVELOPE_TRAILER_BYTES = 40,
    ENVELOPE_DIGEST_BYTES = 16,
    ENVELOPE_DIGEST_TEXT = 2 * ENVELOPE_DIGEST_BYTES + 1, /* hexadecimal digits and a zero */
};

/* XXH3-128 of any bytes, as 32 hexadecimal digits of its canonical form. */
void envelope_digest(const void *bytes, size_t count, char text[ENVELOPE_DIGEST_TEXT]);

/* PATH.tmp.<pid>, in the same directory as PATH; leftovers of dead writers of PATH are removed. */
const char *envelope_begin(const char *path, Arena *arena);
/* Whether the file system that holds `path` has room for `bytes` more. */
bool envelope_check_room(const char *path, uint64_t bytes, Error *err);
/* Reads the finished body at `temporary` back and appends its trailer. */
bool envelope_seal(const char *temporary, Error *err);
/* Syncs `temporary` and renames it to `path`; the old file stays as `previous` unless NULL. `path`
 * is a whole file at every moment. */
bool envelope_publish(const char *temporary, const char *path, const char *previous, Error *err);

typedef struct Envelope {
    const unsigned char *body;
    size_t bytes; /* of the body */
    unsigned char digest[ENVELOPE_DIGEST_BYTES];
} Envelope;

/* Reads and checks; the body lives in `arena`. A file that has no trailer is refused before it is
 * read. Links are not followed (core/file.h). ERROR_INPUT: absent, damaged or not ours;
 * ERROR_SYSTEM: it could not be read, and may be as good as ever. */
bool envelope_open(const char *path, Arena *arena, Envelope *out, Error *err);
/* The digest that a file claims, as text, without looking at its body. */
bool envelope_claim(const char *path, char text[ENVELOPE_DIGEST_TEXT], Error *err);

#endif
