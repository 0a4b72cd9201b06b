/* PGM and PPM, binary (https://netpbm.sourceforge.net/doc/pgm.html, ppm.html):
 *
 *     "P5" (grey) or "P6" (red, green, blue), then width, height and the largest value as decimal
 *     numbers between white space and "# ..." comments, one white space, then rows of bytes
 *
 * The largest value must be 255, and one image is all that the file holds. */
#include <string.h>

#include "data/images.h"

typedef struct Scan {
    const char *name;
    const unsigned char *at, *end;
} Scan;

static bool is_space(unsigned char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void skip_comment(Scan *s) {
    while (s->at < s->end && *s->at != '\n' && *s->at != '\r') s->at++;
}

/* The next number of the header, behind white space and comments. */
static bool scan_number(Scan *s, const char *what, int64_t *out, Error *err) {
    enum { MOST = 1 << 24 };
    while (s->at < s->end && (is_space(*s->at) || *s->at == '#'))
        if (*s->at == '#')
            skip_comment(s);
        else
            s->at++;
    const unsigned char *first = s->at;
    *out = 0;
    while (s->at < s->end && *s->at >= '0' && *s->at <= '9' && *out < MOST)
        *out = *out * 10 + (*s->at++ - '0');
    if (s->at > first && *out > 0 && *out < MOST) return true;
    return FAIL(err, ERROR_INPUT, "%s: no valid %s in its header", s->name, what);
}

bool pnm_read(const char *name, const unsigned char *file, size_t bytes,
              const ImagesRequest *request, Arena *arena, Images *out, Error *err) {
    Scan s = {name, file + 2, file + bytes};
    int64_t width, height, most, channels = file[1] == '6' ? 3 : 1;
    TRY(scan_number(&s, "width", &width, err));
    TRY(scan_number(&s, "height", &height, err));
    TRY(scan_number(&s, "largest value", &most, err));
    if (most != 255)
        return FAIL(err, ERROR_INPUT, "%s: its largest value is %lld; only 255 is read", name,
                    (long long)most);
    TRY(images_check_size(name, request, height, width, channels, err));
    if (s.at < s.end) s.at++; /* the one white space */
    size_t expected = (size_t)(width * height * channels), found = (size_t)(s.end - s.at);
    if (found != expected)
        return FAIL(err, ERROR_INPUT, "%s: %zu bytes of pixels, expected %zu", name, found,
                    expected);
    void *pixels = memcpy(arena_alloc(arena, expected), s.at, expected);
    *out = (Images){1, height, width, channels, PIXEL_U8, pixels};
    return true;
}
