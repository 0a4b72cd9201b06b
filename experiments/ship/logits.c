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
    Evaluation evaluation = {.logits = arena_new_array(arena, float, shape_count(shape))};
    char digest[33];
    bool ok = read_digest(packed, arena, digest, err) &&
              evaluate(e, LOADER_TEST, false, &evaluation, err);
    H5Writer *w =
        ok ? h5_write_begin(path, sizeof(float) * (uint64_t)shape_count(shape), arena, err) : NULL;
    ok = w != NULL;
    if (ok) {
        h5_write_tensor(w, "logits", H5_F32, shape, evaluation.logits);
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

bool logits_compare(Experiment *e, const char *path, const char *packed, int64_t *rows,
                    Error *err) {
    Arena *arena = arena_new("logits");
    Shape shape = logits_shape(e);
    float *recorded = arena_new_array(arena, float, shape_count(shape));
    Evaluation evaluation = {.logits = arena_new_array(arena, float, shape_count(shape))};
    H5Reader *r = h5_read_open(path, arena, err);
    bool ok = r && h5_read_tensor(r, "logits", H5_F32, shape, recorded, err);
    const char *digest = ok ? h5_read_text(r, "packed_digest", arena, err) : NULL;
    h5_read_close(r);
    ok = digest && evaluate(e, LOADER_TEST, false, &evaluation, err) &&
         compare(evaluation.logits, recorded, shape, err) &&
         compare_digest(packed, digest, arena, err);
    *rows = shape.dim[0];
    arena_free(arena);
    return ok;
}
