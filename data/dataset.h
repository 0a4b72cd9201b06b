/* Data sets: labelled images, whole in memory as they are stored, bytes or floats, NHWC; or rows of
 * tokens, of which height is the length, width and channels are 1, and classes are the vocabulary.
 *
 * A kind of data set is one file in data/datasets and one row of datasets.def; it answers `open`.
 * Splitting off validation rows, shuffling, batching, normalising and augmenting are the loader's.
 */
#ifndef NIBBLE_DATA_DATASET_H
#define NIBBLE_DATA_DATASET_H

#include <stdbool.h>
#include <stdint.h>

#include "core/arena.h"
#include "core/error.h"
#include "core/settings/field.h"
#include "data/batch.h"

typedef enum PixelType { PIXEL_U8, PIXEL_F32, PIXEL_TOKENS /* i32 */ } PixelType;

/* What is trained on and what files may say. A larger label is taken for damage. */
enum {
    DATASET_SIDE_MAX = 1 << 20,
    DATASET_CLASSES_MAX = 1 << 16,
    DATASET_TOKENS_MAX = 1 << 24, /* of a vocabulary */
};

typedef struct DatasetPart {
    int64_t count;
    const void *pixels;    /* [count, height, width, channels] */
    const int32_t *labels; /* [count, labels_each], below class_count */
    int64_t labels_each;   /* 0: one, as images have */
} DatasetPart;

typedef struct ClassNames {
    const char *const *names; /* [count], or NULL: they have none */
    int64_t count;            /* class_count, once dataset_name_classes has checked it */
    const char *from;         /* "FILE, class_names", for messages */
} ClassNames;

typedef struct Dataset {
    int64_t class_count, height, width, channels;
    PixelType pixel_type;
    DatasetPart train, test;
    ClassNames class_names;
    bool has_kept;         /* the data set itself says which training rows are for validation: */
    int64_t kept;          /* as many, the last ones */
    const char *tokenizer; /* of tokens: the file that made them, or "byte", */
    const char *tokenizer_digest; /* and its digest (vocabulary_digest) */
    const char *description;      /* a line for who trains; NULL: dataset_description makes one */
} Dataset;

typedef enum DatasetParts { DATASET_TEST, DATASET_BOTH } DatasetParts;

struct LoaderConfig;
struct Rows;

/* How its rows enter batches (data/rows.h). What it takes lives in `arena`. */
typedef struct Rows DatasetRows(const Dataset *dataset, const struct LoaderConfig *config,
                                uint64_t seed, Arena *arena);

typedef struct DatasetKind {
    Kind kind; /* its config struct begins with a LoaderConfig (data/loader.h) */
    /* Reads both parts into `arena`, or the test part alone, which needs no file of the other. What
     * is missing, cut short, mislabelled or of the wrong size is ERROR_INPUT and named with what
     * was found and expected. */
    bool (*open)(const void *config, DatasetParts parts, Arena *arena, Dataset *out, Error *err);
    DatasetRows *rows; /* NULL: those of labelled images (data/image_rows.h) */
    bool has_folder;   /* its path is a directory, not a file */
    bool finds_paths;  /* it looks itself at what its paths lead to */
    const char *hint;  /* where else such data come from: "install ..."; or NULL */
} DatasetKind;

#define DATASET(name) extern const DatasetKind dataset_##name;
#include "data/datasets.def"
#undef DATASET

extern const KindTable dataset_kinds;

/* Opens and checks: no part is empty, floats are finite, labels below class_count. */
bool dataset_open(Variant source, Arena *arena, Dataset *out, Error *err);
/* The test part alone; what it says about classes is a guess where the setting does not say it. */
bool dataset_open_test(Variant source, Arena *arena, Dataset *out, Error *err);

/* Of one row: [height, width, channels], or [length] tokens. */
Shape dataset_shape(const Dataset *dataset);
/* What a batch of rows of images holds: images [height, width, channels] f32, labels i32. */
enum { DATASET_IMAGES, DATASET_LABELS, DATASET_COLUMNS };
void dataset_columns(const Dataset *dataset, Column columns[DATASET_COLUMNS]);

/* Gives the classes the names that the settings have for them, or else the file; checks that each
 * class has one. dataset_open does so; of a test part it is due once class_count is known. */
bool dataset_name_classes(Variant source, Dataset *out, Error *err);

int64_t dataset_pixels(const Dataset *dataset);    /* height * width * channels */
int64_t dataset_row_bytes(const Dataset *dataset); /* of the pixels as stored */

/* The rows numbered `rows` as floats, unscaled: images [count, height, width, channels]. */
void dataset_rows(const Dataset *dataset, const DatasetPart *part, const int64_t *rows,
                  int64_t count, float *images, int32_t *labels);

/* ---- For the kinds. ---- */

/* Names of classes, one a line, from a file that need not be there; they stay NULL if it is not, or
 * if it does not name as many as there are. False: it is there and cannot be read. */
bool dataset_read_names(const char *path, Arena *arena, Dataset *out, Error *err);

/* bytes = count * height * width * channels * element_bytes, refused on overflow or beyond the
 * machine's memory; to be called before anything of that size is allocated. */
bool dataset_bytes(const char *name, const int64_t *dims, int rank, int64_t element_bytes,
                   int64_t *bytes, Error *err);

/* How many classes the training labels name: the largest label + 1, or `declared` where above 0.
 * Without a declaration, labels that look like damage are refused: most numbers below the largest
 * unused, or a class with under a hundredth of an equal share of the images. */
bool dataset_classes(const char *name, const DatasetPart *train, int64_t declared,
                     int64_t *class_count, Error *err);
/* The same of a test part that is read alone, and need not show every class. */
bool dataset_test_classes(const char *name, const DatasetPart *test, int64_t declared,
                          int64_t *class_count, Error *err);

/* Labels of a part read from `name` against `class_count`. */
bool dataset_check_labels(const char *name, const DatasetPart *part, int64_t class_count,
                          Error *err);

#endif
