/* Image files: what each format gives, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <png.h>

#include "data/h5.h"
#include "data/images.h"

static Arena *arena;
static char folder[] = "/tmp/nibble-images-XXXXXX";

static const char *in_folder(const char *name) {
    return arena_format(arena, "%s/%s", folder, name);
}

enum { HEIGHT = 3, WIDTH = 5, GREY = HEIGHT * WIDTH, COLOUR = 3 * GREY };

static unsigned char grey[GREY], colour[COLOUR];

static int set_up(void **state) {
    (void)state;
    arena = arena_new("test");
    for (int i = 0; i < GREY; i++) grey[i] = (unsigned char)(i * 17);
    for (int i = 0; i < COLOUR; i++) colour[i] = (unsigned char)(i * 5 + 1);
    return !mkdtemp(folder);
}

static int tear_down(void **state) {
    (void)state;
    arena_free(arena);
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

static const char *write_file(const char *name, const void *bytes, size_t count) {
    const char *path = in_folder(name);
    FILE *file = fopen(path, "wb");
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    fclose(file);
    return path;
}

static unsigned char *read_file(const char *path, size_t *count) {
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    unsigned char *bytes = arena_alloc(arena, 1 << 16);
    *count = fread(bytes, 1, 1 << 16, file);
    fclose(file);
    return bytes;
}

static ImagesRequest request(const char *path, int channels) {
    return (ImagesRequest){.path = path,
                           .size = SHAPE(HEIGHT, WIDTH, channels),
                           .type = PIXEL_U8,
                           .array = "test_images"};
}

static Images read_well(ImagesRequest r) {
    Images images;
    Error err = {0};
    if (!images_read(&r, arena, &images, &err)) fail_msg("%s", err.message);
    return images;
}

static void assert_refused(ImagesRequest r, const char *message) {
    Images images;
    Error err = {0};
    if (images_read(&r, arena, &images, &err)) fail_msg("was read, without \"%s\"", message);
    assert_int_equal(err.code, ERROR_INPUT);
    if (!strstr(err.message, message)) fail_msg("\"%s\" lacks \"%s\"", err.message, message);
    assert_non_null(strstr(err.message, r.path));
}

static void assert_image(Images images, const void *pixels, int channels) {
    assert_int_equal(images.count, 1);
    assert_int_equal(images.pixel_type, PIXEL_U8);
    assert_int_equal(images.channels, channels);
    assert_memory_equal(images.pixels, pixels, (size_t)(GREY * channels));
}

/* ---- PNG ---- */

typedef struct Png {
    int bits, type, interlace, channels; /* channels of a row as given */
    bool has_palette, has_transparency;
} Png;

/* `samples` of up to 8 bits a byte each, of 16 as two. */
static const char *write_png(const char *name, Png png, const unsigned char *samples) {
    const char *path = in_folder(name);
    FILE *file = fopen(path, "wb");
    png_structp p = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(p);
    png_init_io(p, file);
    png_set_IHDR(p, info, WIDTH, HEIGHT, png.bits, png.type, png.interlace, 0, 0);
    png_color palette[16];
    for (int i = 0; i < 16; i++)
        palette[i] = (png_color){(png_byte)i, (png_byte)(2 * i), (png_byte)(3 * i)};
    if (png.has_palette) png_set_PLTE(p, info, palette, 16);
    if (png.has_transparency) png_set_tRNS(p, info, (png_byte[]){0}, 1, NULL);
    png_write_info(p, info);
    if (png.bits < 8) png_set_packing(p);
    png_bytep rows[HEIGHT];
    int stride = WIDTH * png.channels * (png.bits == 16 ? 2 : 1);
    for (int y = 0; y < HEIGHT; y++) rows[y] = (png_bytep)(uintptr_t)samples + y * stride;
    png_write_image(p, rows);
    png_write_end(p, info);
    png_destroy_write_struct(&p, &info);
    fclose(file);
    return path;
}

