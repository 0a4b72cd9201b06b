#include "data/loader.h"

#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "core/random.h"

const char *const loader_normalize_choices[] = {"none", "unit", "standard", NULL};
const char *const loader_changed_choices[] = {"refuse", "allow", NULL};

const Field loader_augment_fields[] = {
    FIELD_INT(AugmentConfig, crop_padding, "0", 0, 64,
              "pixels added around an image before a random crop to its size; 0: no crop"),
    FIELD_BOOL(AugmentConfig, flip, "false", "mirror left and right, every second image"),
    FIELD_END,
};

typedef struct Request {
    LoaderSplit split;
    int64_t epoch, index;
} Request;

typedef struct Buffer {
    Request request; /* what it holds; index -1: nothing */
    void *columns[DATASET_COLUMNS];
    int64_t count;
} Buffer;

/* Who owns what: buffer `shown` is the caller's from one loader_batch to the next. The other
 * buffer, with `order` and `scratch`, is the thread's while `is_busy`, else the caller's.
 * `is_busy`, `is_closing` and the handing over are guarded by `mutex`. All else never changes after
 * open. */
struct Loader {
    Dataset dataset;
    DataFacts facts;
    const LoaderConfig *config;
    uint64_t seed;
    int64_t rows[LOADER_SPLIT_COUNT];
    const int64_t *row_of[LOADER_SPLIT_COUNT]; /* row in the part of the data set */
    float *mean, *deviation;                   /* [channels] */
    float *table;   /* [256, channels]: a byte's normalised value; NULL: the data are floats */
    float *padding; /* [width, channels]: a row of normalised zeros */

    Column columns[DATASET_COLUMNS]; /* what a batch holds */
    Buffer buffers[2];
    int shown;
    uint32_t *order; /* of the training rows in `order_epoch` */
    int64_t order_epoch;

    bool has_thread, is_busy, is_closing;
    Request wanted;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
};

/* ---- Splits and statistics ---- */

static const DatasetPart *part_of(const Loader *loader, LoaderSplit split) {
    return split == LOADER_TEST ? &loader->dataset.test : &loader->dataset.train;
}

static int64_t *rows_new(Arena *arena, int64_t count, const bool *is_wanted) {
    int64_t *rows = arena_new_array(arena, int64_t, count), used = 0;
    for (int64_t i = 0; i < count; i++)
        if (!is_wanted || is_wanted[i]) rows[used++] = i;
    return rows;
}

/* How many rows each split has, of `count` training rows. */
static bool split_count(Loader *loader, int64_t count, Error *err) {
    double setting = loader->config->validation;
    int64_t kept = setting < 1 ? llround(setting * (double)count) : (int64_t)setting;
    int64_t batch = loader->config->batch;
    if (count > UINT32_MAX) return FAIL(err, ERROR_INPUT, "over 2^32 training rows");
    if (count - kept < batch)
        return FAIL(err, ERROR_INPUT,
                    "%lld training images less %lld for validation do not fill one batch of %lld: "
                    "lower `validation` or `batch`",
                    (long long)count, (long long)kept, (long long)batch) ||
               error_blame(err, "data.%s", kept ? "validation" : "batch");
    loader->rows[LOADER_TRAIN] = loader->rows[LOADER_CALIBRATION] = count - kept;
    loader->rows[LOADER_VALIDATION] = kept;
    loader->rows[LOADER_TEST] = loader->dataset.test.count;
    return true;
}

static void split_rows(Loader *loader, Arena *arena) {
    int64_t count = loader->dataset.train.count, kept = loader->rows[LOADER_VALIDATION];
    uint32_t *order = arena_new_array(arena, uint32_t, count);
    random_permutation((RandomKey){loader->seed, RANDOM_SPLIT, 0}, count, order);
    bool *is_train = arena_new_array(arena, bool, count);
    bool *is_validation = arena_new_array(arena, bool, count);
    for (int64_t i = 0; i < count; i++)
        *(i < kept ? &is_validation[order[i]] : &is_train[order[i]]) = true;
    loader->row_of[LOADER_TRAIN] = rows_new(arena, count, is_train);
    loader->row_of[LOADER_VALIDATION] = rows_new(arena, count, is_validation);
    loader->row_of[LOADER_CALIBRATION] = loader->row_of[LOADER_TRAIN];
    loader->order = order; /* as long as any epoch's */
    loader->order_epoch = -1;
}

