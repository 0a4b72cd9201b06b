#include "data/dataset.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/bytes.h"
#include "data/loader.h"

static const Kind *const kinds[] = {
#define DATASET(name) &dataset_##name.kind,
#include "data/datasets.def"
#undef DATASET
};

const KindTable dataset_kinds = {"data set", kinds, sizeof kinds / sizeof *kinds};

/* ---- Checks ---- */

bool dataset_bytes(const char *name, const int64_t *dims, int rank, int64_t element_bytes,
                   int64_t *bytes, Error *err) {
    bool is_overflow = false;
    *bytes = element_bytes;
    for (int i = 0; i < rank; i++) {
        if (dims[i] < 1)
            return FAIL(err, ERROR_INPUT, "%s: dimension %d is %lld, expected at least 1", name, i,
                        (long long)dims[i]);
        is_overflow |= __builtin_mul_overflow(*bytes, dims[i], bytes);
    }
    int64_t memory = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    if (is_overflow || *bytes > memory)
        return FAIL(err, ERROR_INPUT, "%s: its dimensions ask for %s bytes, this machine has %lld",
                    name, is_overflow ? "more than 2^63" : "more", (long long)memory);
    return true;
}

bool dataset_check_labels(const char *name, const DatasetPart *part, int64_t class_count,
                          Error *err) {
    bool has_zero = false;
    for (int64_t i = 0; i < part->count; i++) has_zero |= part->labels[i] == 0;
    for (int64_t i = 0; i < part->count; i++)
        if (part->labels[i] < 0 || part->labels[i] >= class_count)
            return FAIL(err, ERROR_INPUT, "%s: row %lld has label %d, expected 0 to %lld%s", name,
                        (long long)i, part->labels[i], (long long)class_count - 1,
                        !has_zero && part->labels[i] == class_count
                            ? "; labels seem to begin at 1: subtract 1"
                            : "");
    return true;
}

static int64_t row_with(const DatasetPart *part, int64_t label) {
    int64_t row = 0;
    while (part->labels[row] != label) row++;
    return row;
}

static bool classes_check(const char *name, const DatasetPart *train, const int64_t *images,
                          int64_t class_count, Error *err) {
    int64_t used = 0;
    for (int64_t k = 0; k < class_count; k++) used += images[k] > 0;
    if (class_count > 2 * used + 1)
        return FAIL(err, ERROR_INPUT,
                    "%s: row %lld has label %lld, but only %lld labels are in use: mislabelled? "
                    "(if not, set `classes`)",
                    name, (long long)row_with(train, class_count - 1), (long long)class_count - 1,
                    (long long)used);
    for (int64_t k = 0; k < class_count; k++)
        if (images[k] > 0 && images[k] * used * 100 < train->count)
            return FAIL(err, ERROR_INPUT,
                        "%s: row %lld has label %lld, which only %lld of %lld rows have: "
                        "mislabelled? (if not, set `classes`)",
                        name, (long long)row_with(train, k), (long long)k, (long long)images[k],
                        (long long)train->count);
    return true;
}

bool dataset_classes(const char *name, const DatasetPart *train, int64_t declared,
                     int64_t *class_count, Error *err) {
    *class_count = declared;
    if (declared > 0) return dataset_check_labels(name, train, declared, err);
    TRY(dataset_check_labels(name, train, DATASET_CLASSES_MAX, err));
    for (int64_t i = 0; i < train->count; i++)
        if (train->labels[i] >= *class_count) *class_count = train->labels[i] + 1;
    Arena *arena = arena_new("label counts");
    int64_t *images = arena_new_array(arena, int64_t, *class_count + 1);
    for (int64_t i = 0; i < train->count; i++) images[train->labels[i]]++;
    bool is_plausible = classes_check(name, train, images, *class_count, err);
    arena_free(arena);
    return is_plausible;
}

bool dataset_test_classes(const char *name, const DatasetPart *test, int64_t declared,
                          int64_t *class_count, Error *err) {
    *class_count = declared;
    if (declared > 0) return dataset_check_labels(name, test, declared, err);
    TRY(dataset_check_labels(name, test, DATASET_CLASSES_MAX, err));
    for (int64_t i = 0; i < test->count; i++)
        if (test->labels[i] >= *class_count) *class_count = test->labels[i] + 1;
    return true;
}

