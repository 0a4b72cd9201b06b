/* Arrays of a user's HDF5 file: images u8 or f32, [n, height, width, channels], [n, height, width]
 * (one channel) or [n, features] (1x1 images of so many channels), and labels: whole numbers [n] of
 * any integer or float type, or one-hot [n, classes]. Names of classes: text [classes], the data
 * set or attribute "class_names".
 *
 * libhdf5 1.10.8 is not safe on files that nobody checked, so a child process reads the file and
 * streams its rows back (data/sandbox.h). What it says about shapes is checked here again. */
#include <limits.h>
#include <math.h>
#include <string.h>

#include "data/dataset.h"
#include "data/h5.h"
#include "data/images.h"
#include "data/loader.h"
#include "data/sandbox.h"

typedef struct Hdf5Config {
    LoaderConfig loader;
    const char *path;
    const char *train_images, *train_labels, *test_images, *test_labels;
    int64_t classes;
} Hdf5Config;

static const Field hdf5_fields[] = {
    LOADER_FIELDS(Hdf5Config),
    FIELD_STRING(Hdf5Config, path, REQUIRED,
                 "HDF5 file; if it has class_names, text [classes], a data set or attribute, the "
                 "classes are called so",
                 .may_change = true, .is_path = true),
    FIELD_STRING(Hdf5Config, train_images, "train_images",
                 "array of u8 or f32, [n, h, w, c] or less"),
    FIELD_STRING(Hdf5Config, train_labels, "train_labels",
                 "array of whole numbers [n], or one-hot [n, classes]"),
    FIELD_STRING(Hdf5Config, test_images, "test_images", "as train_images"),
    FIELD_STRING(Hdf5Config, test_labels, "test_labels", "as train_labels"),
    FIELD_INT(Hdf5Config, classes, "0", 0, 65536, "number of classes; 0: as the labels say"),
    FIELD_END,
};

static const SandboxLimits limits = {
    .memory_bytes = (int64_t)2 << 30, .processor_seconds = 600, .stall_seconds = 120};

/* ---- The child: for each array in turn, a header and its elements ---- */

typedef struct Header {
    int32_t element, rank;
    int64_t dim[SHAPE_RANK_MAX];
} Header;

enum { PIECE_BYTES = 1 << 20 };

static bool array_send(const H5Reader *reader, const char *path, const char *name, Arena *arena,
                       int output, Error *err) {
    H5Info info;
    TRY(h5_read_info(reader, name, &info, err));
    if (info.what != H5_TENSOR || info.shape.rank == 0)
        return FAIL(err, ERROR_INPUT, "%s: \"%s\" is not an array", path, name);
    Header header = {.element = (int32_t)info.element, .rank = info.shape.rank};
    for (int i = 0; i < header.rank; i++) header.dim[i] = info.shape.dim[i];
    TRY(sandbox_write(output, &header, sizeof header, err));
    int64_t rows = info.shape.dim[0];
    if (info.bytes == 0) return true;
    int64_t row_bytes = info.bytes / rows;
    if (row_bytes > INT_MAX)
        return FAIL(err, ERROR_INPUT, "%s: \"%s\": a row has %lld bytes", path, name,
                    (long long)row_bytes);
    int64_t step = row_bytes < PIECE_BYTES ? PIECE_BYTES / row_bytes : 1;
    unsigned char *piece = arena_alloc(arena, (size_t)(step * row_bytes));
    for (int64_t first = 0; first < rows; first += step) {
        int64_t count = rows - first < step ? rows - first : step;
        TRY(h5_read_rows(reader, name, first, count, piece, err));
        TRY(sandbox_write(output, piece, (size_t)(count * row_bytes), err));
    }
    return true;
}

static const char class_names[] = "class_names";
enum { NAMES_MAX = 1 << 16, NAME_BYTES_SENT = 1 << 10 }; /* more than is accepted */

/* How many, -1: the file has none; then a length and its bytes each. */
static bool names_send(const H5Reader *reader, Arena *arena, int output, Error *err) {
    const char **names;
    int64_t count;
    TRY(h5_read_strings(reader, class_names, arena, &names, &count, err));
    TRY(sandbox_write(output, &count, sizeof count, err));
    for (int64_t i = 0; i < count; i++) {
        int64_t length = (int64_t)strnlen(names[i], NAME_BYTES_SENT);
        TRY(sandbox_write(output, &length, sizeof length, err));
        TRY(sandbox_write(output, names[i], (size_t)length, err));
    }
    return true;
}

enum { ARRAYS = 4 };

/* What the child is to read: the names of the classes, then the arrays from `first` on. */
typedef struct Job {
    const char *path;
    const char *names[ARRAYS];
    int first;
    bool wants_class_names;
} Job;

static bool file_send(const void *context, int output, Error *err) {
    const Job *job = context;
    Arena *arena = arena_new("HDF5 reader");
    H5Reader *reader = h5_read_foreign(job->path, arena, err);
    if (!reader) return false;
    if (job->wants_class_names) TRY(names_send(reader, arena, output, err));
    for (int i = job->first; i < ARRAYS; i++)
        TRY(array_send(reader, job->path, job->names[i], arena, output, err));
    h5_read_close(reader);
    arena_free(arena);
    return true;
}

