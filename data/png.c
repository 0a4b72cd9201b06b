/* PNG through libpng, whose only door this is. Grey or colour as stored: palettes become colours,
 * samples of 1 to 4 bits are widened to 8 and of 16 rounded to 8, interlaced files are read. What
 * is transparent is refused, since nobody says what lies behind it. */
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <png.h>

#include "data/images.h"

typedef struct Reading {
    const char *name;
    const unsigned char *at;
    size_t left;
    char message[128];
    const ImagesRequest *request;
    Arena *arena;
    Images *out;
    Error *err;
} Reading;

static void on_error(png_structp png, png_const_charp message) {
    Reading *reading = png_get_error_ptr(png);
    strncpy(reading->message, message, sizeof reading->message - 1);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp message) {
    (void)png, (void)message;
}

static void on_read(png_structp png, png_bytep to, size_t count) {
    Reading *reading = png_get_io_ptr(png);
    if (count > reading->left) png_error(png, "cut short");
    memcpy(to, reading->at, count);
    reading->at += count;
    reading->left -= count;
}

static png_voidp on_malloc(png_structp png, png_alloc_size_t bytes) {
    (void)png;
    return checked_malloc("PNG", bytes);
}

static void on_free(png_structp png, png_voidp memory) {
    (void)png;
    free(memory);
}

/* To 8 bits a sample, and colours instead of a palette. */
static void ask_for_bytes(png_structp png, png_infop info) {
    png_set_scale_16(png);
    if (png_get_color_type(png, info) == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
    png_set_expand_gray_1_2_4_to_8(png);
    png_set_interlace_handling(png);
}

static bool check_header(const Reading *reading, png_structp png, png_infop info) {
    int colour = png_get_color_type(png, info);
    if ((colour & PNG_COLOR_MASK_ALPHA) || png_get_valid(png, info, PNG_INFO_tRNS))
        return FAIL(reading->err, ERROR_INPUT,
                    "%s: has transparent pixels; flatten it onto a background first",
                    reading->name);
    int64_t channels = colour & PNG_COLOR_MASK_COLOR ? 3 : 1;
    return images_check_size(reading->name, reading->request, png_get_image_height(png, info),
                             png_get_image_width(png, info), channels, reading->err);
}

/* May be left by a longjmp: all that it changes lies behind pointers. */
static bool decode(const Reading *reading, png_structp png, png_infop info) {
    png_read_info(png, info);
    if (!check_header(reading, png, info)) return false;
    ask_for_bytes(png, info);
    png_read_update_info(png, info);
    const int64_t *size = reading->request->size.dim;
    size_t row = (size_t)(size[1] * size[2]);
    if (png_get_rowbytes(png, info) != row) png_error(png, "rows of an unexpected size");
    unsigned char *pixels = arena_alloc(reading->arena, row * (size_t)size[0]);
    png_bytepp rows = arena_new_array(reading->arena, png_bytep, size[0]);
    for (int64_t y = 0; y < size[0]; y++) rows[y] = pixels + (size_t)y * row;
    png_read_image(png, rows);
    png_read_end(png, NULL);
    *reading->out = (Images){1, size[0], size[1], size[2], PIXEL_U8, pixels};
    return true;
}

static bool decode_or_fail(Reading *reading, png_structp png, png_infop info) {
    if (!setjmp(png_jmpbuf(png))) return decode(reading, png, info);
    return FAIL(reading->err, ERROR_INPUT, "%s: damaged PNG: %s", reading->name, reading->message);
}

bool png_read(const char *name, const unsigned char *file, size_t bytes,
              const ImagesRequest *request, Arena *arena, Images *out, Error *err) {
    enum { SIDE_MAX = 65536 };
    Reading reading = {
        .name = name, .at = file, .left = bytes, .request = request, .arena = arena, .out = out};
    reading.err = err;
    png_structp png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, &reading, on_error,
                                               on_warning, NULL, on_malloc, on_free);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    bool is_read = false;
    if (info) {
        png_set_read_fn(png, &reading, on_read);
        png_set_user_limits(png, SIDE_MAX, SIDE_MAX);
        /* Nothing but what pixels are made of: memory is taken for what other chunks claim. */
        png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
        is_read = decode_or_fail(&reading, png, info);
    } else {
        is_read = FAIL(err, ERROR_SYSTEM, "%s: libpng cannot start", name);
    }
    png_destroy_read_struct(&png, &info, NULL);
    return is_read;
}
