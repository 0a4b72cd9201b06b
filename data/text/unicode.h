/* Text as UTF-8. The only door to utf8proc. Ranges are bytes, not zero-terminated. */
#ifndef NIBBLE_DATA_TEXT_UNICODE_H
#define NIBBLE_DATA_TEXT_UNICODE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/arena.h"

/* A part of a text; the bytes are whoever's made it. */
typedef struct Span {
    const char *text;
    int64_t bytes;
} Span;

/* Where the first byte lies that is not UTF-8; -1: all are. */
int64_t unicode_find_fault(Span text);

/* Of valid text: the code point at `at`, and how many bytes it has. */
int32_t unicode_at(Span text, int64_t at, int64_t *bytes);
int64_t unicode_before(Span text, int64_t end); /* where the code point that ends there begins */

bool unicode_is_space(int32_t point); /* White_Space */
bool unicode_is_word(int32_t point);  /* letters, marks, numbers, connecting punctuation */
bool unicode_is_digit(int32_t point); /* numbers of any script */

int unicode_write(int32_t point, char out[4]); /* its bytes; returns how many */

typedef enum UnicodeForm { UNICODE_NFC, UNICODE_NFD, UNICODE_NFKC, UNICODE_NFKD } UnicodeForm;
Span unicode_normalize(Span text, UnicodeForm form, Arena *arena); /* of valid text */

#endif
