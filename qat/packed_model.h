/* A packed model: all that inference needs, and nothing else. It holds the architecture, codes,
 * scales, biases, the input's shape and normalisation and the classes' names; no configuration,
 * data set, master, gradient or optimizer.
 *
 * Its parts are plain data, made of a prepared model (qat/convert.h) or read from a file
 * (experiments/ship/packed.h). packed_model_build checks them as what a stranger wrote and makes
 * the network that runs on them. Weights stay codes in memory; products decode them as they read
 * them. All memory is the arena's but the tape's, which packed_model_close gives back. */
#ifndef NIBBLE_QAT_PACKED_MODEL_H
#define NIBBLE_QAT_PACKED_MODEL_H

#include "autograd/module.h"
#include "core/settings/field.h"

/* One quantized weight: codes of an integer dtype with scales; bias [out] as deployed (with a
 * folded batch norm in it), NULL where there is none, and for one of several weights. */
typedef struct PackedWeight {
    const char *layer; /* dotted name of the module; of one with several weights the weight's own */
    Tensor codes;
    const float *bias;
    int64_t bias_count;
} PackedWeight;

/* How one value between layers is quantized. */
typedef struct PackedEdge {
    const char *name; /* "relu1.out4" */
    Grid grid;
    Dtype scale_dtype;
    bool is_affine, is_per_token;
    float scale, zero; /* of the whole tensor; per token they are made of each row */
} PackedEdge;

/* What travels as it is stored: a float weight, a norm that was not folded, in f32; a frozen
 * parameter in its own dtype. */
typedef struct PackedParam {
    const char *name; /* dotted */
    Tensor value;     /* holds values, not levels */
} PackedParam;

/* Edges by name, where a module reads and makes values; NULL: as they are. */
typedef struct PackedPlace {
    const char *module, *input, *input2;
    List outputs; /* of const char * */
} PackedPlace;

typedef struct PackedFold {
    const char *norm, *layer; /* the batch norm is in the weight and the bias of the layer */
} PackedFold;

/* The architecture, as rows of settings: `layers` is what a user writes under `kind: sequential`.
 */
typedef struct PackedGraph {
    List layers; /* of Variant over layer_kinds */
    List places; /* of PackedPlace */
    List folds;  /* of PackedFold */
} PackedGraph;

extern const Field packed_graph_fields[];

typedef struct PackedModel {
    Arena *arena;
    PackedGraph graph;
    Shape input;           /* [height, width, channels] */
    bool has_float_pixels; /* else they are bytes, 0 to 255 */
    int64_t class_count;
    const float *mean, *deviation;  /* [channels]; a pixel enters as (stored - mean) / deviation */
    const char *const *class_names; /* [class_count], or NULL: they have none */
    PackedWeight *weights;
    PackedEdge *edges;
    PackedParam *params;
    int weight_count, edge_count, param_count;
    Model *model; /* of packed_model_build */
    Tape *tape;
} PackedModel;

/* Checks every part and makes the network. A part that does not fit is ERROR_INPUT with its name:
 * "weights/conv1: ...". packed_model_close is due whatever the result. */
bool packed_model_build(PackedModel *m, Error *err);
void packed_model_close(PackedModel *m);

/* logits [count, classes] of images [count, height, width, channels], pixels as they are stored:
 * the normalisation is the model's. Any count, in bounded memory. Neither the count nor the threads
 * change a bit of an image's logits. Logits that are not finite are ERROR_NUMERIC. */
bool packed_model_run(PackedModel *m, const float *images, int64_t count, float *logits,
                      Error *err);

const PackedEdge *packed_model_edge(const PackedModel *m, const char *name); /* or NULL */

#endif