static bool floats_check(const Dataset *dataset, const DatasetPart *part, const char *which,
                         Error *err) {
    const float *pixels = part->pixels;
    int64_t row = dataset_pixels(dataset);
    for (int64_t i = 0; i < part->count * row; i++)
        if (!isfinite(pixels[i]))
            return FAIL(err, ERROR_INPUT, "%s images: row %lld holds a value that is not finite",
                        which, (long long)(i / row));
    return true;
}

static bool part_check(const Dataset *dataset, const DatasetPart *part, const char *which,
                       Error *err) {
    if (part->count < 1)
        return FAIL(err, ERROR_INPUT, "the %s part has no rows", which) ||
               error_blame(err, "data.%s", which);
    if (dataset->pixel_type == PIXEL_TOKENS) return true; /* we made them */
    TRY(dataset_check_labels(which, part, dataset->class_count, err));
    return dataset->pixel_type != PIXEL_F32 || floats_check(dataset, part, which, err);
}

/* ---- Names ---- */

enum { NAME_BYTES_MAX = 256 };

/* A name is a line of text: it goes into files and messages. */
static bool names_check(const ClassNames *c, int64_t class_count, const char *remedy, Error *err) {
    if (c->names && c->count != class_count)
        return FAIL(err, ERROR_INPUT, "%s has %lld names, but there are %lld classes%s", c->from,
                    (long long)c->count, (long long)class_count, remedy);
    for (int64_t i = 0; c->names && i < c->count; i++) {
        size_t length = c->names[i] ? strlen(c->names[i]) : 0;
        if (length == 0 || length > NAME_BYTES_MAX || strpbrk(c->names[i], "\r\n"))
            return FAIL(err, ERROR_INPUT, "%s: name %lld must be one line of 1 to %d bytes%s",
                        c->from, (long long)i, NAME_BYTES_MAX, remedy);
    }
    return true;
}

bool dataset_name_classes(Variant source, Dataset *out, Error *err) {
    static const char setting[] = "data.class_names";
    const List *given = &((const LoaderConfig *)source.config)->class_names; /* its first member */
    if (given->count) {
        out->class_names = (ClassNames){given->items, given->count, setting};
        return names_check(&out->class_names, out->class_count, "", err) ||
               error_blame(err, setting);
    }
    return names_check(&out->class_names, out->class_count,
                       "; set data.classes, or name them by data.class_names", err) ||
           error_blame(err, "data.path");
}

bool dataset_read_names(const char *path, Arena *arena, Dataset *out, Error *err) {
    Bytes bytes;
    if (access(path, F_OK) && errno == ENOENT) return true;
    TRY(bytes_read(path, arena, &bytes, err));
    const char **names = arena_new_array(arena, const char *, out->class_count);
    const char *at = (const char *)bytes.data, *end = at + bytes.count;
    int64_t count = 0;
    while (at < end) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        if (!stop) stop = end;
        int length = (int)(stop - at > NAME_BYTES_MAX ? NAME_BYTES_MAX : stop - at);
        if (length && at[length - 1] == '\r') length--;
        if (length && count == out->class_count) return true; /* of other classes */
        if (length) names[count++] = arena_format(arena, "%.*s", length, at);
        at = stop + 1;
    }
    if (count == out->class_count) out->class_names = (ClassNames){names, count, path};
    return true;
}

/* ---- Use ---- */

/* The setting that says where a kind's files lie, data.path; NULL: it has none. */
static const Field *path_row(const DatasetKind *kind) {
    for (const Field *f = kind->kind.fields; f && f->type != FIELD_TYPE_END; f++)
        if (f->is_path) return f;
    return NULL;
}