/* ---- The parent ---- */

typedef struct Array {
    const char *name; /* "FILE, train_images" */
    H5Element element;
    int rank;
    int64_t dim[SHAPE_RANK_MAX];
    void *values;
} Array;

static bool array_receive(Sandbox *sandbox, const char *name, Arena *arena, Array *out,
                          Error *err) {
    Header header;
    int64_t bytes;
    TRY(sandbox_read(sandbox, &limits, &header, sizeof header, err));
    *out = (Array){.name = arena_format(arena, "%s, %s", sandbox->name, name),
                   .element = (H5Element)header.element,
                   .rank = header.rank};
    if (header.element < 0 || header.element >= H5_ELEMENT_COUNT || header.rank < 1 ||
        header.rank > SHAPE_RANK_MAX)
        return FAIL(err, ERROR_INPUT, "%s: damaged", out->name);
    memcpy(out->dim, header.dim, sizeof header.dim);
    TRY(dataset_bytes(out->name, out->dim, out->rank, (int64_t)h5_element_bytes(out->element),
                      &bytes, err));
    out->values = arena_alloc(arena, (size_t)bytes);
    return sandbox_read(sandbox, &limits, out->values, (size_t)bytes, err);
}

static bool names_receive(Sandbox *sandbox, Arena *arena, ClassNames *out, Error *err) {
    int64_t count, length;
    TRY(sandbox_read(sandbox, &limits, &count, sizeof count, err));
    if (count < 0) return true;
    out->from = arena_format(arena, "%s, %s", sandbox->name, class_names);
    out->count = count;
    if (count > NAMES_MAX) return FAIL(err, ERROR_INPUT, "%s: damaged", out->from);
    const char **names = arena_new_array(arena, const char *, count + 1);
    for (int64_t i = 0; i < count; i++) {
        TRY(sandbox_read(sandbox, &limits, &length, sizeof length, err));
        if (length < 0 || length > NAME_BYTES_SENT)
            return FAIL(err, ERROR_INPUT, "%s: damaged", out->from);
        char *name = arena_zalloc(arena, (size_t)length + 1);
        TRY(sandbox_read(sandbox, &limits, name, (size_t)length, err));
        names[i] = name;
    }
    out->names = names;
    return true;
}

static bool images_check(const Array *images, Error *err) {
    if (images->element != H5_U8 && images->element != H5_F32)
        return FAIL(err, ERROR_INPUT, "%s: elements are %s, expected u8 or f32", images->name,
                    h5_element_name(images->element));
    if (images->rank < 2)
        return FAIL(err, ERROR_INPUT, "%s: has %d dimension, expected 2 to 4", images->name,
                    images->rank);
    return true;
}

/* As a double, exact up to 2^53 and far beyond any label after that. */
static double number_get(const Array *array, int64_t i) {
    switch (array->element) {
    case H5_U8:
        return ((const uint8_t *)array->values)[i];
    case H5_I8:
        return ((const int8_t *)array->values)[i];
    case H5_I16:
        return ((const int16_t *)array->values)[i];
    case H5_U16:
        return ((const uint16_t *)array->values)[i];
    case H5_I32:
        return ((const int32_t *)array->values)[i];
    case H5_U32:
        return ((const uint32_t *)array->values)[i];
    case H5_I64:
        return (double)((const int64_t *)array->values)[i];
    case H5_U64:
        return (double)((const uint64_t *)array->values)[i];
    case H5_F32:
        return (double)((const float *)array->values)[i];
    default:
        return ((const double *)array->values)[i];
    }
}

static bool label_get(const Array *labels, int64_t row, int32_t *label, Error *err) {
    double number = number_get(labels, row);
    if (!(number >= 0 && number <= INT32_MAX) || number != floor(number))
        return FAIL(err, ERROR_INPUT, "%s: row %lld has label %.9g, expected a whole number from 0",
                    labels->name, (long long)row, number);
    *label = (int32_t)number;
    return true;
}

/* The place of the only 1 among zeros. */
static bool one_hot_get(const Array *labels, int64_t row, int32_t *label, Error *err) {
    int64_t columns = labels->dim[1], ones = 0, others = 0;
    for (int64_t j = 0; j < columns; j++) {
        double number = number_get(labels, row * columns + j);
        if (number == 1) *label = (int32_t)j;
        ones += number == 1;
        others += number != 0 && number != 1;
    }
    if (ones == 1 && !others) return true;
    return FAIL(err, ERROR_INPUT, "%s: row %lld is not one-hot, a single 1 among zeros",
                labels->name, (long long)row);
}

