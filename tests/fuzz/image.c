/* Any bytes as an image: PNG, PGM and PPM. The first byte says which size is asked for. A PNG is
 * read once more with its checksums put right, which mutations never are. */
#include <zlib.h>

#include "data/images.h"
#include "tests/fuzz/fuzz.h"

enum { SIGNATURE_BYTES = 8, CHUNK_BYTES = 12 };

static const uint8_t signature[SIGNATURE_BYTES] = "\x89PNG\r\n\x1a\n";

static uint32_t get_u32(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static void set_checksums(uint8_t *file, size_t bytes) {
    for (size_t at = SIGNATURE_BYTES; bytes - at >= CHUNK_BYTES;) {
        size_t length = get_u32(file + at);
        if (length > bytes - at - CHUNK_BYTES) return;
        uint8_t *end = file + at + 8 + length;
        uLong sum = crc32(0, file + at + 4, (uInt)length + 4);
        for (int i = 0; i < 4; i++) end[i] = (uint8_t)(sum >> (24 - 8 * i));
        at += CHUNK_BYTES + length;
    }
}

static void read_as(const uint8_t *file, size_t bytes, const ImagesRequest *request, bool is_png) {
    Arena *arena = arena_new("fuzz");
    Images images;
    Error err = {0};
    if ((is_png ? png_read : pnm_read)("fuzz", file, bytes, request, arena, &images, &err)) {
        const uint8_t *pixels = images.pixels;
        FUZZ_CHECK(shape_count(request->size) == images.height * images.width * images.channels);
        volatile uint8_t last = pixels[shape_count(request->size) - 1];
        (void)last;
    } else {
        fuzz_check_refusal(&err);
    }
    fuzz_check_memory(arena, bytes, 2);
    arena_free(arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static const Shape sizes[] = {{.rank = 3, .dim = {4, 4, 1}},
                                  {.rank = 3, .dim = {4, 4, 3}},
                                  {.rank = 3, .dim = {5, 9, 1}}};
    FuzzPart input = {data, bytes};
    ImagesRequest request = {.path = "fuzz", .size = sizes[fuzz_take_byte(&input) % 3]};
    bool is_png = input.bytes >= SIGNATURE_BYTES && !memcmp(input.data, signature, SIGNATURE_BYTES);
    if (!is_png && (input.bytes < 2 || input.data[0] != 'P')) return 0;
    read_as(input.data, input.bytes, &request, is_png);
    if (!is_png) return 0;
    uint8_t *file = malloc(input.bytes);
    memcpy(file, input.data, input.bytes);
    set_checksums(file, input.bytes);
    read_as(file, input.bytes, &request, true);
    free(file);
    return 0;
}
