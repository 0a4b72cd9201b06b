/* Images of a file as a person has them: PNG, PGM and PPM, IDX (plain or gzip), an array of an HDF5
 * file, or bare numbers. The format is seen from the first bytes, never from the name. Nothing is
 * resized and no colour converted: what is not of the size and type asked for is refused. */
#ifndef NIBBLE_DATA_IMAGES_H
#define NIBBLE_DATA_IMAGES_H

#include "core/tensor.h"
#include "data/dataset.h"

typedef struct Images {
    int64_t count, height, width, channels;
    PixelType pixel_type;
    const void *pixels; /* [count, height, width, channels], bytes or f32 */
} Images;

typedef struct ImagesRequest {
    const char *path;
    Shape size;        /* [height, width, channels] of every image */
    PixelType type;    /* of every pixel */
    bool is_raw;       /* the file is nothing but pixels, little-endian */
    const char *array; /* of an HDF5 file */
} ImagesRequest;

/* All images of a file, in `arena`. ERROR_INPUT, with the path: what is cut short, damaged, of no
 * known format, of another size or type. No image is decoded before its size is known to be right.
 */
bool images_read(const ImagesRequest *request, Arena *arena, Images *out, Error *err);

/* ---- For the formats. ---- */

/* Whether images of this size are wanted. `name` is for messages. */
bool images_check_size(const char *name, const ImagesRequest *request, int64_t height,
                       int64_t width, int64_t channels, Error *err);

/* One image in the bytes of a file (data/png.c, data/pnm.c). */
bool png_read(const char *name, const unsigned char *file, size_t bytes,
              const ImagesRequest *request, Arena *arena, Images *out, Error *err);
bool pnm_read(const char *name, const unsigned char *file, size_t bytes,
              const ImagesRequest *request, Arena *arena, Images *out, Error *err);

/* An array of an HDF5 file, read in a process that may die (data/datasets/hdf5.c). */
bool hdf5_read_images(const char *path, const char *array, Arena *arena, Images *out, Error *err);

#endif
