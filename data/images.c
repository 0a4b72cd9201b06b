#include "data/images.h"

#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "data/bytes.h"
#include "data/idx.h"

enum { MAGIC_BYTES = 8 };

bool images_check_size(const char *name, const ImagesRequest *request, int64_t height,
                       int64_t width, int64_t channels, Error *err) {
    const int64_t *wanted = request->size.dim;
    if (height == wanted[0] && width == wanted[1] && channels == wanted[2]) return true;
    return FAIL(err, ERROR_INPUT,
                "%s: %lldx%lldx%lld (height, width, channels), but the model takes %lldx%lldx%lld; "
                "nothing is resized or converted here: bring it to that size first",
                name, (long long)height, (long long)width, (long long)channels,
                (long long)wanted[0], (long long)wanted[1], (long long)wanted[2]);
}

/* ---- Formats, by how their files begin ---- */

typedef bool ImagesFormat(const ImagesRequest *request, Arena *arena, Images *out, Error *err);

/* One image from the bytes of the file. */
static bool read_one(const ImagesRequest *request, Arena *arena, Images *out, Error *err,
                     bool (*read)(const char *, const unsigned char *, size_t,
                                  const ImagesRequest *, Arena *, Images *, Error *)) {
    Arena *file = arena_new("image file");
    Bytes bytes;
    bool is_read = bytes_read(request->path, file, &bytes, err) &&
                   read(request->path, bytes.data, bytes.count, request, arena, out, err);
    arena_free(file);
    return is_read;
}

static bool read_png(const ImagesRequest *request, Arena *arena, Images *out, Error *err) {
    return read_one(request, arena, out, err, png_read);
}

static bool read_pnm(const ImagesRequest *request, Arena *arena, Images *out, Error *err) {
    return read_one(request, arena, out, err, pnm_read);
}

static bool read_idx(const ImagesRequest *request, Arena *arena, Images *out, Error *err) {
    IdxArray array;
    TRY(idx_read(request->path, arena, &array, err));
    if (array.rank < 3)
        return FAIL(err, ERROR_INPUT, "%s: holds %d dimensions, expected 3 or 4 (images)",
                    request->path, array.rank);
    *out = (Images){.count = array.dim[0],
                    .height = array.dim[1],
                    .width = array.dim[2],
                    .channels = array.rank == 4 ? array.dim[3] : 1,
                    .pixel_type = PIXEL_U8,
                    .pixels = array.values};
    return true;
}

static bool read_hdf5(const ImagesRequest *request, Arena *arena, Images *out, Error *err) {
    return hdf5_read_images(request->path, request->array, arena, out, err);
}

static bool read_raw(const ImagesRequest *request, Arena *arena, Images *out, Error *err) {
    bool is_bytes = request->type == PIXEL_U8;
    size_t each = (size_t)shape_count(request->size) * (is_bytes ? 1 : sizeof(float));
    Bytes bytes;
    TRY(bytes_read(request->path, arena, &bytes, err));
    if (bytes.count == 0 || bytes.count % each)
        return FAIL(err, ERROR_INPUT,
                    "%s: has %zu bytes, expected a multiple of %zu, an image of %s", request->path,
                    bytes.count, each, is_bytes ? "bytes" : "32-bit floats");
    *out = (Images){.count = (int64_t)(bytes.count / each),
                    .height = request->size.dim[0],
                    .width = request->size.dim[1],
                    .channels = request->size.dim[2],
                    .pixel_type = request->type,
                    .pixels = bytes.data};
    return true;
}

typedef struct FormatRow {
    const char *magic;
    int magic_bytes;
    ImagesFormat *read;
} FormatRow;

static const FormatRow formats[] = {
    {"\x89PNG\r\n\x1a\n", 8, read_png},  {"P5", 2, read_pnm},       {"P6", 2, read_pnm},
    {"\x89HDF\r\n\x1a\n", 8, read_hdf5}, {"\0\0\x08", 3, read_idx}, {"\x1f\x8b", 2, read_idx},
};

/* The first bytes, as many as there are; none of what cannot be opened, which reading tells. */
static void magic_read(const char *path, unsigned char magic[MAGIC_BYTES]) {
    memset(magic, 0xff, MAGIC_BYTES);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return;
    ssize_t got = read(fd, magic, MAGIC_BYTES);
    (void)got;
    close(fd);
}

static bool format_find(const ImagesRequest *request, ImagesFormat **out, Error *err) {
    unsigned char magic[MAGIC_BYTES];
    *out = read_raw;
    if (request->is_raw) return true;
    magic_read(request->path, magic);
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        *out = formats[i].read;
        if (!memcmp(magic, formats[i].magic, (size_t)formats[i].magic_bytes)) return true;
    }
    Arena *arena = arena_new("image file");
    Bytes bytes;
    bool is_there = bytes_read(request->path, arena, &bytes, err);
    arena_free(arena);
    if (!is_there) return false;
    return FAIL(err, ERROR_INPUT,
                "%s: not a PNG, PGM, PPM, IDX or HDF5 file; of bare pixels, give --shape H,W,C",
                request->path);
}

/* ---- What all must be ---- */

static bool type_check(const ImagesRequest *request, const Images *images, Error *err) {
    if (images->pixel_type == request->type) return true;
    bool are_bytes = images->pixel_type == PIXEL_U8;
    return FAIL(err, ERROR_INPUT,
                "%s: its pixels are %s, but the model was trained on %s; store them as those were",
                request->path, are_bytes ? "bytes" : "f32", are_bytes ? "f32" : "bytes");
}

static bool values_check(const ImagesRequest *request, const Images *images, Error *err) {
    const float *pixels = images->pixels;
    int64_t row = shape_count(request->size);
    for (int64_t i = 0; images->pixel_type == PIXEL_F32 && i < images->count * row; i++)
        if (!isfinite(pixels[i]))
            return FAIL(err, ERROR_INPUT, "%s: image %lld holds a value that is not finite",
                        request->path, (long long)(i / row));
    return true;
}

bool images_read(const ImagesRequest *request, Arena *arena, Images *out, Error *err) {
    ImagesFormat *read;
    *out = (Images){0};
    return format_find(request, &read, err) && read(request, arena, out, err) &&
           images_check_size(request->path, request, out->height, out->width, out->channels, err) &&
           type_check(request, out, err) && values_check(request, out, err);
}
