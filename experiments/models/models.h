/* Built-in models. A model is a function from its settings to a list of layers, the same list that
 * a user could write out as `kind: sequential`; so both give the same network, bit for bit. */
#ifndef NIBBLE_EXPERIMENTS_MODELS_MODELS_H
#define NIBBLE_EXPERIMENTS_MODELS_MODELS_H

#include "autograd/layers.h"

typedef struct ModelKind {
    Kind kind;
    /* The layers for `classes` outputs; memory from `arena`. */
    bool (*layers)(const void *config, int64_t classes, Arena *arena, List *out, Error *err);
    /* Whether the network is built without memory, which `load` gives what it stores; NULL: no. */
    bool (*is_stored)(const void *config);
    /* Whether there are such weights, of the sizes that a sketch of the network has: asked before
     * memory is taken for what a file only says; NULL with load. */
    bool (*check)(const void *config, const Model *sketch, Error *err);
    /* The weights of a network just built, where they are not drawn at random; or NULL. */
    bool (*load)(const void *config, Model *model, Error *err);
    /* The directory of Hugging Face's that these come from; NULL with load. */
    const char *(*directory)(const void *config);
} ModelKind;

#define MODEL(name) extern const ModelKind model_##name;
#include "experiments/models/models.def"
#undef MODEL

extern const KindTable model_kinds;

/* What the settings alone show to be wrong, before the data and their sizes are known. */
bool models_check(const Variant *choice, Arena *arena, Error *err);

/* The network described by `choice`, for samples of shape `input`; its output must be [n, classes].
 */
bool models_build(const Variant *choice, Shape input, int64_t classes, uint64_t seed, Arena *arena,
                  Model **out, Error *err);
/* The same of a network that is frozen, without gradients (model_new_frozen). */
bool models_build_frozen(const Variant *choice, Shape input, int64_t classes, uint64_t seed,
                         Arena *arena, Model **out, Error *err);
/* How many parameters it would have; makes none of them. */
bool models_count(const Variant *choice, Shape input, int64_t classes, Arena *arena,
                  int64_t *parameters, Error *err);

/* A growing list of layers, for the rows. */
typedef struct LayerList {
    Arena *arena;
    List list;
    int capacity;
} LayerList;

void layer_list_add(LayerList *l, const Layer *layer, void *config);
void layer_list_plain(LayerList *l, const Layer *layer, const char *name);
void layer_list_conv(LayerList *l, const char *name, int64_t filters, int64_t kernel,
                     int64_t stride);
void layer_list_depthwise(LayerList *l, const char *name, int64_t stride);
void layer_list_norm(LayerList *l, const char *name);
void layer_list_pool(LayerList *l, const char *name, int64_t kernel);
void layer_list_linear(LayerList *l, const char *name, int64_t units);
void layer_list_dropout(LayerList *l, const char *name, double probability); /* 0: none */

#endif
