/* Parameters, views and the tree of modules that a model is.
 *
 * A model is a list of layers (rows of layers.def with their settings); built-in models generate
 * such a list too (experiments/models), so that a model written out by hand is the same model.
 * Layers say nothing about quantization: what they read goes through Views, which qat/ installs.
 *
 * Building happens on the first, shape-only run: a module sees the shapes of its inputs, makes its
 * parameters and children, and runs. Parameters are numbered in the order of their making, and the
 * number keys their random initialisation. All memory belongs to the model's arena. */
#ifndef NIBBLE_AUTOGRAD_MODULE_H
#define NIBBLE_AUTOGRAD_MODULE_H

#include "autograd/tape.h"
#include "core/settings/field.h"

typedef struct Module Module;
typedef struct Model Model;

/* Something between what is stored and what is read. apply may return NULL only where a reader
 * accepts an absent value (a bias). An empty View passes x on. */
typedef struct View {
    Var *(*apply)(void *self, Tape *t, Var *x);
    void *self;
} View;

typedef enum ParamRole {
    PARAM_WEIGHT, /* the second operand of a product; quantizers apply, decay applies */
    PARAM_BIAS,
    PARAM_NORM,   /* gamma and beta */
    PARAM_SCALE,  /* a quantizer's learned scale or offset */
    PARAM_BUFFER, /* state that is saved but has no gradient: running statistics, observers */
    PARAM_TABLE,  /* rows that are looked up: no quantizer applies, decay does */
} ParamRole;

typedef struct Param {
    const char *name; /* dotted and unique in the model: "stage1.block1.conv1.weight" */
    ParamRole role;
    Tensor value;  /* f32 master; of any dtype where param_store put it */
    float *origin; /* what records of float weights read in place of an f32 value: of a network that
                      was quantized without training, what it had before; NULL: the value */
    float *grad;   /* same shape; NULL for buffers and what is stored */
    bool has_grad; /* grad holds a sum; cleared by model_clear_grads */
    bool is_frozen;   /* gets no gradient and no update */
    bool is_base;     /* of the network that an adapter stands on: frozen, and in no checkpoint */
    bool is_positive; /* never below 0; where it learns, an update at most halves or doubles it */
    View view;
    Module *owner;
    Var *leaf,
        *read; /* of the record `generation`: the master itself, and what the view made of it */
    uint64_t generation;
} Param;

typedef enum InitKind { INIT_ZERO, INIT_ONE, INIT_NORMAL, INIT_UNIFORM } InitKind;
typedef struct Init {
    InitKind kind;
    float spread; /* deviation of normal, half width of uniform */
} Init;

/* What a layer is, for who looks at a network without knowing its kinds (qat/). */
typedef enum LayerFlags {
    LAYER_IS_ACTIVATION = 1, /* element by element, of one input, without parameters */
    LAYER_FOLDS = 2,         /* a batch norm: folds into the product before it, and can be frozen */
    LAYER_DROPS = 4,         /* drops elements in training, and gives its input in evaluation */
    LAYER_ADDS = 8,          /* the sum of its inputs: a residual stream begins */
    LAYER_IS_BLOCK = 16,     /* what a deep network has many of, one after the other; its values can
                                be made again for backward (TapeMode.recompute) */
} LayerFlags;

/* A row of layers.def. The config struct of every layer begins with LayerConfig. */
typedef struct Layer {
    Kind kind;
    unsigned flags;  /* LayerFlags */
    int input_count; /* how many Vars forward takes; sequences and most layers: 1 */
    /* Makes parameters and children; `in` carries shapes only. NULL: nothing to make. */
    bool (*build)(Module *self, Var *const *in, Error *err);
    Var *(*forward)(Module *self, Tape *t, Var *const *in);
} Layer;

typedef struct LayerConfig {
    const char *name; /* NULL: the kind with its number among its siblings: conv1, conv2 */
} LayerConfig;
#define LAYER_FIELDS(Struct)                                                                       \
    {                                                                                              \
        .name = "name", .type = FIELD_TYPE_STRING, .offset = offsetof(Struct, layer.name),         \
        .fallback = "", .help = "name in reports and rules (default: kind and number)"             \
    }

enum { MODULE_INPUTS_MAX = 2 };

struct Module {
    const Layer *layer;
    const char *name; /* dotted, from the root; the root's is "" */
    const void *config;
    Model *model;
    Module *parent;
    Module **children;
    int child_count, child_capacity;
    Param **params;
    int param_count, param_capacity;
    View inputs[MODULE_INPUTS_MAX]; /* applied to what forward is given */
    View output;   /* makes what it gives of what forward gave (an adapter); the input is still in
                      last_seen */
    View *outputs; /* applied to what it gives, right there; they remember the result for readers */
    int output_count, output_capacity;
    void *state; /* the layer's own */
    bool is_built;
    int order; /* among all modules, in the order of building */
    /* Of the latest record, for qat's search of edges and for reports: what was handed in, before
     * the views and behind them, and what came out. */
    Var *last_in[MODULE_INPUTS_MAX], *last_seen[MODULE_INPUTS_MAX];
    Var *last_out;
};

