#include "experiments/report/image.h"

#include <assert.h>
#include <string.h>

/* Bytes that are written one after the other, big-endian as PNG has them. */
typedef struct Bytes {
    uint8_t *at;
    size_t used;
} Bytes;

static void bytes_add(Bytes *b, const void *from, size_t count) {
    memcpy(b->at + b->used, from, count);
    b->used += count;
}

static void bytes_word(Bytes *b, uint32_t word) {
    uint8_t bytes[4] = {(uint8_t)(word >> 24), (uint8_t)(word >> 16), (uint8_t)(word >> 8),
                        (uint8_t)word};
    bytes_add(b, bytes, 4);
}

/* The CRC of ISO 3309, bit by bit. */
static uint32_t crc_of(const uint8_t *at, size_t count) {
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < count; i++) {
        crc ^= at[i];
        for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

/* Adler-32 of RFC 1950. */
static uint32_t adler_of(const uint8_t *at, size_t count) {
    uint32_t a = 1, b = 0;
    for (size_t i = 0; i < count; i++) {
        a = (a + at[i]) % 65521;
        b = (b + a) % 65521;
    }
    return b << 16 | a;
}

static void chunk_add(Bytes *b, const char name[4], const uint8_t *data, size_t count) {
    bytes_word(b, (uint32_t)count);
    size_t start = b->used;
    bytes_add(b, name, 4);
    bytes_add(b, data, count);
    bytes_word(b, crc_of(b->at + start, b->used - start));
}

/* A zlib stream (RFC 1950) of one stored block (RFC 1951) for each row: its filter, none, and its
 * pixels. */
static Bytes stream_of(const Image *image, Arena *arena) {
    size_t row = (size_t)image->width * (size_t)image->channels, lines = (size_t)image->height;
    Bytes raw = {arena_alloc(arena, (row + 1) * lines), 0};
    Bytes out = {arena_alloc(arena, (row + 6) * lines + 6), 0};
    bytes_add(&out, "\x78\x01", 2);
    for (size_t y = 0; y < lines; y++) {
        size_t count = row + 1, first = raw.used;
        uint8_t head[5] = {y + 1 == lines, (uint8_t)count, (uint8_t)(count >> 8), (uint8_t)~count,
                           (uint8_t)(~count >> 8)};
        bytes_add(&raw, "", 1);
        bytes_add(&raw, image->pixels + y * row, row);
        bytes_add(&out, head, 5);
        bytes_add(&out, raw.at + first, count);
    }
    bytes_word(&out, adler_of(raw.at, raw.used));
    return out;
}

const uint8_t *image_png(const Image *image, size_t *bytes, Arena *arena) {
    assert(image->height >= 1 && image->height <= IMAGE_SIDE_MAX && image->width >= 1 &&
           image->width <= IMAGE_SIDE_MAX && (image->channels == 1 || image->channels == 3));
    Bytes stream = stream_of(image, arena);
    Bytes png = {arena_alloc(arena, stream.used + 64), 0};
    Bytes head = {(uint8_t[13]){0}, 0};
    bytes_word(&head, (uint32_t)image->width);
    bytes_word(&head, (uint32_t)image->height);
    bytes_add(&head, image->channels == 3 ? "\x08\x02\0\0" : "\x08\0\0\0",
              5); /* 8 bits, RGB or grey */
    bytes_add(&png, "\x89PNG\r\n\x1a\n", 8);
    chunk_add(&png, "IHDR", head.at, head.used);
    chunk_add(&png, "IDAT", stream.at, stream.used);
    chunk_add(&png, "IEND", (const uint8_t *)"", 0);
    *bytes = png.used;
    return png.at;
}

/* RFC 4648. */
static void base64_put(Page *page, const uint8_t *at, size_t count) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *text = arena_alloc(page->arena, count / 3 * 4 + 5), *end = text;
    for (size_t i = 0; i < count; i += 3) {
        size_t left = count - i;
        uint32_t word = (uint32_t)at[i] << 16 | (uint32_t)(left > 1 ? at[i + 1] : 0) << 8 |
                        (left > 2 ? at[i + 2] : 0);
        *end++ = digits[word >> 18];
        *end++ = digits[word >> 12 & 63];
        *end++ = left > 1 ? digits[word >> 6 & 63] : '=';
        *end++ = left > 2 ? digits[word & 63] : '=';
    }
    *end = '\0';
    page_put(page, text);
}

void image_put(Page *page, const Image *image, const char *text) {
    size_t bytes;
    const uint8_t *png = image_png(image, &bytes, page->arena);
    page_put(page, "<img class=\"pixels\" alt=\"");
    page_text(page, text);
    page_format(page, "\" width=\"%d\" height=\"%d\" src=\"data:image/png;base64,", image->width,
                image->height);
    base64_put(page, png, bytes);
    page_put(page, "\"/>");
}
