/* Rows of labelled images (data/dataset.h): normalised, and augmented for training. */
#ifndef NIBBLE_DATA_IMAGE_ROWS_H
#define NIBBLE_DATA_IMAGE_ROWS_H

#include "data/loader.h"
#include "data/rows.h"

typedef struct ImageRows {
    const Dataset *dataset;
    AugmentConfig augment;
    uint64_t seed;
    float *mean, *deviation; /* [channels] */
    float *table;   /* [256, channels]: a byte's normalised value; NULL: the data are floats */
    float *padding; /* [width, channels]: a row of normalised zeros */
} ImageRows;

/* Memory is taken from `arena`; `dataset` is kept. Normalises once told how. */
void image_rows_init(ImageRows *rows, const Dataset *dataset, const LoaderConfig *config,
                     uint64_t seed, Arena *arena);
/* Normalises as `normalize` asks, by the training images numbered numbers[0 .. count - 1]; `arena`
 * is left as it was found. */
void image_rows_measure(ImageRows *rows, Normalize normalize, const int64_t *numbers, int64_t count,
                        Arena *arena);
/* Normalises by these, [channels] each. */
void image_rows_use(ImageRows *rows, const float *mean, const float *deviation);

/* Its rows: images and labels (dataset_columns). Of an ImageRows that stays where it is. */
Rows image_rows(ImageRows *rows);

/* The same of a new one in `arena`: what a kind of labelled images has for `rows`. */
DatasetRows image_rows_new;

#endif