static void png_gives_bytes(void **state) {
    (void)state;
    for (int interlace = 0; interlace <= 1; interlace++) {
        Png plain = {8, PNG_COLOR_TYPE_GRAY, interlace, 1, false, false};
        assert_image(read_well(request(write_png("grey.png", plain, grey), 1)), grey, 1);
        Png rgb = {8, PNG_COLOR_TYPE_RGB, interlace, 3, false, false};
        assert_image(read_well(request(write_png("colour.png", rgb, colour), 3)), colour, 3);
    }
}

/* Samples of b bits reach from 0 to 255: v 255 / (2^b - 1); of 16 bits rounded. */
static void png_of_other_depths(void **state) {
    (void)state;
    unsigned char samples[2 * GREY], expected[GREY];
    for (int bits = 1; bits <= 4; bits *= 2) {
        int most = (1 << bits) - 1;
        for (int i = 0; i < GREY; i++) {
            samples[i] = (unsigned char)(i % (most + 1));
            expected[i] = (unsigned char)(samples[i] * 255 / most);
        }
        Png png = {bits, PNG_COLOR_TYPE_GRAY, 0, 1, false, false};
        assert_image(read_well(request(write_png("few.png", png, samples), 1)), expected, 1);
    }
    for (int i = 0; i < GREY; i++) {
        int value = i * 4369 + 77;
        samples[2 * i] = (unsigned char)(value >> 8);
        samples[2 * i + 1] = (unsigned char)value;
        expected[i] = (unsigned char)lrint(value % 65536 / 257.0);
    }
    Png deep = {16, PNG_COLOR_TYPE_GRAY, 0, 1, false, false};
    assert_image(read_well(request(write_png("deep.png", deep, samples), 1)), expected, 1);
}

static void png_palette_becomes_colours(void **state) {
    (void)state;
    unsigned char samples[GREY], expected[COLOUR];
    for (int i = 0; i < GREY; i++) {
        samples[i] = (unsigned char)(i % 16);
        for (int c = 0; c < 3; c++) expected[3 * i + c] = (unsigned char)(samples[i] * (c + 1));
    }
    Png png = {4, PNG_COLOR_TYPE_PALETTE, 0, 1, true, false};
    const char *path = write_png("palette.png", png, samples);
    assert_image(read_well(request(path, 3)), expected, 3);
    png.has_transparency = true;
    assert_refused(request(write_png("clear.png", png, samples), 3), "transparent pixels; flatten");
}

static void png_of_another_kind_is_refused(void **state) {
    (void)state;
    unsigned char samples[4 * GREY] = {0};
    Png rgba = {8, PNG_COLOR_TYPE_RGB_ALPHA, 0, 4, false, false};
    assert_refused(request(write_png("alpha.png", rgba, samples), 3),
                   "transparent pixels; flatten");
    Png grey_alpha = {8, PNG_COLOR_TYPE_GRAY_ALPHA, 0, 2, false, false};
    assert_refused(request(write_png("ga.png", grey_alpha, samples), 1), "transparent pixels");
    Png plain = {8, PNG_COLOR_TYPE_GRAY, 0, 1, false, false};
    const char *path = write_png("grey.png", plain, grey);
    assert_refused(request(path, 3), "3x5x1 (height, width, channels), but the model takes 3x5x3; "
                                     "nothing is resized or converted here");
    ImagesRequest taller = request(path, 1);
    taller.size.dim[0] = 4;
    assert_refused(taller, "3x5x1 (height, width, channels), but the model takes 4x5x1");
    taller.size.dim[0] = HEIGHT;
    taller.type = PIXEL_F32;
    assert_refused(taller, "its pixels are bytes, but the model was trained on f32");
}

static void damaged_png_is_refused(void **state) {
    (void)state;
    Png rgb = {8, PNG_COLOR_TYPE_RGB, 1, 3, false, false};
    size_t bytes;
    unsigned char *whole = read_file(write_png("whole.png", rgb, colour), &bytes);
    for (size_t cut = 8; cut < bytes; cut++)
        assert_refused(request(write_file("cut.png", whole, cut), 3), "damaged PNG: ");
    assert_refused(request(write_file("cut.png", whole, bytes / 2), 3), "cut short");
    for (size_t i = 8; i < bytes; i++) { /* refused, or an unimportant byte; never a crash */
        whole[i] ^= 0x5a;
        ImagesRequest r = request(write_file("flipped.png", whole, bytes), 3);
        Images images;
        Error err = {0};
        if (!images_read(&r, arena, &images, &err)) assert_int_equal(err.code, ERROR_INPUT);
        whole[i] ^= 0x5a;
    }
}

