/* Reads the golden files of tests/golden: cases of named tensors, one a line,
 *     case OP
 *     NAME DIM DIM ... = VALUE VALUE ...
 * with an empty line after each case, and # for comments. What is malformed ends the test. */
#ifndef NIBBLE_TESTS_GOLDEN_H
#define NIBBLE_TESTS_GOLDEN_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "core/tensor.h"

enum { GOLDEN_TENSORS_MAX = 32, GOLDEN_NAME_BYTES = 64 };

typedef struct GoldenTensor {
    char name[GOLDEN_NAME_BYTES];
    Shape shape;
    float *values;
} GoldenTensor;

typedef struct GoldenCase {
    char name[GOLDEN_NAME_BYTES];
    int number; /* in the file, from 1 */
    GoldenTensor tensors[GOLDEN_TENSORS_MAX];
    int count;
} GoldenCase;

typedef struct Golden {
    FILE *file;
    char *line; /* getline's */
    size_t line_bytes;
    int cases;
    Arena *arena; /* of the values: they live as long as it */
} Golden;

static inline Golden golden_open(const char *path, Arena *arena) {
    Golden golden = {.file = fopen(path, "r"), .arena = arena};
    if (!golden.file) fail_msg("%s cannot be opened (tests run in the source root)", path);
    return golden;
}

static inline void golden_close(Golden *golden) {
    fclose(golden->file);
    free(golden->line);
}

static inline void golden_parse(Golden *golden, GoldenTensor *tensor) {
    char *at = golden->line, *end;
    size_t length = strcspn(at, " ");
    assert_true(length < GOLDEN_NAME_BYTES);
    snprintf(tensor->name, sizeof tensor->name, "%.*s", (int)length, at);
    at += length;
    tensor->shape = SHAPE_SCALAR;
    while (strncmp(at, " = ", 3) != 0) {
        assert_true(tensor->shape.rank < SHAPE_RANK_MAX);
        tensor->shape.dim[tensor->shape.rank++] = strtoll(at, &end, 10);
        assert_ptr_not_equal(end, at);
        at = end;
    }
    at += 2;
    int64_t count = shape_count(tensor->shape);
    tensor->values = arena_new_array(golden->arena, float, count);
    for (int64_t i = 0; i < count; i++, at = end) {
        tensor->values[i] = strtof(at, &end);
        assert_ptr_not_equal(end, at);
    }
    assert_int_equal(*at, '\n');
}

/* The next case, or false at the end of the file. */
static inline bool golden_next(Golden *golden, GoldenCase *next) {
    next->count = 0;
    bool is_inside = false;
    while (getline(&golden->line, &golden->line_bytes, golden->file) >= 0) {
        char first = golden->line[0];
        if (first == '#') continue;
        if (first == '\n' && is_inside) return true;
        if (first == '\n') continue;
        if (!is_inside) {
            assert_int_equal(sscanf(golden->line, "case %63s", next->name), 1);
            next->number = ++golden->cases;
            is_inside = true;
            continue;
        }
        assert_true(next->count < GOLDEN_TENSORS_MAX);
        golden_parse(golden, &next->tensors[next->count++]);
    }
    return is_inside;
}

static inline const GoldenTensor *golden_find(const GoldenCase *from, const char *name) {
    for (int i = 0; i < from->count; i++)
        if (!strcmp(from->tensors[i].name, name)) return &from->tensors[i];
    return NULL;
}

static inline const GoldenTensor *golden_tensor(const GoldenCase *from, const char *name) {
    const GoldenTensor *tensor = golden_find(from, name);
    if (!tensor) fail_msg("case %d (%s) has no %s", from->number, from->name, name);
    return tensor;
}

static inline float golden_number(const GoldenCase *from, const char *name) {
    return golden_tensor(from, name)->values[0];
}

/* Whether all values are equal to `tolerance` of the largest of them; says where they are not. */
static inline void golden_compare(const GoldenCase *from, const char *name, const float *values,
                                  float tolerance) {
    const GoldenTensor *expected = golden_tensor(from, name);
    int64_t count = shape_count(expected->shape);
    float largest = 1e-3f;
    for (int64_t i = 0; i < count; i++) {
        float size = expected->values[i] < 0 ? -expected->values[i] : expected->values[i];
        if (size > largest) largest = size;
    }
    for (int64_t i = 0; i < count; i++) {
        float difference = values[i] - expected->values[i];
        if (!(difference <= tolerance * largest && difference >= -tolerance * largest))
            fail_msg("case %d (%s), %s: element %lld is %.8g, in the golden file %.8g",
                     from->number, from->name, name, (long long)i, (double)values[i],
                     (double)expected->values[i]);
    }
}

#endif
