#include "data/batch.h"

#include <assert.h>
#include <string.h>

static const struct {
    const char *name;
    size_t bytes;
} elements[] = {
    [ELEMENT_F32] = {"f32", sizeof(float)},
    [ELEMENT_I32] = {"i32", sizeof(int32_t)},
};

size_t element_bytes(ElementType type) {
    return elements[type].bytes;
}

const char *element_name(ElementType type) {
    return elements[type].name;
}

size_t column_bytes(const Column *column) {
    return element_bytes(column->type) * (size_t)shape_count(column->shape);
}

Batch batch_sketch(const Column *columns, int column_count, int64_t count) {
    assert(column_count <= BATCH_COLUMNS_MAX);
    Batch batch = {.count = count, .column_count = column_count};
    memcpy(batch.columns, columns, sizeof *columns * (size_t)column_count);
    return batch;
}

Batch batch_part(const Batch *batch, int64_t first, int64_t count) {
    assert(first >= 0 && count >= 0 && first + count <= batch->count);
    Batch part = *batch;
    part.count = count;
    for (int i = 0; i < part.column_count; i++)
        if (part.data[i])
            part.data[i] =
                (const char *)part.data[i] + column_bytes(&part.columns[i]) * (size_t)first;
    return part;
}

static int find(const Batch *batch, const char *name, ElementType type) {
    int i = 0;
    (void)type; /* read by the assertion alone */
    while (i < batch->column_count && strcmp(batch->columns[i].name, name)) i++;
    assert(i < batch->column_count && batch->columns[i].type == type);
    return i;
}

Tensor batch_f32(const Batch *batch, const char *name) {
    int i = find(batch, name, ELEMENT_F32);
    Shape row = batch->columns[i].shape, shape = {row.rank + 1, {batch->count}};
    assert(row.rank < SHAPE_RANK_MAX);
    memcpy(shape.dim + 1, row.dim, sizeof *row.dim * (size_t)row.rank);
    return (Tensor){.dtype = DTYPE_F32, .shape = shape, .data = (void *)(uintptr_t)batch->data[i]};
}

const int32_t *batch_i32(const Batch *batch, const char *name) {
    return batch->data[find(batch, name, ELEMENT_I32)];
}

void batch_set_f32(Batch *batch, const char *name, const float *data) {
    batch->data[find(batch, name, ELEMENT_F32)] = data;
}
