#include "data/describe.h"

enum { COUNTS_SHOWN = 20, CHANNELS_USUAL = 4 };

static const DatasetPart *part_of(const Dataset *d) {
    return d->train.count ? &d->train : &d->test;
}

static void bytes_range(const uint8_t *x, int64_t count, double *low, double *high) {
    uint8_t least = 255, most = 0;
    for (int64_t i = 0; i < count; i++) {
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
    }
    *low = least;
    *high = most;
}

static void floats_range(const float *x, int64_t count, double *low, double *high) {
    float least = x[0], most = x[0];
    for (int64_t i = 1; i < count; i++) {
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
    }
    *low = (double)least;
    *high = (double)most;
}

/* "60000 training and 10000 test images" */
static const char *parts_text(const Dataset *d, Arena *arena) {
    if (!d->train.count) return arena_format(arena, "%ld test images", (long)d->test.count);
    return arena_format(arena, "%ld training and %ld test images", (long)d->train.count,
                        (long)d->test.count);
}

static const char *pixels_text(const Dataset *d, Arena *arena) {
    const DatasetPart *part = part_of(d);
    int64_t count = part->count * dataset_pixels(d);
    bool are_bytes = d->pixel_type == PIXEL_U8;
    double low, high;
    if (are_bytes)
        bytes_range(part->pixels, count, &low, &high);
    else
        floats_range(part->pixels, count, &low, &high);
    return arena_format(arena, "%s from %.4g to %.4g", are_bytes ? "bytes" : "floats", low, high);
}

static int64_t *count_classes(const Dataset *d, Arena *arena) {
    const DatasetPart *part = part_of(d);
    int64_t *counts = arena_new_array(arena, int64_t, d->class_count);
    for (int64_t i = 0; i < part->count; i++) counts[part->labels[i]]++;
    return counts;
}

/* "10 classes, 6000 images each", "3 classes of 10, 12, 9 images" */
static const char *classes_text(const Dataset *d, Arena *arena) {
    const int64_t *counts = count_classes(d, arena);
    int64_t least = counts[0], most = counts[0];
    for (int64_t k = 1; k < d->class_count; k++) {
        least = counts[k] < least ? counts[k] : least;
        most = counts[k] > most ? counts[k] : most;
    }
    const char *text = arena_format(arena, "%ld classes", (long)d->class_count);
    if (least == most) return arena_format(arena, "%s, %ld images each", text, (long)most);
    if (d->class_count > COUNTS_SHOWN)
        return arena_format(arena, "%s of %ld to %ld images", text, (long)least, (long)most);
    for (int64_t k = 0; k < d->class_count; k++)
        text = arena_format(arena, "%s%s%ld", text, k ? ", " : " of ", (long)counts[k]);
    return arena_format(arena, "%s images", text);
}

const char *dataset_description(const Dataset *dataset, Arena *arena) {
    if (dataset->description) return dataset->description;
    const char *parts = parts_text(dataset, arena);
    const char *pixels = pixels_text(dataset, arena);
    const char *classes = classes_text(dataset, arena);
    return arena_format(arena, "data: %s of %ld x %ld x %ld (height, width, channels), %s; %s",
                        parts, (long)dataset->height, (long)dataset->width, (long)dataset->channels,
                        pixels, classes);
}

/* [n, channels, height, width] read as [n, height, width, channels]. */
static bool is_channels_first(const Dataset *d) {
    bool is_few = d->height == 1 || d->height == 3 || d->height == 4;
    return is_few && d->width > CHANNELS_USUAL && d->channels > CHANNELS_USUAL;
}

static bool begins_at_one(const Dataset *d, Arena *arena) {
    const int64_t *counts = count_classes(d, arena);
    bool are_others = true;
    for (int64_t k = 1; k < d->class_count; k++) are_others &= counts[k] > 0;
    return counts[0] == 0 && are_others;
}

const char *dataset_suspicion(const Dataset *dataset, Arena *arena) {
    if (dataset->pixel_type == PIXEL_TOKENS) return NULL;
    if (is_channels_first(dataset))
        return arena_format(arena,
                            "images of %ld x %ld x %ld: channels seem to come first; they are read "
                            "as [n, height, width, channels], so transpose them",
                            (long)dataset->height, (long)dataset->width, (long)dataset->channels);
    if (begins_at_one(dataset, arena))
        return "no image has label 0, and every other label is in use: labels seem to begin at 1; "
               "they count from 0, so subtract 1";
    return NULL;
}
