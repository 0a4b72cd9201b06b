#include "data/loader.h"

#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "core/random.h"
#include "data/image_rows.h"

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
    void *columns[BATCH_COLUMNS_MAX];
    int64_t count;
} Buffer;

/* Who owns what: buffer `shown` is the caller's from one loader_batch to the next. The other
 * buffer, with `order` and `scratch`, is the thread's while `is_busy`, else the caller's.
 * `is_busy`, `is_closing` and the handing over are guarded by `mutex`. All else never changes after
 * open. */
struct Loader {
    Dataset dataset;
    DataFacts facts;
    Rows data; /* what batches are made of */
    const LoaderConfig *config;
    uint64_t seed;
    int64_t rows[LOADER_SPLIT_COUNT];
    const int64_t *row_of[LOADER_SPLIT_COUNT]; /* row in the part of the data set */

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

/* ---- Splits ---- */

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
    if (loader->dataset.has_kept) kept = loader->dataset.kept;
    if (count > UINT32_MAX) return FAIL(err, ERROR_INPUT, "over 2^32 training rows");
    if (count - kept < batch)
        return FAIL(err, ERROR_INPUT,
                    "%lld training %s less %lld for validation do not fill one batch of %lld: "
                    "lower `validation` or `batch`",
                    (long long)count, facts_noun(&loader->facts), (long long)kept,
                    (long long)batch) ||
               error_blame(err, "data.%s", kept ? "validation" : "batch");
    loader->rows[LOADER_TRAIN] = loader->rows[LOADER_CALIBRATION] = count - kept;
    loader->rows[LOADER_VALIDATION] = kept;
    loader->rows[LOADER_TEST] = loader->dataset.test.count;
    return true;
}

static void split_rows(Loader *loader, Arena *arena) {
    int64_t count = loader->dataset.train.count, kept = loader->rows[LOADER_VALIDATION];
    uint32_t *order = arena_new_array(arena, uint32_t, count);
    if (loader->dataset.has_kept)
        for (int64_t i = 0; i < count; i++) order[i] = (uint32_t)(count - 1 - i);
    else
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
    int64_t place = request.index * batch_size(loader, request.split) + i;
    if (is_training) place = (int64_t)loader->order[place];
    const RowKey key = {.row = loader->row_of[request.split][place],
                        .is_test = request.split == LOADER_TEST,
                        .is_augmented = is_training,
                        .epoch = request.epoch};
    loader->data.write(loader->data.context, key, i, buffer->columns);
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

/* Once the data are there. */
static Loader *loader_new(Variant data, uint64_t seed, Arena *arena) {
    Loader *loader = arena_zalloc(arena, sizeof *loader);
    loader->config = data.config; /* the first member of every data set's config */
    loader->seed = seed;
    return loader;
}

static void rows_open(Loader *loader, Variant data, Arena *arena) {
    const DatasetKind *kind = (const DatasetKind *)data.kind;
    DatasetRows *rows = kind->rows ? kind->rows : image_rows_new;
    loader->data = rows(&loader->dataset, loader->config, loader->seed, arena);
    loader->facts.mean = loader->data.mean;
    loader->facts.deviation = loader->data.deviation;
}

/* The last of opening: what batches are made in. */
static bool loader_begin(Loader *loader, Arena *arena, Error *err) {
    const Rows *data = &loader->data;
    loader->row_of[LOADER_TEST] = rows_new(arena, loader->dataset.test.count, NULL);
    int64_t train = loader->config->batch, eval = loader->config->eval_batch;
    size_t most = (size_t)(train > eval ? train : eval);
    for (int i = 0; i < 2; i++) {
        Buffer *buffer = &loader->buffers[i];
        buffer->request.index = -1;
        for (int k = 0; k < data->column_count; k++)
            buffer->columns[k] =
                arena_zalloc(arena, checked_mul(most, column_bytes(&data->columns[k])));
    }
    return !loader->config->prefetch || prefetch_start(loader, err);
}

bool loader_open(Variant data, uint64_t seed, Arena *arena, Loader **out, Error *err) {
    Loader *loader = loader_new(data, seed, arena);
    TRY(dataset_open(data, arena, &loader->dataset, err));
    loader->facts = facts_of(&loader->dataset);
    rows_open(loader, data, arena);
    TRY(split_count(loader, loader->dataset.train.count, err));
    split_rows(loader, arena);
    if (loader->data.measure)
        loader->data.measure(loader->data.context, (Normalize)loader->config->normalize,
                             loader->row_of[LOADER_TRAIN], loader->rows[LOADER_TRAIN], arena);
    *out = loader;
    return loader_begin(loader, arena, err);
}

/* A label that the data may have and the network does not. */
static bool check_test_labels(const Dataset *data, const DataFacts *facts, Error *err) {
    if (data->pixel_type == PIXEL_TOKENS ||
        dataset_check_labels("test", &data->test, facts->class_count, err))
        return true;
    if (facts->path)
        error_append(err, "; the network of %s was trained on %ld classes", facts->path,
                     (long)facts->class_count);
    return false;
}

bool loader_open_test(Variant data, const DataFacts *facts, Arena *arena, Loader **out,
                      Error *err) {
    Loader *loader = loader_new(data, 0, arena);
    TRY(dataset_open_test(data, arena, &loader->dataset, err));
    if (loader->dataset.pixel_type != PIXEL_TOKENS) /* a guess, of a test part alone */
        loader->dataset.class_count = facts->class_count;
    TRY(dataset_name_classes(data, &loader->dataset, err));
    DataFacts test = facts_of(&loader->dataset); /* of no images, but their sizes */
    TRY(facts_check_fit(facts, &test, "test", err));
    TRY(check_test_labels(&loader->dataset, facts, err));
    loader->facts = *facts;
    rows_open(loader, data, arena);
    TRY(split_count(loader, facts->images, err));
    loader_use(loader, facts);
    *out = loader;
    return loader_begin(loader, arena, err);
}

void loader_use(Loader *loader, const DataFacts *facts) {
    if (loader->data.use) loader->data.use(loader->data.context, facts->mean, facts->deviation);
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
    for (int k = 0; k < batch.column_count; k++) batch.data[k] = buffer->columns[k];
    return batch;
}

Batch loader_sketch(const Loader *loader, int64_t count) {
    return batch_sketch(loader->data.columns, loader->data.column_count, count);
}
