/* Rows of data, one at a time, as batches have them (data/batch.h). What they hold and how a row is
 * read, normalised and augmented is the kind of data's; which rows make a batch is the loader's. */
#ifndef NIBBLE_DATA_ROWS_H
#define NIBBLE_DATA_ROWS_H

#include <stdbool.h>

#include "core/arena.h"
#include "data/batch.h"

typedef enum Normalize { NORMALIZE_NONE, NORMALIZE_UNIT, NORMALIZE_STANDARD } Normalize;

typedef struct RowKey {
    int64_t row; /* of the training or of the test part */
    bool is_test;
    bool is_augmented; /* as training has it in that epoch */
    int64_t epoch;
} RowKey;

typedef struct Rows {
    Column columns[BATCH_COLUMNS_MAX];
    int column_count;
    /* Writes a row to place `at` of the array of each column: a pure function of the key. Many
     * threads call at once. */
    void (*write)(const void *context, RowKey key, int64_t at, void *const arrays[]);
    void *context;
    const float *mean, *deviation; /* [channels], what numbers are normalised by */
    /* Chooses these by the training rows numbered numbers[0 .. count - 1], leaving `arena` as it
     * was; or takes them from elsewhere. NULL: nothing is normalised. */
    void (*measure)(void *context, Normalize normalize, const int64_t *numbers, int64_t count,
                    Arena *arena);
    void (*use)(void *context, const float *mean, const float *deviation);
} Rows;

#endif
