#include "experiments/ship/logits.h"

#include <string.h>

#include "data/h5.h"
#include "experiments/train/evaluate.h"

static Shape logits_shape(const Experiment *e) {
    return SHAPE(loader_rows(e->loader, LOADER_TEST), loader_dataset(e->loader)->class_count);
}

static bool read_digest(const char *path, Arena *arena, char digest[33], Error *err) {
    ArenaMark mark = arena_mark(arena);
    H5Reader *r = h5_read_open(path, arena, err);
    if (r) h5_read_digest(r, digest);
    h5_read_close(r);
    arena_rewind(arena, mark);
    return r != NULL;
}

bool logits_record(Experiment *e, const char *path, const char *packed, Error *err) {
    Arena *arena = arena_new("logits");
    Shape shape = logits_shape(e);
    Evaluation evaluation = {.outputs = arena_new_array(arena, float, shape_count(shape))};
    char digest[33];
    bool ok = read_digest(packed, arena, digest, err) &&
              evaluate(e, LOADER_TEST, false, &evaluation, err);
    H5Writer *w =
        ok ? h5_write_begin(path, sizeof(float) * (uint64_t)shape_count(shape), arena, err) : NULL;
    ok = w != NULL;
    if (ok) {
        h5_write_tensor(w, "logits", H5_F32, shape, evaluation.outputs);
        h5_write_text(w, "packed_digest", digest);
        ok = h5_write_commit(w, NULL, err);
    }
    arena_free(arena);
    return ok;
}

static bool compare(const float *found, const float *recorded, Shape shape, Error *err) {
    int64_t differing = 0, first = -1, count = shape_count(shape);
    for (int64_t i = 0; i < count; i++) {
        if (!memcmp(&found[i], &recorded[i], sizeof(float))) continue;
        if (first < 0) first = i;
        differing++;
    }
    if (!differing) return true;
    return FAIL(
        err, ERROR_MISMATCH,
        "verify: %ld of %ld logits differ from those of the trained network; the first is image "
        "%ld, class %ld: %.9g instead of %.9g",
        (long)differing, (long)count, (long)(first / shape.dim[1]), (long)(first % shape.dim[1]),
        (double)found[first], (double)recorded[first]);
}

static bool compare_digest(const char *packed, const char *recorded, Arena *arena, Error *err) {
    char digest[33];
    TRY(read_digest(packed, arena, digest, err));
    if (!strcmp(digest, recorded)) return true;
    return FAIL(
        err, ERROR_MISMATCH,
        "verify: the logits are the same, but %s is not the file that convert wrote: its digest is "
        "%s instead of %s",
        packed, digest, recorded);
}

/* The test images are those of the record, and the size that the model takes. */
static bool check_images(const PackedModel *m, const Dataset *data, const H5Reader *record,
                         Error *err) {
    Shape size = SHAPE(data->height, data->width, data->channels);
    char found[SHAPE_TEXT_BYTES], wanted[SHAPE_TEXT_BYTES];
    if (!shape_equal(size, m->input))
        return FAIL(err, ERROR_INPUT, "verify: the test images are %s, but the model takes %s",
                    shape_text(size, found), shape_text(m->input, wanted));
    H5Info info;
    TRY(h5_read_info(record, "logits", &info, err));
    if (info.shape.rank == 2 && info.shape.dim[0] == data->test.count) return true;
    return FAIL(
        err, ERROR_INPUT,
        "verify: there are %ld test images, but logits of %s were recorded: the test images "
        "have changed; bring them back (data.path=... says where they lie), or run 'nibble "
        "convert' again",
        (long)data->test.count, shape_text(info.shape, found));
}

/* Logits of the whole test part, a few images at a time. */
static bool run_model(PackedModel *m, const Dataset *data, float *logits, Arena *arena,
                      Error *err) {
    enum { SOME = 256 };
    float *images = arena_new_array(arena, float, SOME *dataset_pixels(data));
    for (int64_t first = 0; first < data->test.count; first += SOME) {
        int64_t rows[SOME], count = 0;
        int32_t labels[SOME];
        while (count < SOME && first + count < data->test.count) {
            rows[count] = first + count;
            count++;
        }
        dataset_rows(data, &data->test, rows, count, images, labels);
        TRY(packed_model_run(m, images, count, logits + first * m->class_count, err));
    }
    return true;
}

static bool compare_all(PackedModel *m, const char *packed, const Dataset *data, const H5Reader *r,
                        Arena *arena, Error *err) {
    TRY(check_images(m, data, r, err));
    Shape shape = SHAPE(data->test.count, m->class_count);
    float *recorded = arena_new_array(arena, float, shape_count(shape));
    float *found = arena_new_array(arena, float, shape_count(shape));
    TRY(h5_read_tensor(r, "logits", H5_F32, shape, recorded, err));
    const char *digest = h5_read_text(r, "packed_digest", arena, err);
    return digest && run_model(m, data, found, arena, err) &&
           compare(found, recorded, shape, err) && compare_digest(packed, digest, arena, err);
}

bool logits_compare(PackedModel *m, const char *packed, const Dataset *test, const char *path,
                    Error *err) {
    Arena *arena = arena_new("logits");
    H5Reader *r = h5_read_open(path, arena, err);
    bool ok = r && compare_all(m, packed, test, r, arena, err);
    h5_read_close(r);
    arena_free(arena);
    return ok;
}
