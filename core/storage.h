/* Making tensors of any dtype out of values. */
#ifndef NIBBLE_CORE_STORAGE_H
#define NIBBLE_CORE_STORAGE_H

#include "core/tensor.h"

/* How values are stored: numbers; entries of a codebook under scales in flat blocks; or levels
 * under scales of groups in rows. */
typedef struct Storage {
    Dtype dtype;
    int64_t block;       /* elements under one scale; 0: the codec's own; of levels: a row */
    Dtype scale_dtype;   /* of the plane of scales; a codebook: double quantization */
    int64_t scale_block; /* then: scales under one of their own, f32; 0: the codec's own */
    bool is_affine;      /* levels from the least to the largest value, with zero points; else from
                            minus the largest magnitude to it */
} Storage;

/* Values, any part of them, for any thread. False: it failed, with an error. */
typedef struct ValueSource {
    bool (*read)(void *context, int64_t first, int64_t count, float *values, Error *err);
    void *context;
} ValueSource;

/* A tensor that stores `values`. Each scale is fitted by the codec, or to the largest magnitude of
 * levels. Codes of entries are found under the scales as fitted; what is kept are the scales as
 * stored, which decoding reads. Doubly quantized scales are stored less their mean, the offset
 * (Dettmers et al. 2023, QLoRA). Levels are found under the scales as stored. ERROR_NUMERIC, with
 * the element: a value that is not finite, or that the dtype cannot hold, nor its scale the
 * scales'. */
bool tensor_encode(Arena *arena, const float *values, Shape shape, const Storage *storage,
                   Tensor *out, Error *err);

/* The same of values that are read in parts, by all threads at once: beside the tensor it takes
 * 256 KiB a thread, or a row of levels. The same bits for any number of threads. */
bool tensor_encode_from(Arena *arena, const ValueSource *source, Shape shape,
                        const Storage *storage, Tensor *out, Error *err);

/* Such a tensor without contents: memory of every plane, for who reads them. */
Tensor storage_new(Arena *arena, Shape shape, const Storage *storage);

/* Bytes that such a tensor takes (tensor_bytes). */
size_t storage_bytes(const Storage *storage, Shape shape);

#endif