/* Beside the ids of tokens, what layers read of one record: who records sets it first. */
typedef struct TokenContext {
    uint64_t generation;
    Var *starts;    /* [batch, length]: the first position that each may see; NULL: all from 0 */
    bool is_scored; /* the head gives the mean loss of `labels`, a scalar, instead of logits */
    const int32_t *labels; /* [batch, length]: the token after each position, or -1: not scored;
                              NULL in dry records */
    struct KvCache *cache; /* x are the positions behind those that it holds; NULL: all that are */
    bool only_last;        /* the head gives the logits of the last position: [batch, 1, units] */
} TokenContext;

struct Model {
    Arena *arena;
    Module *root;
    bool is_sketch;      /* parameters have names and shapes, no memory */
    bool is_frozen;      /* parameters that are made get no gradient */
    Shape input;         /* of one sample: [h, w, c], or [length] tokens, where any length works */
    Shape output;        /* for a batch of one: [1, classes], or [1, length, classes] */
    TokenContext tokens; /* see model_tokens */
    uint64_t seed;
    Param **params; /* every parameter and buffer, in the order of making */
    int param_count, param_capacity;
    int module_count;
};

/* A model from its list of layers (Variants over layer_kinds), built for samples of shape `input`,
 * with parameters initialised from `seed`. A wrong shape is an error that names the layer. */
bool model_new(const List *layers, Shape input, uint64_t seed, Arena *arena, Model **out,
               Error *err);
/* The same without gradients: what is made while `is_frozen` stays true has none. */
bool model_new_frozen(const List *layers, Shape input, uint64_t seed, Arena *arena, Model **out,
                      Error *err);
/* The same without memory for parameters: to see what a model would be. */
bool model_sketch(const List *layers, Shape input, Arena *arena, Model **out, Error *err);

/* Logits for a batch [n, ...input]; tokens are whole numbers, [n, length]. */
Var *model_forward(Model *model, Tape *t, Var *x);
/* That of the present record; a record begins with an empty one. */
TokenContext *model_tokens(Model *model, const Tape *t);

void model_clear_grads(Model *model);
Param *model_find_param(const Model *model, const char *name);
Module *model_find_module(const Model *model, const char *name);
/* Every module in the order of building; return false to stop, which it then returns. */
bool model_visit(Model *model, bool (*visit)(void *context, Module *module), void *context);
int64_t model_trainable_count(const Model *model); /* elements with a gradient, scales excluded */

/* For layers and quantizers. */
Param *module_param(Module *self, const char *name, Shape shape, ParamRole role, Init init);
Param *module_find_param(const Module *self, const char *name); /* own, by last name; or NULL */
int module_weight_count(const Module *self);                    /* Params of role PARAM_WEIGHT */
/* What a weight is called by rules and files: its layer where that has no other, else itself. */
const char *param_weight_name(const Param *weight);
/* Parameters that belong to the model as a whole (quantizers of edges), by full name. */
Param *model_param(Model *model, const char *full_name, Shape shape, ParamRole role, Init init);
Module *module_child(Module *self, const Layer *layer, const void *config, const char *name);
void module_children(Module *self, const List *layers);   /* appends one child per Variant */
void module_add_output(Module *self, View view);          /* to `outputs` */
Var *module_apply(Module *self, Tape *t, Var *const *in); /* views, build if needed, forward */
Var *module_apply_one(Module *self, Tape *t, Var *x);

/* For who only evaluates, a few rows at a time: weights that products read as they are lie in
 * panels from now on (core/panels.h). The network gives the same bits; it is not to be saved. */
void model_lay_weights(Model *model);

/* What a layer reads: the parameter through its view, once per record. NULL param: NULL. */
Var *param_read(Param *param, Tape *t);
Var *param_leaf(Param *param, Tape *t); /* the master itself, views or not */
/* The numbers of an f32 parameter that a record reads: the master's, or in the shadow the origin's.
 */
float *param_numbers(const Param *param, const Tape *t);
/* From now on the parameter is this tensor, of its shape and of any dtype (tensor_encode): frozen,
 * without a gradient or an optimizer's state. Its memory must outlive the model; call it before the
 * optimizer is made. A sketch's parameter gets memory so. */
void param_store(Param *param, Tensor value);

#define LAYER(name) extern const Layer layer_##name;
#include "autograd/layers.def"
#undef LAYER

extern const KindTable layer_kinds;
/* The names of the rows that have a flag, with ", " between. */
const char *layer_kinds_with(LayerFlags flag, Arena *arena);

#endif
