#include "experiments/ship/logits.h"

#include <string.h>

#include "core/kernels.h"
#include "data/h5.h"
#include "experiments/train/evaluate.h"
#include "experiments/train/run.h"

static Shape logits_shape(const Experiment *e) {
    return SHAPE(loader_rows(e->loader, LOADER_TEST), loader_dataset(e->loader)->class_count);
}

static bool read_digest(const char *path, Arena *arena, char digest[FACTS_DIGEST_BYTES],
                        Error *err) {
    ArenaMark mark = arena_mark(arena);
    H5Reader *r = h5_read_open(path, arena, err);
    if (r) h5_read_digest(r, digest);
    arena_rewind(arena, mark);
    return r != NULL;
}

const float *logits_evaluate(Experiment *e, Arena *arena, Error *err) {
    Evaluation evaluation = {.outputs =
                                 arena_new_array(arena, float, shape_count(logits_shape(e)))};
    return evaluate(e, LOADER_TEST, false, &evaluation, err) ? evaluation.outputs : NULL;
}

bool logits_record(const Experiment *e, const float *logits, const char *directory, Error *err) {
    Arena *arena = arena_new("logits");
    Shape shape = logits_shape(e);
    const Dataset *data = loader_dataset(e->loader);
    char packed[FACTS_DIGEST_BYTES], images[FACTS_DIGEST_BYTES];
    const char *path = run_path(arena, directory, RUN_LOGITS);
    bool ok = read_digest(run_path(arena, directory, RUN_QUANTIZED), arena, packed, err);
    H5Writer *w =
        ok ? h5_write_begin(path, sizeof(float) * (uint64_t)shape_count(shape), arena, err) : NULL;
    if (w) {
        facts_digest_pixels(data, &data->test, images);
        h5_write_tensor(w, "logits", H5_F32, shape, logits);
        h5_write_text(w, "packed_digest", packed);
        h5_write_text(w, "images_digest", images);
        h5_write_text(w, "kernels", kernels_description());
    }
    ok = w && h5_write_commit(w, NULL, err);
    arena_free(arena);
    return ok;
}

typedef struct Comparison {
    PackedModel *model;
    const Dataset *data;
    const char *directory;
    const H5Reader *record;
    Arena *arena;
    Error *err;
} Comparison;

static bool compare_packed(const Comparison *c) {
    char digest[FACTS_DIGEST_BYTES];
    const char *packed = run_path(c->arena, c->directory, RUN_QUANTIZED);
    const char *recorded = h5_read_text(c->record, "packed_digest", c->arena, c->err);
    if (!recorded || !read_digest(packed, c->arena, digest, c->err)) return false;
    if (!strcmp(digest, recorded)) return true;
    return FAIL(c->err, ERROR_MISMATCH,
                "verify: %s is not the file that convert wrote with %s: its digest is %s instead "
                "of %s; run 'nibble convert %s' again",
                packed, h5_read_path(c->record), digest, recorded, c->directory);
}

static bool fail_images(const Comparison *c, const char *found) {
    return FAIL(c->err, ERROR_INPUT,
                "verify: %s: %s: the test images have changed; bring them back (data.path=... says "
                "where they lie), or run 'nibble convert %s' again",
                h5_read_path(c->record), found, c->directory);
}