static void moments_set(Loader *loader, int64_t channel, double mean, double square) {
    double variance = square - mean * mean;
    loader->mean[channel] = (float)mean;
    /* A channel that never changes is centred, not scaled. */
    loader->deviation[channel] = variance > 1e-12 * square ? (float)sqrt(variance) : 1.0f;
}

/* Of bytes: exact, from counts of each value. */
static void measure_bytes(Loader *loader, Arena *arena) {
    int64_t channels = loader->dataset.channels, pixels = dataset_pixels(&loader->dataset);
    int64_t *seen = arena_new_array(arena, int64_t, channels * 256);
    for (int64_t i = 0; i < loader->rows[LOADER_TRAIN]; i++) {
        const unsigned char *row = (const unsigned char *)loader->dataset.train.pixels +
                                   loader->row_of[LOADER_TRAIN][i] * pixels;
        for (int64_t p = 0, c = 0; p < pixels; p++) {
            seen[c * 256 + row[p]]++;
            if (++c == channels) c = 0;
        }
    }
    double count = (double)(loader->rows[LOADER_TRAIN] * (pixels / channels));
    for (int64_t c = 0; c < channels; c++) {
        double sum = 0, squares = 0;
        for (int v = 0; v < 256; v++) {
            sum += (double)seen[c * 256 + v] * v;
            squares += (double)seen[c * 256 + v] * v * v;
        }
        moments_set(loader, c, sum / count, squares / count);
    }
}

static void measure_floats(Loader *loader, Arena *arena) {
    int64_t channels = loader->dataset.channels, pixels = dataset_pixels(&loader->dataset);
    double *sum = arena_new_array(arena, double, channels);
    double *squares = arena_new_array(arena, double, channels);
    for (int64_t i = 0; i < loader->rows[LOADER_TRAIN]; i++) {
        const float *row =
            (const float *)loader->dataset.train.pixels + loader->row_of[LOADER_TRAIN][i] * pixels;
        for (int64_t p = 0; p < pixels; p++) {
            sum[p % channels] += (double)row[p];
            squares[p % channels] += (double)row[p] * (double)row[p];
        }
    }
    double count = (double)(loader->rows[LOADER_TRAIN] * (pixels / channels));
    for (int64_t c = 0; c < channels; c++)
        moments_set(loader, c, sum[c] / count, squares[c] / count);
}

/* As the training images say. */
static void normalization_find(Loader *loader, Arena *arena) {
    int64_t channels = loader->dataset.channels;
    bool is_bytes = loader->dataset.pixel_type == PIXEL_U8;
    bool is_unit = loader->config->normalize == NORMALIZE_UNIT && is_bytes;
    for (int64_t c = 0; c < channels; c++) loader->deviation[c] = is_unit ? 255.0f : 1.0f;
    if (loader->config->normalize == NORMALIZE_STANDARD) {
        ArenaMark mark = arena_mark(arena);
        (is_bytes ? measure_bytes : measure_floats)(loader, arena);
        arena_rewind(arena, mark);
    }
}

static void normalization_new(Loader *loader, Arena *arena) {
    size_t width = (size_t)loader->dataset.width, channels = (size_t)loader->dataset.channels;
    loader->mean = arena_new_array(arena, float, channels);
    loader->deviation = arena_new_array(arena, float, channels);
    loader->facts.mean = loader->mean;
    loader->facts.deviation = loader->deviation;
    loader->padding = arena_new_array(arena, float, checked_mul(width, channels));
    if (loader->dataset.pixel_type == PIXEL_U8)
        loader->table = arena_new_array(arena, float, channels * 256);
}

