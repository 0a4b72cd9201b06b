/* Batches are pure functions of their names; splits, order, normalisation and augmentation are what
 * the header says, computed here a second time in the plainest way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <unistd.h>

#include "core/random.h"
#include "data/h5.h"
#include "tests/data_source.h"

enum { PIXELS_MAX = 12 * 10 * 3 };

static Variant small(const char *key, const char *value, const char *key2, const char *value2) {
    return source("synthetic", "classes", "5", "height", "12", "width", "10", "channels", "3",
                  "train", "230", "test", "45", "noise", "0.2", "batch", "16", "eval_batch", "20",
                  "validation", "50", key, value, key2, value2, NULL);
}

static Loader *open_well(Variant data, uint64_t seed) {
    Loader *loader;
    Error err = {0};
    if (!loader_open(data, seed, arena, &loader, &err)) fail_msg("%s", err.message);
    return loader;
}

/* A copy, with its rows' place in the data set found by comparing (the data have no equal rows). */
typedef struct Copy {
    float images[20 * PIXELS_MAX];
    int32_t labels[20];
    int64_t count;
} Copy;

static void take(Loader *loader, LoaderSplit split, int64_t epoch, int64_t index, Copy *copy) {
    Batch batch = loader_batch(loader, split, epoch, index);
    assert_in_range(batch.count, 1, 20);
    memset(copy, 0, sizeof *copy);
    copy->count = batch.count;
    size_t pixels = (size_t)dataset_pixels(loader_dataset(loader));
    memcpy(copy->images, batch_f32(&batch, "images").data,
           (size_t)batch.count * pixels * sizeof(float));
    memcpy(copy->labels, batch_i32(&batch, "labels"), (size_t)batch.count * sizeof(int32_t));
}

static int64_t row_of_image(const DatasetPart *part, const float *image, int64_t pixels) {
    for (int64_t row = 0; row < part->count; row++) {
        const unsigned char *stored = (const unsigned char *)part->pixels + row * pixels;
        int64_t p = 0;
        while (p < pixels && image[p] == (float)stored[p]) p++;
        if (p == pixels) return row;
    }
    return -1;
}

static void test_counts(void **state) {
    (void)state;
    Loader *loader = open_well(small("prefetch", "false", "normalize", "none"), 1);
    assert_int_equal(loader_rows(loader, LOADER_TRAIN), 180);
    assert_int_equal(loader_rows(loader, LOADER_VALIDATION), 50);
    assert_int_equal(loader_rows(loader, LOADER_TEST), 45);
    assert_int_equal(loader_batches(loader, LOADER_TRAIN), 11); /* 180 / 16, the rest left out */
    assert_int_equal(loader_batches(loader, LOADER_VALIDATION), 3);
    assert_int_equal(loader_batches(loader, LOADER_TEST), 3);
    Batch last = loader_batch(loader, LOADER_TEST, 0, 2);
    assert_int_equal(last.count, 5);
    loader_close(loader);
}

/* Each row is in one split; an epoch shows no row twice; epochs and seeds differ. */
static void test_splits_and_order(void **state) {
    (void)state;
    Loader *loader = open_well(small("prefetch", "false", "normalize", "none"), 7);
    const Dataset *data = loader_dataset(loader);
    int64_t pixels = dataset_pixels(data), first_rows[2][16] = {{0}};
    int in_validation[230] = {0}, times[2][230] = {{0}};
    static Copy copy;
    for (int64_t b = 0; b < 3; b++) {
        take(loader, LOADER_VALIDATION, 0, b, &copy);
        for (int64_t i = 0; i < copy.count; i++) {
            int64_t row = row_of_image(&data->train, copy.images + i * pixels, pixels);
            assert_in_range(row, 0, 229);
            assert_int_equal(copy.labels[i], data->train.labels[row]);
            in_validation[row]++;
        }
    }
    for (int64_t epoch = 0; epoch < 2; epoch++)
        for (int64_t b = 0; b < 11; b++) {
            take(loader, LOADER_TRAIN, epoch, b, &copy);
            assert_int_equal(copy.count, 16);
            for (int64_t i = 0; i < 16; i++) {
                int64_t row = row_of_image(&data->train, copy.images + i * pixels, pixels);
                assert_in_range(row, 0, 229);
                assert_int_equal(copy.labels[i], data->train.labels[row]);
                times[epoch][row]++;
                if (b == 0) first_rows[epoch][i] = row;
            }
        }
    int kept = 0, shown[2] = {0};
    for (int row = 0; row < 230; row++) {
        assert_in_range(in_validation[row], 0, 1);
        kept += in_validation[row];
        for (int epoch = 0; epoch < 2; epoch++) {
            assert_true(times[epoch][row] + in_validation[row] <= 1);
            shown[epoch] += times[epoch][row];
        }
    }
    assert_int_equal(kept, 50);
    assert_int_equal(shown[0], 176);
    assert_memory_not_equal(first_rows[0], first_rows[1], sizeof first_rows[0]);
    static Copy other_copy;
    Loader *other = open_well(small("prefetch", "false", "normalize", "none"), 8);
    take(loader, LOADER_TRAIN, 0, 0, &copy);
    take(other, LOADER_TRAIN, 0, 0, &other_copy);
    assert_memory_not_equal(copy.images, other_copy.images, sizeof copy.images);
    loader_close(loader);
    loader_close(other);
}

