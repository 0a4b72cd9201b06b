#include "data/image_rows.h"

#include <math.h>
#include <string.h>

#include "core/random.h"

void image_rows_init(ImageRows *rows, const Dataset *dataset, const LoaderConfig *config,
                     uint64_t seed, Arena *arena) {
    size_t width = (size_t)dataset->width, channels = (size_t)dataset->channels;
    *rows = (ImageRows){.dataset = dataset, .augment = config->augment, .seed = seed};
    rows->mean = arena_new_array(arena, float, channels);
    rows->deviation = arena_new_array(arena, float, channels);
    rows->padding = arena_new_array(arena, float, checked_mul(width, channels));
    if (dataset->pixel_type == PIXEL_U8)
        rows->table = arena_new_array(arena, float, channels * 256);
}

/* ---- Normalisation ---- */

typedef struct RowList {
    const int64_t *rows;
    int64_t count;
} RowList;

static void moments_set(ImageRows *rows, int64_t channel, double mean, double square) {
    double variance = square - mean * mean;
    rows->mean[channel] = (float)mean;
    /* A channel that never changes is centred, not scaled. */
    rows->deviation[channel] = variance > 1e-12 * square ? (float)sqrt(variance) : 1.0f;
}

/* Of bytes: exact, from counts of each value. */
static void measure_bytes(ImageRows *rows, const RowList *list, Arena *arena) {
    int64_t channels = rows->dataset->channels, pixels = dataset_pixels(rows->dataset);
    int64_t *seen = arena_new_array(arena, int64_t, channels * 256);
    for (int64_t i = 0; i < list->count; i++) {
        const unsigned char *row =
            (const unsigned char *)rows->dataset->train.pixels + list->rows[i] * pixels;
        for (int64_t p = 0, c = 0; p < pixels; p++) {
            seen[c * 256 + row[p]]++;
            if (++c == channels) c = 0;
        }
    }
    double count = (double)(list->count * (pixels / channels));
    for (int64_t c = 0; c < channels; c++) {
        double sum = 0, squares = 0;
        for (int v = 0; v < 256; v++) {
            sum += (double)seen[c * 256 + v] * v;
            squares += (double)seen[c * 256 + v] * v * v;
        }
        moments_set(rows, c, sum / count, squares / count);
    }
}

static void measure_floats(ImageRows *rows, const RowList *list, Arena *arena) {
    int64_t channels = rows->dataset->channels, pixels = dataset_pixels(rows->dataset);
    double *sum = arena_new_array(arena, double, channels);
    double *squares = arena_new_array(arena, double, channels);
    for (int64_t i = 0; i < list->count; i++) {
        const float *row = (const float *)rows->dataset->train.pixels + list->rows[i] * pixels;
        for (int64_t p = 0; p < pixels; p++) {
            sum[p % channels] += (double)row[p];
            squares[p % channels] += (double)row[p] * (double)row[p];
        }
    }
    double count = (double)(list->count * (pixels / channels));
    for (int64_t c = 0; c < channels; c++) moments_set(rows, c, sum[c] / count, squares[c] / count);
}

/* What follows from mean and deviation. */
static void follow(ImageRows *rows) {
    int64_t channels = rows->dataset->channels;
    for (int64_t i = 0; i < rows->dataset->width * channels; i++)
        rows->padding[i] = (0.0f - rows->mean[i % channels]) / rows->deviation[i % channels];
    if (!rows->table) return;
    for (int64_t v = 0; v < 256; v++)
        for (int64_t c = 0; c < channels; c++)
            rows->table[v * channels + c] = ((float)v - rows->mean[c]) / rows->deviation[c];
}

void image_rows_measure(ImageRows *rows, Normalize normalize, const int64_t *numbers, int64_t count,
                        Arena *arena) {
    const RowList list = {numbers, count};
    bool is_bytes = rows->dataset->pixel_type == PIXEL_U8;
    bool is_unit = normalize == NORMALIZE_UNIT && is_bytes;
    for (int64_t c = 0; c < rows->dataset->channels; c++) {
        rows->mean[c] = 0;
        rows->deviation[c] = is_unit ? 255.0f : 1.0f;
    }
    if (normalize == NORMALIZE_STANDARD) {
        ArenaMark mark = arena_mark(arena);
        (is_bytes ? measure_bytes : measure_floats)(rows, &list, arena);
        arena_rewind(arena, mark);
    }
    follow(rows);
}

void image_rows_use(ImageRows *rows, const float *mean, const float *deviation) {
    size_t bytes = sizeof(float) * (size_t)rows->dataset->channels;
    memcpy(rows->mean, mean, bytes);
    memcpy(rows->deviation, deviation, bytes);
    follow(rows);
}

/* ---- One image ---- */

/* Where the crop starts, from -padding to padding, and whether it is mirrored. */
typedef struct Change {
    int64_t y, x;
    bool is_flipped;
} Change;