static void limit_memory(rlim_t bytes) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    bytes = RLIM_INFINITY; /* sanitizers want more */
#endif
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_DATA, &limit), 0);
    limit.rlim_cur = bytes < limit.rlim_max ? bytes : limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_DATA, &limit), 0);
}

/* What is no part of the pixels is passed over, whatever it claims: no memory is taken for it. */
static void png_claims_are_not_believed(void **state) {
    (void)state;
    static const unsigned char text[] = "\x30\0\0\0zTXta\0\0", profile[] = "\x30\0\0\0iCCPa\0\0";
    Png plain = {8, PNG_COLOR_TYPE_GRAY, 0, 1, false, false};
    const unsigned char *const claims[] = {text, profile};
    enum { CLAIM = sizeof text - 1, HEAD = 33 }; /* signature and IHDR */
    size_t bytes;
    unsigned char *whole = read_file(write_png("whole.png", plain, grey), &bytes), more[1024];
    for (int i = 0; i < 2; i++) {
        memcpy(more, whole, HEAD);
        memcpy(more + HEAD, claims[i], CLAIM);
        memcpy(more + HEAD + CLAIM, whole + HEAD, bytes - HEAD);
        const char *path = write_file("claims.png", more, bytes + CLAIM);
        limit_memory(512 << 20);
        assert_refused(request(path, 1), "damaged PNG: cut short");
        limit_memory(RLIM_INFINITY);
    }
}

/* ---- PGM and PPM ---- */

static const char *write_pnm(const char *header, const unsigned char *pixels, size_t count) {
    unsigned char bytes[256];
    size_t length = strlen(header);
    memcpy(bytes, header, length);
    memcpy(bytes + length, pixels, count);
    return write_file("image.pnm", bytes, length + count);
}

static void pnm_gives_bytes(void **state) {
    (void)state;
    assert_image(read_well(request(write_pnm("P5\n5 3\n255\n", grey, GREY), 1)), grey, 1);
    assert_image(read_well(request(write_pnm("P5 # a\n# b\n5\t3 #c\r255 ", grey, GREY), 1)), grey,
                 1);
    assert_image(read_well(request(write_pnm("P6\n5 3\n255\n", colour, COLOUR), 3)), colour, 3);
}

static void damaged_pnm_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *header;
        int pixels;
        const char *message;
    } cases[] = {
        {"P5\n5 3\n255\n", GREY - 1, "14 bytes of pixels, expected 15"},
        {"P5\n5 3\n255\n", GREY + 2, "17 bytes of pixels, expected 15"},
        {"P5\n5 3\n255", 0, "0 bytes of pixels, expected 15"},
        {"P5\n5 3\n15\n", GREY, "its largest value is 15; only 255 is read"},
        {"P5\n5 3\n65535\n", GREY, "its largest value is 65535"},
        {"P5\n0 3\n255\n", GREY, "no valid width"},
        {"P5\nx", 0, "no valid width"},
        {"P5\n5 99999999999999999999\n255\n", GREY, "no valid height"},
        {"P5\n5 3 #", 0, "no valid largest value"},
        {"P5\n3 5\n255\n", GREY, "5x3x1 (height, width, channels), but the model takes 3x5x1"},
        {"P6\n5 3\n255\n", COLOUR, "3x5x3 (height, width, channels), but the model takes 3x5x1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_refused(request(write_pnm(cases[i].header, colour, (size_t)cases[i].pixels), 1),
                       cases[i].message);
}

/* ---- Several images ---- */