static bool labels_convert(const Array *labels, int64_t count, Arena *arena, const int32_t **out,
                           Error *err) {
    bool is_column = labels->rank == 1 || (labels->rank == 2 && labels->dim[1] == 1);
    if (labels->rank > 2 || (labels->rank == 2 && labels->dim[1] > INT32_MAX))
        return FAIL(err, ERROR_INPUT,
                    "%s: %s with %d dimensions, expected whole numbers [n] or one-hot [n, classes]",
                    labels->name, h5_element_name(labels->element), labels->rank);
    if (labels->dim[0] != count)
        return FAIL(err, ERROR_INPUT, "%s: %lld labels, expected %lld as there are images",
                    labels->name, (long long)labels->dim[0], (long long)count);
    int32_t *converted = arena_new_array(arena, int32_t, count);
    for (int64_t i = 0; i < count; i++)
        TRY(is_column ? label_get(labels, i, &converted[i], err)
                      : one_hot_get(labels, i, &converted[i], err));
    *out = converted;
    return true;
}

static Dataset dataset_like(const Array *images) {
    int rank = images->rank;
    return (Dataset){.height = rank > 2 ? images->dim[1] : 1,
                     .width = rank > 2 ? images->dim[2] : 1,
                     .channels = rank == 4   ? images->dim[3]
                                 : rank == 3 ? 1
                                             : images->dim[1],
                     .pixel_type = images->element == H5_U8 ? PIXEL_U8 : PIXEL_F32};
}

static bool test_build(const Array arrays[ARRAYS], const Hdf5Config *config, Arena *arena,
                       Dataset *out, Error *err) {
    const Array *images = &arrays[2];
    TRY(images_check(images, err));
    *out = dataset_like(images);
    out->test = (DatasetPart){.count = images->dim[0], .pixels = images->values};
    TRY(labels_convert(&arrays[3], out->test.count, arena, &out->test.labels, err));
    return dataset_test_classes(arrays[3].name, &out->test, config->classes, &out->class_count,
                                err);
}

static bool parts_build(const Array arrays[ARRAYS], const Hdf5Config *config, Arena *arena,
                        Dataset *out, Error *err) {
    const Array *train = &arrays[0], *test = &arrays[2];
    TRY(images_check(train, err));
    TRY(images_check(test, err));
    bool is_same = train->element == test->element && train->rank == test->rank;
    for (int i = 1; is_same && i < train->rank; i++) is_same = train->dim[i] == test->dim[i];
    if (!is_same)
        return FAIL(err, ERROR_INPUT, "%s: element type or image size is not that of %s",
                    test->name, train->name);
    *out = dataset_like(train);
    out->train = (DatasetPart){.count = train->dim[0], .pixels = train->values};
    out->test = (DatasetPart){.count = test->dim[0], .pixels = test->values};
    TRY(labels_convert(&arrays[1], out->train.count, arena, &out->train.labels, err));
    TRY(labels_convert(&arrays[3], out->test.count, arena, &out->test.labels, err));
    TRY(dataset_classes(arrays[1].name, &out->train, config->classes, &out->class_count, err));
    return dataset_check_labels(arrays[3].name, &out->test, out->class_count, err);
}

static bool hdf5_open(const void *settings, DatasetParts parts, Arena *arena, Dataset *out,
                      Error *err) {
    const Hdf5Config *config = settings;
    const Job job = {
        config->path,
        {config->train_images, config->train_labels, config->test_images, config->test_labels},
        parts == DATASET_TEST ? 2 : 0,
        config->loader.class_names.count == 0};
    Array arrays[ARRAYS];
    ClassNames names = {0};
    Sandbox sandbox;
    for (int i = 0; i < ARRAYS; i++)
        if (!job.names[i])
            return FAIL(err, ERROR_INPUT, "the names of the arrays must not be empty");
    TRY(sandbox_start(file_send, &job, limits, config->path, &sandbox, err));
    bool is_read = !job.wants_class_names || names_receive(&sandbox, arena, &names, err);
    for (int i = job.first; is_read && i < ARRAYS; i++)
        is_read = array_receive(&sandbox, job.names[i], arena, &arrays[i], err);
    sandbox_stop(&sandbox);
    if (!is_read) return false;
    TRY((parts == DATASET_TEST ? test_build : parts_build)(arrays, config, arena, out, err));
    out->class_names = names;
    return true;
}

bool hdf5_read_images(const char *path, const char *array, Arena *arena, Images *out, Error *err) {
    const Job job = {.path = path, .names = {[ARRAYS - 1] = array}, .first = ARRAYS - 1};
    Array images;
    Sandbox sandbox;
    TRY(sandbox_start(file_send, &job, limits, path, &sandbox, err));
    bool is_read = array_receive(&sandbox, array, arena, &images, err);
    sandbox_stop(&sandbox);
    if (!is_read) return false;
    TRY(images_check(&images, err));
    Dataset like = dataset_like(&images);
    *out = (Images){images.dim[0], like.height,     like.width,
                    like.channels, like.pixel_type, images.values};
    return true;
}

const DatasetKind dataset_hdf5 = {
    .kind = {"hdf5", "arrays of an HDF5 file: images u8 or f32, integer labels", sizeof(Hdf5Config),
             hdf5_fields},
    .open = hdf5_open,
};