static Change change_of(const ImageRows *rows, int64_t epoch, int64_t row) {
    RandomKey key = {rows->seed, RANDOM_AUGMENT, (uint64_t)epoch};
    Random4 random = random_words(key, (uint64_t)row);
    int64_t padding = rows->augment.crop_padding, places = 2 * padding + 1;
    return (Change){
        .y = (int64_t)((uint64_t)random.word[0] * (uint64_t)places >> 32) - padding,
        .x = (int64_t)((uint64_t)random.word[1] * (uint64_t)places >> 32) - padding,
        .is_flipped = rows->augment.flip && random.word[2] >> 31,
    };
}

/* `count` stored pixels, normalised. */
static void pixels_write(const ImageRows *rows, const unsigned char *stored, int64_t count,
                         float *restrict out) {
    int64_t channels = rows->dataset->channels;
    const float *values = (const float *)(const void *)stored, *table = rows->table;
    if (table && channels == 1) {
        for (int64_t i = 0; i < count; i++) out[i] = table[stored[i]];
    } else if (channels == 1) {
        float mean = rows->mean[0], deviation = rows->deviation[0];
        for (int64_t i = 0; i < count; i++) out[i] = (values[i] - mean) / deviation;
    } else if (table) {
        for (int64_t i = 0; i < count * channels; i += channels)
            for (int64_t c = 0; c < channels; c++) out[i + c] = table[stored[i + c] * channels + c];
    } else {
        for (int64_t i = 0; i < count * channels; i += channels)
            for (int64_t c = 0; c < channels; c++)
                out[i + c] = (values[i + c] - rows->mean[c]) / rows->deviation[c];
    }
}

static void row_mirror(int64_t width, int64_t channels, float *row) {
    for (int64_t left = 0, right = width - 1; left < right; left++, right--)
        for (int64_t c = 0; c < channels; c++) {
            float swapped = row[left * channels + c];
            row[left * channels + c] = row[right * channels + c];
            row[right * channels + c] = swapped;
        }
}

static int64_t clamp(int64_t value, int64_t high) {
    return value < 0 ? 0 : value > high ? high : value;
}

/* Output pixel x of an unmirrored row is stored pixel x + change.x, or padding. */
static void image_write(const ImageRows *rows, const unsigned char *stored, Change change,
                        float *out) {
    int64_t height = rows->dataset->height, width = rows->dataset->width;
    int64_t channels = rows->dataset->channels;
    int64_t pixel_bytes = dataset_row_bytes(rows->dataset) / (height * width);
    int64_t begin = clamp(-change.x, width), end = clamp(width - change.x, width);
    if (!change.x && !change.y && !change.is_flipped) {
        pixels_write(rows, stored, height * width, out);
        return;
    }
    for (int64_t y = 0; y < height; y++, out += width * channels) {
        int64_t from = y + change.y;
        bool is_whole = from >= 0 && from < height && begin == 0 && end == width;
        if (!is_whole) memcpy(out, rows->padding, (size_t)(width * channels) * sizeof(float));
        if (from < 0 || from >= height || begin == end) continue;
        pixels_write(rows, stored + (from * width + begin + change.x) * pixel_bytes, end - begin,
                     out + begin * channels);
        if (change.is_flipped) row_mirror(width, channels, out);
    }
}

/* ---- Rows ---- */

static void row_write(const void *context, RowKey key, int64_t at, void *const arrays[]) {
    const ImageRows *rows = context;
    const DatasetPart *part = key.is_test ? &rows->dataset->test : &rows->dataset->train;
    Change change = key.is_augmented ? change_of(rows, key.epoch, key.row) : (Change){0};
    const unsigned char *stored =
        (const unsigned char *)part->pixels + key.row * dataset_row_bytes(rows->dataset);
    float *images = arrays[DATASET_IMAGES];
    int32_t *labels = arrays[DATASET_LABELS];
    image_write(rows, stored, change, images + at * dataset_pixels(rows->dataset));
    labels[at] = part->labels[key.row];
}

static void measure(void *context, Normalize normalize, const int64_t *numbers, int64_t count,
                    Arena *arena) {
    image_rows_measure(context, normalize, numbers, count, arena);
}

static void use(void *context, const float *mean, const float *deviation) {
    image_rows_use(context, mean, deviation);
}

Rows image_rows(ImageRows *rows) {
    Rows all = {.column_count = DATASET_COLUMNS,
                .write = row_write,
                .measure = measure,
                .use = use,
                .mean = rows->mean,
                .deviation = rows->deviation,
                .context = rows};
    dataset_columns(rows->dataset, all.columns);
    return all;
}

Rows image_rows_new(const Dataset *dataset, const LoaderConfig *config, uint64_t seed,
                    Arena *arena) {
    ImageRows *rows = arena_new_array(arena, ImageRows, 1);
    image_rows_init(rows, dataset, config, seed, arena);
    return image_rows(rows);
}
