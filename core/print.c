#include "core/print.h"

#include <stdlib.h>
#include <string.h>

/* ---- Characters ---- */

/* RFC 3629: no overlong forms, no surrogates, up to U+10FFFF. */
bool print_decode(const char *text, size_t left, unsigned *code, size_t *bytes) {
    static const unsigned lowest[] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *s = (const unsigned char *)text;
    *code = s[0];
    *bytes = 1;
    if (s[0] < 0x80) return true;
    size_t length = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4 || length > left) return false;
    unsigned found = s[0] & 0x7fu >> length;
    for (size_t i = 1; i < length; i++) {
        if ((s[i] & 0xc0) != 0x80) return false;
        found = found << 6 | (s[i] & 0x3fu);
    }
    bool is_surrogate = found >= 0xd800 && found <= 0xdfff;
    if (found < lowest[length] || is_surrogate || found > 0x10ffff) return false;
    *code = found;
    *bytes = length;
    return true;
}

/* Of the Unicode Standard: C0, C1, Zl, Zp, and all of Bidi_Control. */
bool print_is_hidden(unsigned code) {
    static const unsigned ranges[][2] = {{0, 0x1f},        {0x7f, 0x9f},     {0x61c, 0x61c},
                                         {0x200e, 0x200f}, {0x2028, 0x202e}, {0x2066, 0x2069}};
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (code >= ranges[i][0] && code <= ranges[i][1]) return true;
    return false;
}

/* ---- Pieces: a character, or what stands for it ---- */

enum { PIECE_BYTES = 12 };

/* Returns how many bytes of the text it was; `piece` gets a zero behind it. */
static size_t piece_of(const char *text, size_t left, const char *kept, char piece[PIECE_BYTES]) {
    unsigned code;
    size_t bytes;
    bool is_character = print_decode(text, left, &code, &bytes);
    bool is_kept = code && code < 0x80 && strchr(kept, (int)code);
    if (is_character && (is_kept || !print_is_hidden(code))) {
        memcpy(piece, text, bytes);
        piece[bytes] = '\0';
        return bytes;
    }
    const char *letter = code ? strchr("\nn\rr\tt", (int)code) : NULL;
    if (letter && code < ' ')
        snprintf(piece, PIECE_BYTES, "\\%c", letter[1]);
    else
        snprintf(piece, PIECE_BYTES, code < 0x100 ? "\\x%02x" : "\\u%04x", code & 0xffff);
    return bytes;
}

/* Into memory with an end; returns the bytes that all of it takes. */
static size_t fill(char *to, size_t room, const char *text, size_t bytes, const char *kept) {
    size_t used = 0;
    char piece[PIECE_BYTES];
    if (room) *to = '\0';
    for (size_t at = 0; at < bytes;) {
        at += piece_of(text + at, bytes - at, kept, piece);
        size_t length = strlen(piece);
        if (used + length < room)
            memcpy(to + used, piece, length + 1);
        else
            room = 0;
        used += length;
    }
    return used;
}

static void show(FILE *stream, const char *text, size_t bytes, const char *kept) {
    char piece[PIECE_BYTES];
    for (size_t at = 0; at < bytes;) {
        at += piece_of(text + at, bytes - at, kept, piece);
        fputs(piece, stream);
    }
}

/* ---- What is called ---- */

static const char lines[] = "\n\t"; /* what a text of several has */

static size_t count_breaks(const char *text) {
    size_t count = 0;
    for (; (text = strchr(text, '\n')); text++) count++;
    return count;
}

static void print_args(FILE *stream, const char *format, va_list args) {
    char some[1024], *text = some;
    va_list again;
    va_copy(again, args);
    int count = vsnprintf(some, sizeof some, format, args);
    size_t bytes = count > 0 ? (size_t)count : 0;
    if (bytes >= sizeof some) {
        text = checked_malloc("text to print", bytes + 1);
        vsnprintf(text, bytes + 1, format, again);
    }
    va_end(again);
    bool is_ended = bytes && text[bytes - 1] == '\n';
    bool are_ours = count_breaks(text) <= count_breaks(format);
    show(stream, text, bytes - is_ended, are_ours ? "\n" : "");
    if (is_ended) fputc('\n', stream);
    if (text != some) free(text);
}

void print_to(FILE *stream, const char *format, ...) {
    va_list args;
    va_start(args, format);
    print_args(stream, format, args);
    va_end(args);
}

void print_out(const char *format, ...) {
    va_list args;
    va_start(args, format);
    print_args(stdout, format, args);
    va_end(args);
}

void print_format(char *to, size_t room, const char *format, va_list args) {
    char text[8192];
    int count = vsnprintf(text, sizeof text, format, args);
    fill(to, room, text, count > 0 ? strlen(text) : 0, "");
}

void print_text(FILE *stream, const char *text, size_t bytes) {
    show(stream, text, bytes, lines);
}

static const char *shown(const char *text, size_t bytes, const char *kept, Arena *arena) {
    size_t room = fill(NULL, 0, text, bytes, kept) + 1;
    char *copy = arena_alloc(arena, room);
    fill(copy, room, text, bytes, kept);
    return copy;
}

const char *print_line(const char *text, size_t bytes, Arena *arena) {
    return shown(text, bytes, "", arena);
}

const char *print_lines(const char *text, size_t bytes, Arena *arena) {
    return shown(text, bytes, lines, arena);
}