static void test_test_split_is_in_order(void **state) {
    (void)state;
    Loader *loader = open_well(small("prefetch", "true", "normalize", "unit"), 1);
    const Dataset *data = loader_dataset(loader);
    const unsigned char *stored = data->test.pixels;
    int64_t pixels = dataset_pixels(data), row = 0;
    for (int64_t b = 0; b < 3; b++) {
        Batch batch = loader_batch(loader, LOADER_TEST, 0, b);
        const float *images = batch_f32(&batch, "images").data;
        const int32_t *labels = batch_i32(&batch, "labels");
        for (int64_t i = 0; i < batch.count; i++, row++) {
            assert_int_equal(labels[i], data->test.labels[row]);
            for (int64_t p = 0; p < pixels; p++)
                assert_true(images[i * pixels + p] == (float)stored[row * pixels + p] / 255.0f);
        }
    }
    assert_int_equal(row, 45);
    loader_close(loader);
}

/* Mean 0 and deviation 1 over the training rows, per channel. */
static void test_standard_normalisation(void **state) {
    (void)state;
    Loader *loader = open_well(source("synthetic", "classes", "5", "height", "4", "width", "5",
                                      "channels", "3", "train", "100", "test", "10", "batch", "20",
                                      "eval_batch", "20", "validation", "40", NULL),
                               3);
    double sum[3] = {0}, squares[3] = {0};
    for (int64_t b = 0; b < 3; b++) { /* 60 rows in 3 batches of 20: all of them */
        Batch batch = loader_batch(loader, LOADER_TRAIN, 0, b);
        const float *images = batch_f32(&batch, "images").data;
        for (int64_t i = 0; i < 20 * 20 * 3; i++) {
            sum[i % 3] += images[i];
            squares[i % 3] += pow(images[i], 2);
        }
    }
    for (int c = 0; c < 3; c++) {
        assert_true(fabs(sum[c] / 1200) < 1e-6);
        assert_true(fabs(squares[c] / 1200 - 1) < 1e-5);
        assert_true(loader_facts(loader)->deviation[c] > 1);
        assert_in_range((int)loader_facts(loader)->mean[c], 50, 200);
    }
    loader_close(loader);
}

/* Floats are normalised as bytes are; a channel that never changes is only centred. */
static void test_floats(void **state) {
    (void)state;
    float images[30 * 8];
    int32_t labels[30];
    for (int i = 0; i < 30 * 8; i++) images[i] = i % 2 ? 4.0f : (float)(i * 37 % 101) - 20.0f;
    for (int i = 0; i < 30; i++) labels[i] = i % 3;
    Error err = {0};
    const char *path = in_folder("floats.h5");
    H5Writer *writer = h5_write_begin(path, 0, arena, &err);
    h5_write_tensor(writer, "train_images", H5_F32, SHAPE(30, 2, 2, 2), images);
    h5_write_tensor(writer, "train_labels", H5_I32, SHAPE(30), labels);
    h5_write_tensor(writer, "test_images", H5_F32, SHAPE(30, 2, 2, 2), images);
    h5_write_tensor(writer, "test_labels", H5_I32, SHAPE(30), labels);
    assert_true(h5_write_export(writer, &err));
    Loader *loader = open_well(
        source("hdf5", "path", path, "batch", "10", "eval_batch", "20", "validation", "0", NULL),
        1);
    assert_int_equal(loader_rows(loader, LOADER_VALIDATION), 0);
    assert_int_equal(loader_batches(loader, LOADER_VALIDATION), 0);
    double mean = 0, square = 0;
    for (int i = 0; i < 30 * 8; i += 2)
        mean += images[i] / 120.0, square += pow(images[i], 2) / 120.0;
    assert_true(fabs(loader_facts(loader)->mean[0] - mean) < 1e-5);
    assert_true(fabs(loader_facts(loader)->deviation[0] - sqrt(square - mean * mean)) < 1e-5);
    assert_true(loader_facts(loader)->mean[1] == 4.0f &&
                loader_facts(loader)->deviation[1] == 1.0f);
    Batch batch = loader_batch(loader, LOADER_TEST, 0, 1);
    const float *first = batch_f32(&batch, "images").data;
    for (int c = 0; c < 2; c++)
        assert_true(first[c] == (images[20 * 8 + c] - loader_facts(loader)->mean[c]) /
                                    loader_facts(loader)->deviation[c]);
    loader_close(loader);
}

