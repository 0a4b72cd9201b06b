/* Batches (data/batch.h) of a data set: its rows split and shuffled; what a row holds, normalised
 * and augmented, is the kind of data's (data/rows.h).
 *
 * A batch is a pure function of (settings, seed, split, epoch, index): neither the history of
 * calls, nor prefetching, nor the number of threads changes a bit, so a run resumes at any batch.
 *   Validation rows: those that the data set keeps aside (Dataset.kept), or else the first
 *                    `validation` (below 1: that share of all, rounded) of a permutation keyed by
 *                    RANDOM_SPLIT.
 *   Training order:  a permutation keyed by RANDOM_SHUFFLE and the epoch; the rows that do not fill
 *                    a last batch are left out of that epoch.
 *   Augmentation:    keyed by RANDOM_AUGMENT, the epoch and the row in the data set.
 *   Calibration:     the training rows, not augmented.
 *   Calibration, validation and test: every row, in the data set's order; the last batch may be
 * smaller. */
#ifndef NIBBLE_DATA_LOADER_H
#define NIBBLE_DATA_LOADER_H

#include <stdbool.h>
#include <stdint.h>

#include "core/arena.h"
#include "core/error.h"
#include "core/settings/field.h"
#include "data/facts.h"
#include "data/rows.h"

typedef enum LoaderChanged { CHANGED_REFUSE, CHANGED_ALLOW } LoaderChanged;

typedef struct AugmentConfig {
    int64_t crop_padding;
    bool flip;
} AugmentConfig;

/* Every data set's config struct begins with this one, as `loader`; of text, `normalize`, `augment`
 * and `class_names` stay zero. */
typedef struct LoaderConfig {
    int64_t batch, eval_batch;
    double validation;
    int normalize; /* Normalize */
    AugmentConfig augment;
    bool prefetch;
    int changed;      /* LoaderChanged */
    List class_names; /* of const char * */
} LoaderConfig;

extern const char *const loader_normalize_choices[], *const loader_changed_choices[];
extern const Field loader_augment_fields[];

/* The rows of a LoaderConfig that is member `loader` of `Type`; the first in a data set's table. */
#define LOADER_INT_(Type, name_, fallback_, min_, max_, help_)                                     \
    {                                                                                              \
        .name = #name_, .type = FIELD_TYPE_INT, .offset = offsetof(Type, loader.name_),            \
        .fallback = fallback_, .min = min_, .max = max_, .help = help_                             \
    }
#define LOADER_PREFETCH(Type)                                                                      \
    {                                                                                              \
        .name = "prefetch", .type = FIELD_TYPE_BOOL, .offset = offsetof(Type, loader.prefetch),    \
        .fallback = "false", .help = "a thread of its own prepares the next batch",                \
        .may_change = true                                                                         \
    }
#define LOADER_CHANGED(Type, noun)                                                                 \
    {                                                                                              \
        .name = "changed", .type = FIELD_TYPE_CHOICE, .offset = offsetof(Type, loader.changed),    \
        .fallback = "refuse", .choices = loader_changed_choices,                                   \
        .help = "whether a run may go on with other training " noun " than it began with",         \
        .may_change = true                                                                         \
    }
#define LOADER_FIELDS(Type)                                                                        \
    LOADER_INT_(Type, batch, "128", 1, 65536, "images per training step"),                         \
        LOADER_INT_(Type, eval_batch, "500", 1, 65536, "images per step of an evaluation"),        \
        {.name = "validation",                                                                     \
         .type = FIELD_TYPE_FLOAT,                                                                 \
         .offset = offsetof(Type, loader.validation),                                              \
         .fallback = "0.1",                                                                        \
         .min = 0,                                                                                 \
         .max = 1e9,                                                                               \
         .help = "training images kept aside for choosing the best checkpoint; below 1: a share"}, \
        {.name = "normalize",                                                                      \
         .type = FIELD_TYPE_CHOICE,                                                                \
         .offset = offsetof(Type, loader.normalize),                                               \
         .fallback = "standard",                                                                   \
         .choices = loader_normalize_choices,                                                      \
         .help = "none: as stored; unit: bytes / 255; standard: mean 0, deviation 1 per channel"}, \
        {.name = "augment",                                                                        \
         .type = FIELD_TYPE_STRUCT,                                                                \
         .offset = offsetof(Type, loader.augment),                                                 \
         .fallback = "{}",                                                                         \
         .fields = loader_augment_fields,                                                          \
         .help = "random changes of the training images"},                                         \
        LOADER_PREFETCH(Type),                                                                     \
        {.name = "class_names",                                                                    \
         .type = FIELD_TYPE_LIST,                                                                  \
         .offset = offsetof(Type, loader.class_names),                                             \
         .fallback = "[]",                                                                         \
         .element = FIELD_TYPE_STRING,                                                             \
         .help = "names of the classes, in the order of their labels; []: as the files have them", \
         .may_change = true},                                                                      \
        LOADER_CHANGED(Type, "images")

typedef enum LoaderSplit {
    LOADER_TRAIN,
    LOADER_VALIDATION,
    LOADER_TEST,
    LOADER_CALIBRATION,
    LOADER_SPLIT_COUNT
} LoaderSplit;

typedef struct Loader Loader;

/* Reads the data set that `data` names (a row of dataset_kinds and its config) and starts the
 * prefetch thread if it is wanted. Everything lives in `arena`; loader_close before it goes.
 * Data sets of untrusted files start a child process here. */
bool loader_open(Variant data, uint64_t seed, Arena *arena, Loader **out, Error *err);
void loader_close(Loader *loader); /* accepts NULL */

/* The same for a run that was trained before, on images of which `facts` are known: they give the
 * normalisation and the classes, and the test part alone is read, which must be of their size. The
 * other splits have their rows, but no batches. */
bool loader_open_test(Variant data, const DataFacts *facts, Arena *arena, Loader **out, Error *err);
/* Normalises as `facts` say from now on, not as these training images do. */
void loader_use(Loader *loader, const DataFacts *facts);

const Dataset *loader_dataset(const Loader *loader);
const LoaderConfig *loader_config(const Loader *loader);
int64_t loader_rows(const Loader *loader, LoaderSplit split);
int64_t loader_batches(const Loader *loader, LoaderSplit split); /* per epoch */

/* Of the training images, with the normalisation in use. */
const DataFacts *loader_facts(const Loader *loader);

/* Batch `index`, from 0 to loader_batches - 1; `epoch` matters for training only. The batch is
 * valid until the next call. Allocates nothing. One thread at a time may call. */
Batch loader_batch(Loader *loader, LoaderSplit split, int64_t epoch, int64_t index);

/* What a batch of `count` rows looks like, without data: for dry records. */
Batch loader_sketch(const Loader *loader, int64_t count);

#endif