/* The test images are those of the record, and of the size that the model takes. */
static bool compare_images(const Comparison *c) {
    const Dataset *data = c->data;
    Shape size = SHAPE(data->height, data->width, data->channels);
    char text[SHAPE_TEXT_BYTES], wanted[SHAPE_TEXT_BYTES], digest[FACTS_DIGEST_BYTES];
    if (!shape_equal(size, c->model->input))
        return FAIL(c->err, ERROR_INPUT,
                    "verify: %s: the test images are %s, but the model takes %s; bring those back "
                    "that it was trained for (data.path=... says where they lie)",
                    h5_read_path(c->record), shape_text(size, text),
                    shape_text(c->model->input, wanted));
    H5Info info;
    TRY(h5_read_info(c->record, "logits", &info, c->err));
    if (info.what != H5_TENSOR || info.shape.rank != 2)
        return FAIL(c->err, ERROR_INPUT, "%s: \"logits\" is no table of images and classes",
                    h5_read_path(c->record));
    if (info.shape.dim[0] != data->test.count)
        return fail_images(
            c, arena_format(c->arena, "there are %ld test images, but logits of %s were recorded",
                            (long)data->test.count, shape_text(info.shape, text)));
    bool is_named;
    TRY(h5_read_exists(c->record, "images_digest", &is_named, c->err));
    if (!is_named)
        return FAIL(c->err, ERROR_INPUT,
                    "%s does not say of which test images it is; run 'nibble convert %s' again",
                    h5_read_path(c->record), c->directory);
    const char *recorded = h5_read_text(c->record, "images_digest", c->arena, c->err);
    if (!recorded) return false;
    facts_digest_pixels(data, &data->test, digest);
    return !strcmp(digest, recorded) ||
           fail_images(c, arena_format(c->arena,
                                       "the pixels of the test images have the digest %s "
                                       "instead of %s",
                                       digest, recorded));
}

/* Logits of the whole test part, a few images at a time. */
static bool run_model(const Comparison *c, float *logits) {
    enum { SOME = 256 };
    const Dataset *data = c->data;
    float *images = arena_new_array(c->arena, float, SOME *dataset_pixels(data));
    for (int64_t first = 0; first < data->test.count; first += SOME) {
        int64_t rows[SOME], count = 0;
        int32_t labels[SOME];
        while (count < SOME && first + count < data->test.count) {
            rows[count] = first + count;
            count++;
        }
        dataset_rows(data, &data->test, rows, count, images, labels);
        TRY(packed_model_run(c->model, images, count, logits + first * c->model->class_count,
                             c->err));
    }
    return true;
}

/* Sums of floats depend on the instruction set (docs/formats.md, quantized.h5). */
static void tell_kernels(const Comparison *c) {
    Error ignored = {0};
    const char *then = h5_read_text(c->record, "kernels", c->arena, &ignored);
    if (!then || !strcmp(then, kernels_description())) return;
    error_append(c->err,
                 ". They were recorded with kernels '%s' and computed with '%s'; sums of floats, "
                 "as of scales per group, differ between these: verify with NIBBLE_ISA=%s, or run "
                 "'nibble convert %s' here",
                 then, kernels_description(), then, c->directory);
}

static bool compare_logits(const Comparison *c) {
    Shape shape = SHAPE(c->data->test.count, c->model->class_count);
    int64_t differing = 0, first = -1, count = shape_count(shape);
    float *recorded = arena_new_array(c->arena, float, count);
    float *found = arena_new_array(c->arena, float, count);
    TRY(h5_read_tensor(c->record, "logits", H5_F32, shape, recorded, c->err));
    TRY(run_model(c, found));
    for (int64_t i = 0; i < count; i++) {
        if (!memcmp(&found[i], &recorded[i], sizeof(float))) continue;
        if (first < 0) first = i;
        differing++;
    }
    if (!differing) return true;
    (void)FAIL(c->err, ERROR_MISMATCH,
               "verify: %ld of %ld logits differ from those of the trained network; the first is "
               "image %ld, class %ld: %.9g instead of %.9g",
               (long)differing, (long)count, (long)(first / shape.dim[1]),
               (long)(first % shape.dim[1]), (double)found[first], (double)recorded[first]);
    tell_kernels(c);
    return false;
}

bool logits_compare(PackedModel *m, const Dataset *test, const char *directory, Error *err) {
    Arena *arena = arena_new("logits");
    H5Reader *r = h5_read_open(run_path(arena, directory, RUN_LOGITS), arena, err);
    const Comparison c = {m, test, directory, r, arena, err};
    bool ok = r && compare_packed(&c) && compare_images(&c) && compare_logits(&c);
    arena_free(arena);
    return ok;
}