/* What follows from mean and deviation. */
static void normalization_apply(Loader *loader) {
    int64_t channels = loader->dataset.channels;
    for (int64_t i = 0; i < loader->dataset.width * channels; i++)
        loader->padding[i] = (0.0f - loader->mean[i % channels]) / loader->deviation[i % channels];
    if (!loader->table) return;
    for (int64_t v = 0; v < 256; v++)
        for (int64_t c = 0; c < channels; c++)
            loader->table[v * channels + c] = ((float)v - loader->mean[c]) / loader->deviation[c];
}

/* ---- One image ---- */

/* Where the crop starts, from -padding to padding, and whether it is mirrored. */
typedef struct Change {
    int64_t y, x;
    bool is_flipped;
} Change;

static Change change_of(const Loader *loader, int64_t epoch, int64_t row) {
    RandomKey key = {loader->seed, RANDOM_AUGMENT, (uint64_t)epoch};
    Random4 random = random_words(key, (uint64_t)row);
    int64_t padding = loader->config->augment.crop_padding, places = 2 * padding + 1;
    return (Change){
        .y = (int64_t)((uint64_t)random.word[0] * (uint64_t)places >> 32) - padding,
        .x = (int64_t)((uint64_t)random.word[1] * (uint64_t)places >> 32) - padding,
        .is_flipped = loader->config->augment.flip && random.word[2] >> 31,
    };
}