static void idx_gives_its_images(void **state) {
    (void)state;
    unsigned char bytes[16 + 2 * GREY] = {0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, HEIGHT, 0, 0, 0, WIDTH};
    memcpy(bytes + 16, colour, 2 * GREY);
    Images images = read_well(request(write_file("two.idx", bytes, sizeof bytes), 1));
    assert_int_equal(images.count, 2);
    assert_memory_equal(images.pixels, colour, 2 * GREY);
    assert_refused(request(write_file("cut.idx", bytes, sizeof bytes - 1), 1),
                   "announces 30 bytes");
    unsigned char labels[] = {0, 0, 8, 1, 0, 0, 0, 2, 1, 2};
    assert_refused(request(write_file("labels.idx", labels, sizeof labels), 1),
                   "holds 1 dimensions, expected 3 or 4 (images)");
}

static const char *write_h5(const char *array, H5Element element, const void *pixels) {
    Error err = {0};
    const char *path = in_folder("images.h5");
    H5Writer *w = h5_write_begin(path, 0, arena, &err);
    h5_write_tensor(w, array, element, SHAPE(2, HEIGHT, WIDTH), pixels);
    if (!h5_write_export(w, &err)) fail_msg("%s", err.message);
    return path;
}

static void hdf5_gives_an_array(void **state) {
    (void)state;
    Images images = read_well(request(write_h5("test_images", H5_U8, colour), 1));
    assert_int_equal(images.count, 2);
    assert_memory_equal(images.pixels, colour, 2 * GREY);
    float floats[2 * GREY];
    for (int i = 0; i < 2 * GREY; i++) floats[i] = (float)i / 7;
    ImagesRequest r = request(write_h5("other", H5_F32, floats), 1);
    assert_refused(r, "test_images");
    r.array = "other";
    assert_refused(r, "its pixels are f32, but the model was trained on bytes");
    r.type = PIXEL_F32;
    assert_memory_equal(read_well(r).pixels, floats, sizeof floats);
    floats[GREY + 3] = NAN;
    write_h5("other", H5_F32, floats);
    assert_refused(r, "image 1 holds a value that is not finite");
    int32_t whole[2 * GREY] = {0};
    write_h5("other", H5_I32, whole);
    assert_refused(r, "elements are i32, expected u8 or f32");
}

static void raw_pixels(void **state) {
    (void)state;
    ImagesRequest r = request(write_file("bytes.raw", colour, 2 * GREY), 1);
    assert_refused(r, "not a PNG, PGM, PPM, IDX or HDF5 file; of bare pixels, give --shape H,W,C");
    r.is_raw = true;
    Images images = read_well(r);
    assert_int_equal(images.count, 2);
    assert_memory_equal(images.pixels, colour, 2 * GREY);
    write_file("bytes.raw", colour, 2 * GREY - 1);
    assert_refused(r, "has 29 bytes, expected a multiple of 15, an image of bytes");
    write_file("bytes.raw", colour, 0);
    assert_refused(r, "has 0 bytes");
    float floats[GREY] = {1.5f};
    write_file("bytes.raw", floats, sizeof floats);
    r.type = PIXEL_F32;
    assert_memory_equal(read_well(r).pixels, floats, sizeof floats);
    write_file("bytes.raw", floats, GREY);
    assert_refused(r, "expected a multiple of 60, an image of 32-bit floats");
}

static void what_is_no_file_is_refused(void **state) {
    (void)state;
    assert_refused(request(in_folder("missing.png"), 1), "No such file");
    assert_refused(request(folder, 1), "not a regular file");
    assert_refused(request(write_file("empty", "", 0), 1), "not a PNG");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(png_gives_bytes),
        cmocka_unit_test(png_of_other_depths),
        cmocka_unit_test(png_palette_becomes_colours),
        cmocka_unit_test(png_of_another_kind_is_refused),
        cmocka_unit_test(damaged_png_is_refused),
        cmocka_unit_test(png_claims_are_not_believed),
        cmocka_unit_test(pnm_gives_bytes),
        cmocka_unit_test(damaged_pnm_is_refused),
        cmocka_unit_test(idx_gives_its_images),
        cmocka_unit_test(hdf5_gives_an_array),
        cmocka_unit_test(raw_pixels),
        cmocka_unit_test(what_is_no_file_is_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
