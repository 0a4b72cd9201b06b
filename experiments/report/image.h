/* A small image inside the page: a PNG as a data URI. */
#ifndef NIBBLE_EXPERIMENTS_REPORT_IMAGE_H
#define NIBBLE_EXPERIMENTS_REPORT_IMAGE_H

#include "experiments/report/page.h"

enum { IMAGE_SIDE_MAX = 128 };

typedef struct Image {
    int height, width, channels; /* at most IMAGE_SIDE_MAX; 1 or 3 channels */
    const uint8_t *pixels;       /* [height, width, channels] */
} Image;

/* `text` says what it is, to who does not see it. */
void image_put(Page *page, const Image *image, const char *text);

/* The PNG file (ISO 15948), made in `arena`. Its pixels are stored, not compressed: they are few.
 */
const uint8_t *image_png(const Image *image, size_t *bytes, Arena *arena);

#endif