/* `count` stored pixels, normalised. */
static void pixels_write(const Loader *loader, const unsigned char *stored, int64_t count,
                         float *restrict out) {
    int64_t channels = loader->dataset.channels;
    const float *values = (const float *)(const void *)stored, *table = loader->table;
    if (table && channels == 1) {
        for (int64_t i = 0; i < count; i++) out[i] = table[stored[i]];
    } else if (channels == 1) {
        float mean = loader->mean[0], deviation = loader->deviation[0];
        for (int64_t i = 0; i < count; i++) out[i] = (values[i] - mean) / deviation;
    } else if (table) {
        for (int64_t i = 0; i < count * channels; i += channels)
            for (int64_t c = 0; c < channels; c++) out[i + c] = table[stored[i + c] * channels + c];
    } else {
        for (int64_t i = 0; i < count * channels; i += channels)
            for (int64_t c = 0; c < channels; c++)
                out[i + c] = (values[i + c] - loader->mean[c]) / loader->deviation[c];
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
static void image_write(const Loader *loader, const unsigned char *stored, Change change,
                        float *out) {
    int64_t height = loader->dataset.height, width = loader->dataset.width;
    int64_t channels = loader->dataset.channels;
    int64_t pixel_bytes = dataset_row_bytes(&loader->dataset) / (height * width);
    int64_t begin = clamp(-change.x, width), end = clamp(width - change.x, width);
    if (!change.x && !change.y && !change.is_flipped) {
        pixels_write(loader, stored, height * width, out);
        return;
    }
    for (int64_t y = 0; y < height; y++, out += width * channels) {
        int64_t from = y + change.y;
        bool is_whole = from >= 0 && from < height && begin == 0 && end == width;
        if (!is_whole) memcpy(out, loader->padding, (size_t)(width * channels) * sizeof(float));
        if (from < 0 || from >= height || begin == end) continue;
        pixels_write(loader, stored + (from * width + begin + change.x) * pixel_bytes, end - begin,
                     out + begin * channels);
        if (change.is_flipped) row_mirror(width, channels, out);
    }
}

/* ---- One batch ---- */

static int64_t batch_size(const Loader *loader, LoaderSplit split) {
    bool trains = split == LOADER_TRAIN || split == LOADER_CALIBRATION;
    return trains ? loader->config->batch : loader->config->eval_batch;
}

static void order_epoch(Loader *loader, int64_t epoch) {
    if (loader->order_epoch == epoch) return;
    random_permutation((RandomKey){loader->seed, RANDOM_SHUFFLE, (uint64_t)epoch},
                       loader->rows[LOADER_TRAIN], loader->order);
    loader->order_epoch = epoch;
}

static void row_fill(const Loader *loader, Request request, int64_t i, Buffer *buffer) {
    bool is_training = request.split == LOADER_TRAIN;
    const DatasetPart *part = part_of(loader, request.split);
    int64_t place = request.index * batch_size(loader, request.split) + i;
    if (is_training) place = (int64_t)loader->order[place];
    int64_t row = loader->row_of[request.split][place];
    Change change = is_training ? change_of(loader, request.epoch, row) : (Change){0};
    const unsigned char *stored =
        (const unsigned char *)part->pixels + row * dataset_row_bytes(&loader->dataset);
    float *images = buffer->columns[DATASET_IMAGES];
    int32_t *labels = buffer->columns[DATASET_LABELS];
    image_write(loader, stored, change, images + i * dataset_pixels(&loader->dataset));
    labels[i] = part->labels[row];
}

static void buffer_begin(Loader *loader, Request request, Buffer *buffer) {
    if (request.split == LOADER_TRAIN) order_epoch(loader, request.epoch);
    int64_t size = batch_size(loader, request.split);
    int64_t left = loader->rows[request.split] - request.index * size;
    buffer->count = left < size ? left : size;
    buffer->request = request;
}

/* On the thread that prefetches, alone. */
static void buffer_fill(Loader *loader, Request request, Buffer *buffer) {
    buffer_begin(loader, request, buffer);
    for (int64_t i = 0; i < buffer->count; i++) row_fill(loader, request, i, buffer);
}

/* On all threads, for who waits for it. */
static void buffer_fill_together(Loader *loader, Request request, Buffer *buffer) {
    buffer_begin(loader, request, buffer);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < buffer->count; i++) row_fill(loader, request, i, buffer);
}

static bool request_equal(Request a, Request b) {
    return a.split == b.split && a.index == b.index &&
           (a.epoch == b.epoch || a.split != LOADER_TRAIN);
}

static Request request_next(const Loader *loader, Request request) {
    if (++request.index < loader_batches(loader, request.split)) return request;
    request.index = 0;
    request.epoch++;
    return request;
}

/* ---- The thread ---- */

static void *prefetch_run(void *argument) {
    Loader *loader = argument;
    pthread_mutex_lock(&loader->mutex);
    while (!loader->is_closing) {
        if (!loader->is_busy) {
            pthread_cond_wait(&loader->changed, &loader->mutex);
            continue;
        }
        Buffer *buffer = &loader->buffers[!loader->shown];
        pthread_mutex_unlock(&loader->mutex);
        buffer_fill(loader, loader->wanted, buffer);
        pthread_mutex_lock(&loader->mutex);
        loader->is_busy = false;
        pthread_cond_broadcast(&loader->changed);
    }
    pthread_mutex_unlock(&loader->mutex);
    return NULL;
}

/* Signals stay with the thread that handles them. */
static bool prefetch_start(Loader *loader, Error *err) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_mutex_init(&loader->mutex, NULL);
    pthread_cond_init(&loader->changed, NULL);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failure = pthread_create(&loader->thread, NULL, prefetch_run, loader);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failure) return FAIL(err, ERROR_SYSTEM, "cannot start a thread: %s", strerror(failure));
    loader->has_thread = true;
    return true;
}

static void prefetch_wait(Loader *loader) {
    if (!loader->has_thread) return;
    pthread_mutex_lock(&loader->mutex);
    while (loader->is_busy) pthread_cond_wait(&loader->changed, &loader->mutex);
    pthread_mutex_unlock(&loader->mutex);
}

static void prefetch_ask(Loader *loader, Request request) {
    if (!loader->has_thread) return;
    pthread_mutex_lock(&loader->mutex);
    loader->wanted = request;
    loader->is_busy = true;
    pthread_cond_broadcast(&loader->changed);
    pthread_mutex_unlock(&loader->mutex);
}

/* ---- Use ---- */

/* The last of opening: what batches are made in. */
static bool loader_begin(Loader *loader, Arena *arena, Error *err) {
    normalization_apply(loader);
    loader->row_of[LOADER_TEST] = rows_new(arena, loader->dataset.test.count, NULL);
    int64_t train = loader->config->batch, eval = loader->config->eval_batch;
    size_t most = (size_t)(train > eval ? train : eval);
    dataset_columns(&loader->dataset, loader->columns);
    for (int i = 0; i < 2; i++) {
        Buffer *buffer = &loader->buffers[i];
        buffer->request.index = -1;
        for (int k = 0; k < DATASET_COLUMNS; k++)
            buffer->columns[k] =
                arena_zalloc(arena, checked_mul(most, column_bytes(&loader->columns[k])));
    }
    return !loader->config->prefetch || prefetch_start(loader, err);
}

