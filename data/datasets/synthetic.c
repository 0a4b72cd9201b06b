/* Images that can be learned and need no files: each class has a prototype of uniform random bytes,
 * an image is its class's prototype plus normal noise. Labels go round the classes. */
#include <math.h>

#include "core/random.h"
#include "data/dataset.h"
#include "data/loader.h"

typedef struct SyntheticConfig {
    LoaderConfig loader;
    int64_t classes, height, width, channels, train, test, seed;
    double noise;
} SyntheticConfig;

static const Field synthetic_fields[] = {
    LOADER_FIELDS(SyntheticConfig),
    FIELD_INT(SyntheticConfig, classes, "10", 2, 1000, "number of classes"),
    FIELD_INT(SyntheticConfig, height, "16", 1, 1024, "pixels"),
    FIELD_INT(SyntheticConfig, width, "16", 1, 1024, "pixels"),
    FIELD_INT(SyntheticConfig, channels, "1", 1, 64, "numbers per pixel"),
    FIELD_INT(SyntheticConfig, train, "10000", 1, 1e7, "training images, validation included"),
    FIELD_INT(SyntheticConfig, test, "2000", 1, 1e7, "test images"),
    FIELD_FLOAT(SyntheticConfig, noise, "0.3", 0, 10,
                "standard deviation of the noise, as a fraction of the range of a byte"),
    FIELD_INT(SyntheticConfig, seed, "1", 0, 1e9, "of the data; not that of the run"),
    FIELD_END,
};

enum { STEP_PROTOTYPES, STEP_TRAIN, STEP_TEST }; /* of the random key */

static bool part_make(const SyntheticConfig *config, int64_t count, uint64_t step, Arena *arena,
                      DatasetPart *out, Error *err) {
    int64_t dims[] = {count, config->height, config->width, config->channels}, bytes;
    TRY(dataset_bytes("synthetic", dims, 4, 1, &bytes, err));
    unsigned char *pixels = arena_alloc(arena, (size_t)bytes);
    int32_t *labels = arena_new_array(arena, int32_t, count);
    RandomKey noise = {(uint64_t)config->seed, RANDOM_SYNTHETIC, step};
    RandomKey prototype = {(uint64_t)config->seed, RANDOM_SYNTHETIC, STEP_PROTOTYPES};
    int64_t row = bytes / count;
    for (int64_t i = 0; i < bytes; i++) {
        int64_t label = i / row % config->classes;
        float base = random_uniform(prototype, (uint64_t)(label * row + i % row));
        float value = 255.0f * (base + (float)config->noise * random_normal(noise, (uint64_t)i));
        pixels[i] = (unsigned char)fminf(fmaxf(roundf(value), 0.0f), 255.0f);
        labels[i / row] = (int32_t)label;
    }
    *out = (DatasetPart){count, pixels, labels};
    return true;
}

static bool synthetic_open(const void *settings, DatasetParts parts, Arena *arena, Dataset *out,
                           Error *err) {
    const SyntheticConfig *config = settings;
    *out = (Dataset){.class_count = config->classes,
                     .height = config->height,
                     .width = config->width,
                     .channels = config->channels,
                     .pixel_type = PIXEL_U8};
    return (parts == DATASET_TEST ||
            part_make(config, config->train, STEP_TRAIN, arena, &out->train, err)) &&
           part_make(config, config->test, STEP_TEST, arena, &out->test, err);
}

const DatasetKind dataset_synthetic = {
    .kind = {"synthetic", "class prototypes and noise; needs no files", sizeof(SyntheticConfig),
             synthetic_fields},
    .open = synthetic_open,
};