/* The change an image gets, from the same numbers, applied to a padded copy. */
static void augment_plainly(const unsigned char *stored, RandomKey key, int64_t row,
                            int64_t padding, bool may_flip, float *out) {
    enum { H = 12, W = 10, C = 3 };
    Random4 random = random_words(key, (uint64_t)row);
    int64_t top = (int64_t)((uint64_t)random.word[0] * (uint64_t)(2 * padding + 1) >> 32);
    int64_t left = (int64_t)((uint64_t)random.word[1] * (uint64_t)(2 * padding + 1) >> 32);
    bool is_flipped = may_flip && random.word[2] >= 1u << 31;
    int64_t wide = W + 2 * padding;
    float *padded = arena_zalloc(arena, (size_t)((H + 2 * padding) * wide * C) * sizeof(float));
    for (int64_t y = 0; y < H; y++)
        for (int64_t x = 0; x < W; x++)
            for (int64_t c = 0; c < C; c++)
                padded[((y + padding) * wide + x + padding) * C + c] = stored[(y * W + x) * C + c];
    for (int64_t y = 0; y < H; y++)
        for (int64_t x = 0; x < W; x++)
            for (int64_t c = 0; c < C; c++)
                out[(y * W + (is_flipped ? W - 1 - x : x)) * C + c] =
                    padded[((y + top) * wide + x + left) * C + c];
}

static void test_augmentation(void **state) {
    (void)state;
    static const char *const paddings[] = {"0", "2", "20"}; /* 20: an image can leave the frame */
    for (int k = 0; k < 6; k++) {
        bool may_flip = k % 2;
        Loader *plain = open_well(small("prefetch", "false", "normalize", "none"), 5);
        Loader *changed = open_well(
            source("synthetic", "classes", "5", "height", "12", "width", "10", "channels", "3",
                   "train", "230", "test", "45", "noise", "0.2", "batch", "16", "eval_batch", "20",
                   "validation", "50", "normalize", "none", "augment.crop_padding", paddings[k / 2],
                   "augment.flip", may_flip ? "true" : "false", NULL),
            5);
        const Dataset *data = loader_dataset(plain);
        static Copy before, after;
        float expected[PIXELS_MAX];
        take(plain, LOADER_TRAIN, 4, 3, &before);
        take(changed, LOADER_TRAIN, 4, 3, &after);
        assert_memory_equal(before.labels, after.labels, sizeof before.labels);
        for (int64_t i = 0; i < 16; i++) {
            int64_t row = row_of_image(&data->train, before.images + i * PIXELS_MAX, PIXELS_MAX);
            augment_plainly((const unsigned char *)data->train.pixels + row * PIXELS_MAX,
                            (RandomKey){5, RANDOM_AUGMENT, 4}, row, atoi(paddings[k / 2]), may_flip,
                            expected);
            assert_memory_equal(after.images + i * PIXELS_MAX, expected, sizeof expected);
        }
        if (k > 0) assert_memory_not_equal(before.images, after.images, sizeof before.images);
        take(plain, LOADER_VALIDATION, 4, 0, &before);
        take(changed, LOADER_VALIDATION, 4, 0, &after);
        assert_memory_equal(before.images, after.images, sizeof before.images);
        loader_close(plain);
        loader_close(changed);
    }
}

/* Padding is a stored zero, whatever the normalisation makes of it. */
static void test_padding_is_normalised(void **state) {
    (void)state;
    Loader *loader = open_well(small("augment.crop_padding", "64", "normalize", "standard"), 5);
    float zero[3];
    for (int c = 0; c < 3; c++)
        zero[c] = (0.0f - loader_facts(loader)->mean[c]) / loader_facts(loader)->deviation[c];
    Batch batch = loader_batch(loader, LOADER_TRAIN, 0, 0);
    int blank = 0; /* most of 129 x 129 places lie outside of the image */
    for (int64_t i = 0; i < 16; i++) {
        const float *image = (const float *)batch_f32(&batch, "images").data + i * PIXELS_MAX;
        int64_t p = 0;
        while (p < PIXELS_MAX && image[p] == zero[p % 3]) p++;
        blank += p == PIXELS_MAX;
    }
    assert_true(blank > 8);
    loader_close(loader);
}