bool loader_open(Variant data, uint64_t seed, Arena *arena, Loader **out, Error *err) {
    Loader *loader = arena_zalloc(arena, sizeof *loader);
    loader->config = data.config; /* the first member of every data set's config */
    loader->seed = seed;
    TRY(dataset_open(data, arena, &loader->dataset, err));
    TRY(split_count(loader, loader->dataset.train.count, err));
    split_rows(loader, arena);
    loader->facts = facts_of(&loader->dataset);
    normalization_new(loader, arena);
    normalization_find(loader, arena);
    *out = loader;
    return loader_begin(loader, arena, err);
}

bool loader_open_test(Variant data, const DataFacts *facts, Arena *arena, Loader **out,
                      Error *err) {
    Loader *loader = arena_zalloc(arena, sizeof *loader);
    loader->config = data.config;
    TRY(dataset_open_test(data, arena, &loader->dataset, err));
    loader->dataset.class_count = facts->class_count;
    TRY(dataset_name_classes(data, &loader->dataset, err));
    DataFacts test = facts_of(&loader->dataset); /* of no images, but their sizes */
    TRY(facts_check_fit(facts, &test, "the test images", err));
    TRY(dataset_check_labels("test", &loader->dataset.test, facts->class_count, err));
    TRY(split_count(loader, facts->images, err));
    loader->facts = *facts;
    normalization_new(loader, arena);
    loader_use(loader, facts);
    *out = loader;
    return loader_begin(loader, arena, err);
}

void loader_use(Loader *loader, const DataFacts *facts) {
    size_t bytes = sizeof(float) * (size_t)loader->dataset.channels;
    memcpy(loader->mean, facts->mean, bytes);
    memcpy(loader->deviation, facts->deviation, bytes);
    normalization_apply(loader);
}

void loader_close(Loader *loader) {
    if (!loader || !loader->has_thread) return;
    pthread_mutex_lock(&loader->mutex);
    loader->is_closing = true;
    pthread_cond_broadcast(&loader->changed);
    pthread_mutex_unlock(&loader->mutex);
    pthread_join(loader->thread, NULL);
    pthread_cond_destroy(&loader->changed);
    pthread_mutex_destroy(&loader->mutex);
    loader->has_thread = false;
}

const Dataset *loader_dataset(const Loader *loader) {
    return &loader->dataset;
}
const LoaderConfig *loader_config(const Loader *loader) {
    return loader->config;
}
int64_t loader_rows(const Loader *loader, LoaderSplit split) {
    return loader->rows[split];
}
const DataFacts *loader_facts(const Loader *loader) {
    return &loader->facts;
}

int64_t loader_batches(const Loader *loader, LoaderSplit split) {
    int64_t size = batch_size(loader, split), rows = loader->rows[split];
    return split == LOADER_TRAIN ? rows / size : (rows + size - 1) / size;
}

Batch loader_batch(Loader *loader, LoaderSplit split, int64_t epoch, int64_t index) {
    assert(index >= 0 && index < loader_batches(loader, split) && loader->row_of[split]);
    Request request = {split, epoch, index};
    prefetch_wait(loader);
    Buffer *buffer = &loader->buffers[!loader->shown];
    if (!request_equal(buffer->request, request)) buffer_fill_together(loader, request, buffer);
    loader->shown = !loader->shown;
    prefetch_ask(loader, request_next(loader, request));
    Batch batch = loader_sketch(loader, buffer->count);
    for (int k = 0; k < DATASET_COLUMNS; k++) batch.data[k] = buffer->columns[k];
    return batch;
}

Batch loader_sketch(const Loader *loader, int64_t count) {
    return batch_sketch(loader->columns, DATASET_COLUMNS, count);
}
