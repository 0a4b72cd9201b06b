#include "data/text/byte_level.h"

static bool is_itself(int32_t point) {
    return (point >= 0x21 && point <= 0x7e) || (point >= 0xa1 && point <= 0xac) ||
           (point >= 0xae && point <= 0xff);
}

/* The others follow Latin-1, in their order. */
static int32_t point_of(int32_t byte) {
    if (is_itself(byte)) return byte;
    return byte <= 0x20 ? 0x100 + byte : byte <= 0xa0 ? 0x121 + byte - 0x7f : 0x143;
}

/* -1: it stands for none. */
static int32_t byte_of(int32_t point) {
    if (is_itself(point)) return point;
    if (point < 0x100 || point > 0x143) return -1;
    return point <= 0x120 ? point - 0x100 : point <= 0x142 ? point - 0x121 + 0x7f : 0xad;
}

Span byte_level_encode(Span bytes, Arena *arena) {
    char *out = arena_alloc(arena, 2 * (size_t)bytes.bytes), *at = out;
    for (int64_t i = 0; i < bytes.bytes; i++) {
        char character[4];
        int count = unicode_write(point_of((unsigned char)bytes.text[i]), character);
        for (int j = 0; j < count; j++) *at++ = character[j];
    }
    return (Span){out, at - out};
}

Span byte_level_decode(Span text, Arena *arena) {
    char *out = arena_alloc(arena, (size_t)text.bytes), *at = out;
    for (int64_t i = 0, used; i < text.bytes; i += used) {
        int32_t byte = byte_of(unicode_at(text, i, &used));
        if (byte >= 0) {
            *at++ = (char)byte;
        } else {
            for (int64_t j = 0; j < used; j++) *at++ = text.text[i + j];
        }
    }
    return (Span){out, at - out};
}