static bool path_check(const DatasetKind *kind, const char *path, Error *err) {
    if (!path) return FAIL(err, ERROR_INPUT, "data.path is empty; it says where the data lie");
    const char *fault = NULL, *hint = kind->hint;
    struct stat status;
    if (stat(path, &status))
        fault = strerror(errno);
    else if (kind->has_folder && !S_ISDIR(status.st_mode))
        fault = "not a directory";
    else if (!kind->has_folder && !S_ISREG(status.st_mode))
        fault = S_ISDIR(status.st_mode) ? "a directory, not a regular file" : "not a regular file";
    return !fault || FAIL(err, ERROR_INPUT, "%s: %s; say where the data lie with data.path=...%s%s",
                          path, fault, hint ? ", or " : "", hint ? hint : "");
}

/* No file of a run holds more. */
static bool sides_check(const Dataset *dataset, const char *name, Error *err) {
    const int64_t sides[] = {dataset->height, dataset->width, dataset->channels};
    static const char *const names[] = {"height", "width", "channels"};
    for (int i = 0; i < 3; i++)
        if (sides[i] > DATASET_SIDE_MAX)
            return FAIL(err, ERROR_INPUT,
                        "%s: images of %s %lld, expected 1 to %d: make them smaller", name,
                        names[i], (long long)sides[i], DATASET_SIDE_MAX);
    return true;
}

static bool parts_open(Variant source, DatasetParts parts, Arena *arena, Dataset *out, Error *err) {
    const DatasetKind *kind = (const DatasetKind *)source.kind;
    const Field *row = path_row(kind);
    const char *at = (const char *)source.config + (row ? row->offset : 0);
    const char *path = row ? *(const char *const *)(const void *)at : kind->kind.name;
    *out = (Dataset){0};
    if (kind->finds_paths) path = kind->kind.name;
    if ((!row || kind->finds_paths || path_check(kind, path, err)) &&
        kind->open(source.config, parts, arena, out, err) && sides_check(out, path, err))
        return true;
    return row && error_blame(err, "data.path");
}

bool dataset_open(Variant source, Arena *arena, Dataset *out, Error *err) {
    TRY(parts_open(source, DATASET_BOTH, arena, out, err));
    if (out->class_count < 2)
        return FAIL(err, ERROR_INPUT, "the data have %lld classes, expected at least 2",
                    (long long)out->class_count);
    return dataset_name_classes(source, out, err) &&
           part_check(out, &out->train, "training", err) &&
           part_check(out, &out->test, "test", err);
}

bool dataset_open_test(Variant source, Arena *arena, Dataset *out, Error *err) {
    return parts_open(source, DATASET_TEST, arena, out, err) &&
           part_check(out, &out->test, "test", err);
}

Shape dataset_shape(const Dataset *dataset) {
    if (dataset->pixel_type == PIXEL_TOKENS) return SHAPE(dataset->height);
    return SHAPE(dataset->height, dataset->width, dataset->channels);
}

void dataset_columns(const Dataset *dataset, Column columns[DATASET_COLUMNS]) {
    Shape image = SHAPE(dataset->height, dataset->width, dataset->channels);
    columns[DATASET_IMAGES] = (Column){"images", ELEMENT_F32, image};
    columns[DATASET_LABELS] = (Column){"labels", ELEMENT_I32, SHAPE_SCALAR};
}

int64_t dataset_pixels(const Dataset *dataset) {
    return dataset->height * dataset->width * dataset->channels;
}

int64_t dataset_row_bytes(const Dataset *dataset) {
    return dataset_pixels(dataset) * (dataset->pixel_type == PIXEL_U8 ? 1 : 4);
}

void dataset_rows(const Dataset *dataset, const DatasetPart *part, const int64_t *rows,
                  int64_t count, float *images, int32_t *labels) {
    int64_t pixels = dataset_pixels(dataset), bytes = dataset_row_bytes(dataset);
    for (int64_t i = 0; i < count; i++) {
        assert(rows[i] >= 0 && rows[i] < part->count);
        const unsigned char *stored = (const unsigned char *)part->pixels + rows[i] * bytes;
        float *image = images + i * pixels;
        if (dataset->pixel_type == PIXEL_F32)
            memcpy(image, stored, (size_t)bytes);
        else
            for (int64_t p = 0; p < pixels; p++) image[p] = stored[p];
        labels[i] = part->labels[rows[i]];
    }
}
