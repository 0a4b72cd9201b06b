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

#include "core/file.h"
#include "data/dataset.h"
#include "data/h5_foreign.h"
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

/* Until it is known how much is asked for; from then on, a second for so many bytes more. */
static const SandboxLimits limits = {
    .memory_bytes = (int64_t)2 << 30, .processor_seconds = 5, .stall_seconds = 120};
enum { BYTES_PER_SECOND = 20000000 };

/* ---- The child: for each array a header, then for each its elements ---- */

typedef struct Header {
    int32_t element, rank;
    int64_t dim[SHAPE_RANK_MAX];
} Header;

enum { PIECE_BYTES = 1 << 20 };

static bool array_info(const H5Foreign *file, const char *path, const char *name, H5Info *info,
                       Error *err) {
    TRY(h5_foreign_info(file, name, info, err));
    if (info->what != H5_TENSOR || info->shape.rank == 0)
        return FAIL(err, ERROR_INPUT, "%s: \"%s\" is not an array", path, name);
    return true;
}

static bool header_send(const H5Foreign *file, const char *path, const char *name, int output,
                        Error *err) {
    H5Info info;
    TRY(array_info(file, path, name, &info, err));
    Header header = {.element = (int32_t)info.element, .rank = info.shape.rank};
    for (int i = 0; i < header.rank; i++) header.dim[i] = info.shape.dim[i];
    return sandbox_write(output, &header, sizeof header, err);
}

static bool values_send(const H5Foreign *file, const char *path, const char *name, Arena *arena,
                        int output, Error *err) {
    H5Info info;
    TRY(array_info(file, path, name, &info, err));
    int64_t rows = info.shape.dim[0];
    if (info.bytes == 0) return true;
    int64_t row_bytes = info.bytes / rows;
    if (row_bytes > INT_MAX)
        return FAIL(err, ERROR_INPUT, "%s: \"%s\": a row has %lld bytes", path, name,
                    (long long)row_bytes);
    int64_t chunk_rows, step = row_bytes < PIECE_BYTES ? PIECE_BYTES / row_bytes : 1;
    TRY(h5_foreign_chunk_rows(file, name, &chunk_rows, err));
    if (chunk_rows > rows) chunk_rows = rows;
    step = (step + chunk_rows - 1) / chunk_rows * chunk_rows;
    ArenaMark mark = arena_mark(arena);
    unsigned char *piece = arena_alloc(arena, (size_t)(step * row_bytes));
    for (int64_t first = 0; first < rows; first += step) {
        int64_t count = rows - first < step ? rows - first : step;
        TRY(h5_foreign_rows(file, name, first, count, piece, err));
        TRY(sandbox_write(output, piece, (size_t)(count * row_bytes), err));
    }
    arena_rewind(arena, mark);
    return true;
}

static const char class_names[] = "class_names";
enum { NAMES_MAX = 1 << 16, NAME_BYTES_SENT = 1 << 10 }; /* more than is accepted */

/* How many, -1: the file has none; then a length and its bytes each. */
static bool names_send(const H5Foreign *file, Arena *arena, int output, Error *err) {
    const char **names;
    int64_t count;
    TRY(h5_foreign_strings(file, class_names, arena, &names, &count, err));
    TRY(sandbox_write(output, &count, sizeof count, err));
    for (int64_t i = 0; i < count; i++) {
        int64_t length = (int64_t)strnlen(names[i], NAME_BYTES_SENT);
        TRY(sandbox_write(output, &length, sizeof length, err));
        TRY(sandbox_write(output, names[i], (size_t)length, err));
    }
    return true;
}

enum { ARRAYS = 4 };

/* What the child is to read: the names of the classes, then the arrays first .. end - 1. Images
 * and labels take turns. */
typedef struct Job {
    const char *path;
    FileMap file;
    const char *names[ARRAYS];
    int first, end;
    bool wants_class_names;
} Job;

