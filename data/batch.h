/* Batches: named arrays over the same rows, "images" f32 [rows, height, width, channels] beside
 * "labels" i32 [rows]. Which ones there are, of what type and shape, is what a data set holds
 * (dataset_columns); a task asks for those that it reads by name.
 *
 * A Batch is a value that borrows: its data are the loader's. Nothing here allocates. */
#ifndef NIBBLE_DATA_BATCH_H
#define NIBBLE_DATA_BATCH_H

#include <stddef.h>

#include "core/tensor.h"

enum { BATCH_COLUMNS_MAX = 4 };

/* How a number lies in memory: as the machine has it. Labels and tokens are read as they are and
 * have no values in between, so these are no storage formats (core/dtype.h). */
typedef enum ElementType { ELEMENT_F32, ELEMENT_I32 } ElementType;

size_t element_bytes(ElementType type);
const char *element_name(ElementType type); /* "f32", "i32" */

/* What each row has under one name; `shape` is that of one row. */
typedef struct Column {
    const char *name;
    ElementType type;
    Shape shape;
} Column;

size_t column_bytes(const Column *column); /* of a row */

typedef struct Batch {
    int64_t count; /* rows */
    int column_count;
    Column columns[BATCH_COLUMNS_MAX];
    const void *data[BATCH_COLUMNS_MAX]; /* [count, the column's shape]; NULL in a dry record */
} Batch;

/* `count` rows without data, as a dry record takes them. */
Batch batch_sketch(const Column *columns, int column_count, int64_t count);
/* `count` rows from row `first` on. */
Batch batch_part(const Batch *batch, int64_t first, int64_t count);

/* The column of that name, which must be there and of that type (asserted); f32 as a Tensor of rank
 * at least 1, rows first. */
Tensor batch_f32(const Batch *batch, const char *name);
const int32_t *batch_i32(const Batch *batch, const char *name);
/* From here on the column has these numbers, of the caller. */
void batch_set_f32(Batch *batch, const char *name, const float *data);

#endif
