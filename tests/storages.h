/* Every way in which the rows of core/dtype.def can store values: for tests that loop over them. */
#ifndef NIBBLE_TESTS_STORAGES_H
#define NIBBLE_TESTS_STORAGES_H

#include "core/random.h"
#include "core/storage.h"

enum { STORAGES_MAX = 64 };

typedef struct Storages {
    Storage all[STORAGES_MAX];
    int count;
} Storages;

/* Scales less their mean are of either sign. */
static inline bool storages_can_hold_scales(Dtype dtype) {
    return dtype_codec(dtype)->stores != CODE_LEVEL && dtype != DTYPE_UDYNAMIC8;
}

/* Numbers, and entries of codebooks under scales of every format that can hold them. */
static inline Storages storages_make(void) {
    static const int64_t blocks[] = {0, 24};
    Storages s = {.count = 0};
    for (int d = 0; d < DTYPE_COUNT; d++) {
        CodeMeaning stores = dtype_codec((Dtype)d)->stores;
        if (stores == CODE_NUMBER) s.all[s.count++] = (Storage){.dtype = (Dtype)d};
        for (int e = 0; stores == CODE_ENTRY && e < DTYPE_COUNT; e++)
            for (int b = 0; storages_can_hold_scales((Dtype)e) && b < 2; b++) {
                assert_true(s.count < STORAGES_MAX);
                s.all[s.count++] = (Storage){(Dtype)d, blocks[b], (Dtype)e, b ? 5 : 0};
            }
    }
    return s;
}

/* Values that differ in size from place to place, with a stretch of zeros. */
static inline float *storages_values(Arena *to, int64_t count, uint64_t seed) {
    float *x = arena_new_array(to, float, count);
    random_fill_normal((RandomKey){.seed = seed, .stream = RANDOM_TEST}, 1, count, x);
    for (int64_t i = 0; i < count; i++) {
        x[i] *= (float)(1 + i / 100 % 7);
        if (i % 1000 >= 300 && i % 1000 < 400) x[i] = 0;
    }
    return x;
}

static inline Tensor storages_encode(Arena *to, const float *values, Shape shape,
                                     const Storage *storage) {
    Tensor stored;
    Error err = {0};
    if (!tensor_encode(to, values, shape, storage, &stored, &err)) fail_msg("%s", err.message);
    return stored;
}

static inline Tensor storages_draw(Arena *to, Shape shape, uint64_t seed, const Storage *storage) {
    return storages_encode(to, storages_values(to, shape_count(shape), seed), shape, storage);
}

/* The same values in f32. */
static inline Tensor storages_plain(Arena *to, const Tensor *stored) {
    Tensor plain = tensor_new(to, DTYPE_F32, stored->shape);
    tensor_decode(stored, plain.data);
    return plain;
}

#endif