static bool job_send(const void *context, int output, Error *err) {
    const Job *job = context;
    Arena *arena = arena_new("HDF5 reader");
    H5Foreign *file = h5_foreign_open(job->path, job->file.bytes, job->file.count, arena, err);
    if (!file) return false;
    if (job->wants_class_names) TRY(names_send(file, arena, output, err));
    for (int i = job->first; i < job->end; i++)
        TRY(header_send(file, job->path, job->names[i], output, err));
    for (int i = job->first; i < job->end; i++)
        TRY(values_send(file, job->path, job->names[i], arena, output, err));
    h5_foreign_close(file);
    arena_free(arena);
    return true;
}

/* ---- The parent ---- */

typedef struct Array {
    const char *name; /* "FILE, train_images" */
    H5Element element;
    int rank;
    int64_t dim[SHAPE_RANK_MAX];
    int64_t bytes;
    void *values;
} Array;

static bool header_receive(Sandbox *sandbox, const char *name, Arena *arena, Array *out,
                           Error *err) {
    Header header;
    TRY(sandbox_read(sandbox, &limits, &header, sizeof header, err));
    *out = (Array){.name = arena_format(arena, "%s, %s", sandbox->name, name),
                   .element = (H5Element)header.element,
                   .rank = header.rank};
    if (header.element < 0 || header.element >= H5_ELEMENT_COUNT || header.rank < 1 ||
        header.rank > SHAPE_RANK_MAX)
        return FAIL(err, ERROR_INPUT, "%s: damaged", out->name);
    memcpy(out->dim, header.dim, sizeof header.dim);
    return dataset_bytes(out->name, out->dim, out->rank, (int64_t)h5_element_bytes(out->element),
                         &out->bytes, err);
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

static bool labels_check(const Array *labels, int64_t count, Error *err) {
    if (labels->rank > 2 || (labels->rank == 2 && labels->dim[1] > INT32_MAX))
        return FAIL(err, ERROR_INPUT,
                    "%s: %s with %d dimensions, expected whole numbers [n] or one-hot [n, classes]",
                    labels->name, h5_element_name(labels->element), labels->rank);
    if (labels->dim[0] != count)
        return FAIL(err, ERROR_INPUT, "%s: %lld labels, expected %lld as there are images",
                    labels->name, (long long)labels->dim[0], (long long)count);
    return true;
}

static bool labels_convert(const Array *labels, Arena *arena, const int32_t **out, Error *err) {
    bool is_column = labels->rank == 1 || (labels->rank == 2 && labels->dim[1] == 1);
    int64_t count = labels->dim[0];
    int32_t *converted = arena_new_array(arena, int32_t, count);
    for (int64_t i = 0; i < count; i++)
        TRY(is_column ? label_get(labels, i, &converted[i], err)
                      : one_hot_get(labels, i, &converted[i], err));
    *out = converted;
    return true;
}

/* Whether the arrays fit together, before any is read. */
static bool headers_check(const Array arrays[ARRAYS], const Job *job, Error *err) {
    for (int i = job->first; i < job->end; i += 2) {
        TRY(images_check(&arrays[i], err));
        if (i + 1 < job->end) TRY(labels_check(&arrays[i + 1], arrays[i].dim[0], err));
    }
    if (job->end - job->first < ARRAYS) return true;
    const Array *train = &arrays[0], *test = &arrays[2];
    bool is_same = train->element == test->element && train->rank == test->rank;
    for (int i = 1; is_same && i < train->rank; i++) is_same = train->dim[i] == test->dim[i];
    if (!is_same)
        return FAIL(err, ERROR_INPUT, "%s: element type or image size is not that of %s",
                    test->name, train->name);
    return true;
}

/* Deflate makes at most 1032 bytes of one, and 16 bits become 32: whoever asks for more has nothing
 * to fill it with. */
static bool size_check(const Array *array, const Job *job, Error *err) {
    enum { BYTES_OF_ONE = 2 * 1032 };
    if (array->bytes / BYTES_OF_ONE <= (int64_t)job->file.count) return true;
    return FAIL(err, ERROR_INPUT,
                "%s: its dimensions ask for %lld bytes, more than a file of %zu bytes can hold",
                array->name, (long long)array->bytes, job->file.count);
}

static bool arrays_receive(const Job *job, Sandbox *sandbox, Arena *arena, Array arrays[ARRAYS],
                           Error *err) {
    int64_t seconds = 0;
    for (int i = job->first; i < job->end; i++)
        TRY(header_receive(sandbox, job->names[i], arena, &arrays[i], err));
    TRY(headers_check(arrays, job, err));
    for (int i = job->first; i < job->end; i++) TRY(size_check(&arrays[i], job, err));
    for (int i = job->first; i < job->end; i++) seconds += 1 + arrays[i].bytes / BYTES_PER_SECOND;
    sandbox_allow_time(sandbox, seconds);
    for (int i = job->first; i < job->end; i++) {
        arrays[i].values = arena_alloc(arena, (size_t)arrays[i].bytes);
        TRY(sandbox_read(sandbox, &limits, arrays[i].values, (size_t)arrays[i].bytes, err));
    }
    return true;
}

/* `job` but for the bytes of its file. */
static bool job_read(Job job, Arena *arena, ClassNames *names, Array arrays[ARRAYS], Error *err) {
    Sandbox sandbox;
    TRY(file_map(job.path, &job.file, err));
    bool is_started = sandbox_start(job_send, &job, limits, job.path, &sandbox, err);
    file_unmap(job.file);
    TRY(is_started);
    bool is_read = (!job.wants_class_names || names_receive(&sandbox, arena, names, err)) &&
                   arrays_receive(&job, &sandbox, arena, arrays, err);
    sandbox_stop(&sandbox);
    return is_read;
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

static bool part_build(const Array arrays[2], Arena *arena, DatasetPart *out, Error *err) {
    *out = (DatasetPart){.count = arrays[0].dim[0], .pixels = arrays[0].values};
    return labels_convert(&arrays[1], arena, &out->labels, err);
}

static bool test_build(const Array arrays[ARRAYS], const Hdf5Config *config, Arena *arena,
                       Dataset *out, Error *err) {
    *out = dataset_like(&arrays[2]);
    TRY(part_build(&arrays[2], arena, &out->test, err));
    return dataset_test_classes(arrays[3].name, &out->test, config->classes, &out->class_count,
                                err);
}

static bool parts_build(const Array arrays[ARRAYS], const Hdf5Config *config, Arena *arena,
                        Dataset *out, Error *err) {
    *out = dataset_like(&arrays[0]);
    TRY(part_build(&arrays[0], arena, &out->train, err));
    TRY(part_build(&arrays[2], arena, &out->test, err));
    TRY(dataset_classes(arrays[1].name, &out->train, config->classes, &out->class_count, err));
    return dataset_check_labels(arrays[3].name, &out->test, out->class_count, err);
}

static bool hdf5_open(const void *settings, DatasetParts parts, Arena *arena, Dataset *out,
                      Error *err) {
    const Hdf5Config *config = settings;
    const Job job = {.path = config->path,
                     .names = {config->train_images, config->train_labels, config->test_images,
                               config->test_labels},
                     .first = parts == DATASET_TEST ? 2 : 0,
                     .end = ARRAYS,
                     .wants_class_names = config->loader.class_names.count == 0};
    Array arrays[ARRAYS];
    ClassNames names = {0};
    for (int i = 0; i < ARRAYS; i++)
        if (!job.names[i])
            return FAIL(err, ERROR_INPUT, "the names of the arrays must not be empty");
    TRY(job_read(job, arena, &names, arrays, err));
    TRY((parts == DATASET_TEST ? test_build : parts_build)(arrays, config, arena, out, err));
    out->class_names = names;
    return true;
}

bool hdf5_read_images(const char *path, const char *array, Arena *arena, Images *out, Error *err) {
    const Job job = {.path = path, .names = {array}, .end = 1};
    Array images[ARRAYS];
    TRY(job_read(job, arena, NULL, images, err));
    Dataset like = dataset_like(images);
    *out = (Images){images->dim[0], like.height,     like.width,
                    like.channels,  like.pixel_type, images->values};
    return true;
}

const DatasetKind dataset_hdf5 = {
    .kind = {"hdf5", "arrays of an HDF5 file: images u8 or f32, integer labels", sizeof(Hdf5Config),
             hdf5_fields},
    .open = hdf5_open,
};
