/* Adapters: what is trained in the place of a network's own weights. A row of adapters.def says
 * what an adapter adds to a linear layer; which layers get one is written once, here.
 *
 * The network is the base: it is frozen, keeps its numbers in any dtype, has no gradients and no
 * state of an optimizer, and its batch norms keep their running statistics. An adapter stands
 * behind a layer (Module.output) and reads the layer's input beside it. Its Params belong to the
 * layer and have the names that PEFT gives them: "fc1.lora_A.weight".
 *
 * Houlsby et al. 2019; Hu et al. 2021 (LoRA). */
#ifndef NIBBLE_QAT_ADAPTER_H
#define NIBBLE_QAT_ADAPTER_H

#include "autograd/module.h"

typedef struct AdapterRow AdapterRow;

/* The config struct of every row begins with this, as member `adapter`. */
typedef struct AdapterConfig {
    List target; /* of text: patterns of names of linear layers, or "all-linear" */
} AdapterConfig;

#define ADAPTER_FIELDS(Struct)                                                                     \
    {                                                                                              \
        .name = "target", .type = FIELD_TYPE_LIST, .offset = offsetof(Struct, adapter.target),     \
        .fallback = "[all-linear]", .element = FIELD_TYPE_STRING,                                  \
        .help = "linear layers that get one: all-linear (but the head), or a list of names: of "   \
                "layers, the ends of such names ('q_proj'), or globs"                              \
    }

/* A layer with an adapter. */
typedef struct AdapterSite {
    Module *module;
    Param *weight, *bias; /* the layer's own; bias: or NULL */
    void *state;          /* the row's */
} AdapterSite;

typedef struct Adapter {
    const AdapterRow *row;
    const void *config; /* the row's */
    Model *model;
    Arena *arena;
    AdapterSite *sites; /* in the order of building */
    int site_count;
} Adapter;

/* The weights of a base as they were before they were stored in few bits; `read` NULL: they are not
 * at hand. */
typedef struct AdapterSource {
    bool (*read)(void *context, const Param *weight, float *values, Error *err);
    void *context;
} AdapterSource;

/* A row of adapters.def. */
struct AdapterRow {
    Kind kind;
    /* Makes the Params of a layer, and its state. */
    bool (*make)(const Adapter *adapter, AdapterSite *site, Error *err);
    /* View.apply: what the layer gives with its adapter, from what it gives without; `self` is the
     * site. */
    Var *(*apply)(void *self, Tape *t, Var *y);
    /* First values, where they depend on those of the base. `source`: or NULL. */
    bool (*start)(const Adapter *adapter, AdapterSite *site, const AdapterSource *source,
                  Error *err);
    /* `w` is the weight's values and becomes what the layer multiplies with in evaluation. */
    void (*merge)(const AdapterSite *site, float *w);
};

#define ADAPTER(name) extern const AdapterRow adapter_##name;
#include "qat/adapters.def"
#undef ADAPTER

extern const KindTable adapter_kinds;

/* Freezes a model just built and installs what `choice`, a row with its settings, asks for. To be
 * called before the optimizer is made. A pattern that matches no layer is refused, with what there
 * is. No choice: `*out` is NULL, and the model stays as it is. */
bool adapter_install(Model *model, const Variant *choice, Arena *arena, Adapter **out, Error *err);

/* First values of a new training, once the base has its numbers. */
bool adapter_start(const Adapter *adapter, const AdapterSource *source, Error *err);

const AdapterSite *adapter_find_site(const Adapter *adapter, const Module *module); /* or NULL */

/* Whether a layer is meant by a pattern of target: its name, the end of it behind a dot, or a glob
 * of either. */
bool adapter_matches(const char *pattern, const char *layer);

/* One line through log_info: what is trained, of how much. */
void adapter_describe(const Adapter *adapter);

#endif
