/* Files of safetensors, and directories of them as Hugging Face lays models out:
 *
 *     8 bytes   N, little-endian
 *     N bytes   JSON: {"name": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}, ...}
 *     the rest  tensors, row-major, little-endian, without holes or overlap
 *
 * https://huggingface.co/docs/safetensors; a directory holds model.safetensors, or
 * model.safetensors.index.json, whose weight_map names the file of each tensor.
 *
 * Nothing of a file is believed before it fits: lengths and counts are checked with overflow, and
 * memory is in proportion to the header that is there. Tensors are read when they are asked for,
 * any part of them, so that no more than one needs to be in memory. */
#ifndef NIBBLE_DATA_SAFETENSORS_H
#define NIBBLE_DATA_SAFETENSORS_H

#include "core/tensor.h"

enum {
    SAFETENSORS_HEADER_MAX = 2 << 20, /* bytes, of an index too: read in a quarter of a second */
    SAFETENSORS_COUNT_MAX = 25000,
    SAFETENSORS_FILES_MAX = 1024,
};

typedef struct SafeTensor {
    const char *name;
    const char *type; /* as the format calls it: "BF16" */
    Dtype dtype;      /* DTYPE_F32, DTYPE_F16, DTYPE_BF16; DTYPE_COUNT: no numbers that we decode */
    Shape shape;
    int file;              /* of SafeTensors.files */
    int64_t offset, bytes; /* in the file */
} SafeTensor;

typedef struct SafeTensors {
    Arena *arena;
    SafeTensor *items; /* by name */
    int count;
    const char **files;
    int *descriptors; /* [file_count] */
    int file_count;
} SafeTensors;

/* One file, or a directory. safetensors_close is due whatever the result. Errors name the file and
 * the tensor. */
bool safetensors_open(const char *path, Arena *arena, SafeTensors *out, Error *err);
void safetensors_close(SafeTensors *st);

const SafeTensor *safetensors_find(const SafeTensors *st, const char *name); /* or NULL */

/* Elements first .. first + count - 1 as f32, of a tensor with a dtype. */
bool safetensors_read(const SafeTensors *st, const SafeTensor *tensor, int64_t first, int64_t count,
                      float *values, Error *err);
/* The bytes of any tensor as they are stored. */
bool safetensors_read_bytes(const SafeTensors *st, const SafeTensor *tensor, void *bytes,
                            Error *err);

/* A file that is written beside `path` and takes its place when it is whole. Tensors' data are f32,
 * f16, bf16 or bytes (DTYPE_BYTE, U8) as their dtype says, without scales. */
typedef struct SafeTensorData {
    const char *name;
    Tensor tensor;
} SafeTensorData;

/* `metadata`: pairs of texts, NULL at the end; or NULL. */
bool safetensors_write(const char *path, const SafeTensorData *tensors, int count,
                       const char *const *metadata, Error *err);

/* The same of tensors that need not be in memory: these say names, dtypes and shapes alone, and
 * their bytes are handed over one part after the other, in their order. */
typedef struct SafeTensorsWriter {
    const char *path, *temporary;
    int descriptor;
    int64_t due; /* bytes that are still to come */
    Arena *arena;
} SafeTensorsWriter;

/* safetensors_write_end is due whatever the result of this. */
bool safetensors_write_begin(const char *path, const SafeTensorData *tensors, int count,
                             const char *const *metadata, SafeTensorsWriter *out, Error *err);
bool safetensors_write_part(SafeTensorsWriter *writer, const void *bytes, size_t count, Error *err);
/* `is_whole`: all went well and every byte was handed over (asserted); else there is no file. */
bool safetensors_write_end(SafeTensorsWriter *writer, bool is_whole, Error *err);

#endif
