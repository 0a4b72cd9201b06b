#include "data/text/unicode.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

int64_t unicode_find_fault(Span text) {
    for (int64_t at = 0; at < text.bytes;) {
        utf8proc_int32_t point;
        utf8proc_ssize_t used =
            utf8proc_iterate((const utf8proc_uint8_t *)text.text + at, text.bytes - at, &point);
        if (used < 1) return at;
        at += used;
    }
    return -1;
}

int32_t unicode_at(Span text, int64_t at, int64_t *bytes) {
    utf8proc_int32_t point;
    *bytes = utf8proc_iterate((const utf8proc_uint8_t *)text.text + at, text.bytes - at, &point);
    return point;
}

int64_t unicode_before(Span text, int64_t end) {
    int64_t at = end - 1;
    while (at > 0 && ((unsigned char)text.text[at] & 0xc0) == 0x80) at--;
    return at;
}

bool unicode_is_space(int32_t point) {
    if (point >= 9 && point <= 13) return true;
    if (point == 0x85) return true;
    utf8proc_category_t c = utf8proc_category(point);
    return c == UTF8PROC_CATEGORY_ZS || c == UTF8PROC_CATEGORY_ZL || c == UTF8PROC_CATEGORY_ZP;
}

bool unicode_is_digit(int32_t point) {
    utf8proc_category_t c = utf8proc_category(point);
    return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

bool unicode_is_word(int32_t point) {
    utf8proc_category_t c = utf8proc_category(point);
    bool is_letter_or_mark = c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_ME;
    return is_letter_or_mark || c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL ||
           c == UTF8PROC_CATEGORY_PC || point == 0x200c || point == 0x200d;
}

int unicode_write(int32_t point, char out[4]) {
    return (int)utf8proc_encode_char(point, (utf8proc_uint8_t *)out);
}

Span unicode_normalize(Span text, UnicodeForm form, Arena *arena) {
    static const int options[] = {
        [UNICODE_NFC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE,
        [UNICODE_NFD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE,
        [UNICODE_NFKC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
        [UNICODE_NFKD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
    };
    bool is_ascii = true;
    for (int64_t i = 0; i < text.bytes; i++) is_ascii = is_ascii && !(text.text[i] & 0x80);
    if (is_ascii) return text;
    const utf8proc_uint8_t *in = (const utf8proc_uint8_t *)text.text;
    utf8proc_ssize_t room = utf8proc_decompose(in, text.bytes, NULL, 0, options[form]);
    size_t bytes = checked_mul(sizeof(utf8proc_int32_t), (size_t)room + 1);
    utf8proc_int32_t *points = arena_alloc(arena, bytes);
    utf8proc_decompose(in, text.bytes, points, room, options[form]);
    /* It writes the bytes over the code points, with a zero behind. */
    utf8proc_ssize_t count = utf8proc_reencode(points, room, options[form]);
    return (Span){(const char *)points, count};
}
