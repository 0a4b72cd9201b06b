/* Rows of data, one at a time, as batches have them (data/batch.h). What they hold and how a row is
 * read, normalised and augmented is the kind of data's; which rows make a batch is the loader's. */
#ifndef NIBBLE_DATA_ROWS_H
#define NIBBLE_DATA_ROWS_H

#include <stdbool.h>

#include "data/batch.h"

typedef struct RowKey {
    int64_t row; /* of the training or of the test part */
    bool is_test;
    bool is_augmented; /* as training has it in that epoch */
    int64_t epoch;
} RowKey;

typedef struct Rows {
    int64_t train_count, test_count;
    Column columns[BATCH_COLUMNS_MAX];
    int column_count;
    /* Writes a row to place `at` of the array of each column: a pure function of the key. Many
     * threads call at once. */
    void (*write)(const void *context, RowKey key, int64_t at, void *const arrays[]);
    const void *context;
} Rows;

#endif