/* The calls of a training run, in order, against each batch asked for alone, in a fresh loader
 * without the thread. */
static void test_prefetch_and_resume_change_nothing(void **state) {
    (void)state;
    Variant with = small("prefetch", "true", "augment.crop_padding", "2");
    Variant without = small("prefetch", "false", "augment.crop_padding", "2");
    Loader *running = open_well(with, 9);
    static Copy a, b;
    for (int64_t epoch = 0; epoch < 3; epoch++) {
        for (int64_t i = 0; i < 11; i++) {
            take(running, LOADER_TRAIN, epoch, i, &a);
            if (i % 4 == 1) usleep(500); /* at times the thread is done, at times it is not */
            Loader *resumed = open_well(without, 9);
            take(resumed, LOADER_TRAIN, epoch, i, &b);
            assert_memory_equal(&a, &b, sizeof a);
            loader_close(resumed);
        }
        for (int split = LOADER_VALIDATION; split <= LOADER_TEST; split++)
            for (int64_t i = 0; i < loader_batches(running, (LoaderSplit)split); i++) {
                Loader *resumed = open_well(without, 9);
                take(running, (LoaderSplit)split, epoch, i, &a);
                take(resumed, (LoaderSplit)split, epoch + 5, i, &b); /* no epoch in evaluation */
                assert_memory_equal(&a, &b, sizeof a);
                loader_close(resumed);
            }
    }
    loader_close(running);
}

/* Any order of calls, backwards and repeated ones too. */
static void test_random_access(void **state) {
    (void)state;
    Loader *with = open_well(small("prefetch", "true", "augment.flip", "true"), 2);
    Loader *without = open_well(small("prefetch", "false", "augment.flip", "true"), 2);
    static Copy a, b;
    for (uint64_t i = 0; i < 500; i++) {
        RandomKey key = {1, RANDOM_TEST, i};
        uint64_t which = random_below(key, 0, LOADER_SPLIT_COUNT);
        int64_t epoch = (int64_t)random_below(key, 1, 3);
        int64_t batches = loader_batches(with, (LoaderSplit)which);
        int64_t index = (int64_t)random_below(key, 2, (uint64_t)batches);
        take(with, (LoaderSplit)which, epoch, index, &a);
        take(without, (LoaderSplit)which, epoch, index, &b);
        assert_memory_equal(&a, &b, sizeof a);
    }
    loader_close(with);
    loader_close(without);
}

static void test_a_batch_allocates_nothing(void **state) {
    (void)state;
    Loader *loader = open_well(small("prefetch", "true", "normalize", "standard"), 2);
    size_t before = arena_used(arena), calls = arena_system_calls(arena);
    for (int64_t i = 0; i < 33; i++) loader_batch(loader, LOADER_TRAIN, i / 11, i % 11);
    loader_close(loader);
    assert_int_equal(arena_used(arena), before);
    assert_int_equal(arena_system_calls(arena), calls);
}

static void test_too_few_rows(void **state) {
    (void)state;
    Loader *loader;
    Error err = {0};
    Variant data = source("synthetic", "train", "100", "test", "10", NULL);
    assert_false(loader_open(data, 1, arena, &loader, &err));
    assert_int_equal(err.code, ERROR_INPUT);
    assert_non_null(strstr(err.message, "100 training images less 10 for validation"));
    err = (Error){0};
    data =
        source("synthetic", "train", "100", "test", "10", "validation", "50", "batch", "51", NULL);
    assert_false(loader_open(data, 1, arena, &loader, &err));
    loader_close(NULL);
}

static int setup(void **state) {
    (void)state;
    arena = arena_new("test");
    return mkdtemp(folder) ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", folder);
    arena_free(arena);
    return system(command);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_splits_and_order),
        cmocka_unit_test(test_test_split_is_in_order),
        cmocka_unit_test(test_standard_normalisation),
        cmocka_unit_test(test_floats),
        cmocka_unit_test(test_augmentation),
        cmocka_unit_test(test_padding_is_normalised),
        cmocka_unit_test(test_prefetch_and_resume_change_nothing),
        cmocka_unit_test(test_random_access),
        cmocka_unit_test(test_a_batch_allocates_nothing),
        cmocka_unit_test(test_too_few_rows),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
