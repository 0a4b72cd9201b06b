/* How the weights of products of a pretrained network are kept in memory: rows of bases.def, the
 * setting `model.base`. Embeddings, head, norms and biases stay numbers, as the file has them. */
#ifndef NIBBLE_EXPERIMENTS_MODELS_BASE_H
#define NIBBLE_EXPERIMENTS_MODELS_BASE_H

#include "core/settings/field.h"
#include "core/storage.h"
#include "data/safetensors.h"

typedef struct BaseFormat {
    Kind kind;
    Dtype dtype;
    Storage (*storage)(const struct BaseFormat *row, const void *config); /* NULL: as in the file */
} BaseFormat;

#define BASE(name) extern const BaseFormat base_##name;
#include "experiments/models/bases.def"
#undef BASE

extern const KindTable base_kinds;

/* The weight `name` of this shape, out of the files and into `arena`: read, and encoded, in parts
 * by all threads, so that beside the tensor little memory is taken. Weights that bitsandbytes
 * stored are taken as they are. ERROR_INPUT: there is no such tensor, its shape is another, or it
 * would have to be quantized a second time. */
bool base_read(const Variant *base, const SafeTensors *files, const char *name, Shape shape,
               Arena *arena, Tensor *out, Error *err);

/* The weights of one network, and the file in which they are kept for the next time (`model.cache`,
 * base_cache.c). */
typedef struct Base Base;

/* `cache` NULL: none. A file that is not there is made by base_close; one that is damaged, or was
 * made of other weights or for another base, is told and made anew. ERROR_INPUT: this base needs no
 * cache. base_close is due if it is true. */
bool base_open(const Variant *base, const char *cache, const SafeTensors *files, Arena *arena,
               Base **out, Error *err);
/* As base_read. Names differ from call to call. */
bool base_weight(Base *base, const char *name, Shape shape, Arena *arena, Tensor *out, Error *err);
/* Keeps what was not in the cache, if `is_whole`: every weight was read. */
bool base_close(Base *base, bool is_whole, Error *err);

/* How this base keeps a weight that the file has in `dtype`. */
Storage base_storage(const Variant *base, Dtype dtype);

/* Bytes that base_read would take for it, without reading. */
bool base_bytes(const Variant *base, const SafeTensors *files, const char *name, Shape shape,
                size_t *bytes, Error *err);

#endif
