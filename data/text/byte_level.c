#include "data/text/byte_level.h"

static bool is_itself(int byte) {
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

/* points[byte]; the inverse is a search of what is beyond Latin-1. */
static void fill(int32_t points[256]) {
    int32_t next = 0x100;
    for (int byte = 0; byte < 256; byte++) points[byte] = is_itself(byte) ? byte : next++;
}

Span byte_level_encode(Span bytes, Arena *arena) {
    int32_t points[256];
    fill(points);
    char *out = arena_alloc(arena, 2 * (size_t)bytes.bytes), *at = out;
    for (int64_t i = 0; i < bytes.bytes; i++) {
        char character[4];
        int count = unicode_write(points[(unsigned char)bytes.text[i]], character);
        for (int j = 0; j < count; j++) *at++ = character[j];
    }
    return (Span){out, at - out};
}

Span byte_level_decode(Span text, Arena *arena) {
    int32_t points[256], bytes_of[0x144];
    fill(points);
    for (int i = 0; i < 0x144; i++) bytes_of[i] = -1;
    for (int byte = 0; byte < 256; byte++) bytes_of[points[byte]] = byte;
    char *out = arena_alloc(arena, (size_t)text.bytes), *at = out;
    for (int64_t i = 0, used; i < text.bytes; i += used) {
        int32_t point = unicode_at(text, i, &used);
        if (point < 0x144 && bytes_of[point] >= 0) {
            *at++ = (char)bytes_of[point];
        } else {
            for (int64_t j = 0; j < used; j++) *at++ = text.text[i + j];
        }
    }
    return (Span){out, at - out};
}
