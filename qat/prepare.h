/* Preparing a model for quantization: rules name consumers, consumers resolve to edges.
 *
 * A consumer is a module with weights (a convolution or a linear layer has one). Each gets a
 * quantizer, behind the fold of a batch norm that alone reads a layer of one weight. The edge on
 * its input, one producer with all its readers, gets one quantizer per bit-width, applied where the
 * value is ready (after batch norm, ReLU and pooling); readers share its codes and scale. Residual
 * adds read and write `residual_bits`, so that a 4-bit network keeps its stream wide. */
#ifndef NIBBLE_QAT_PREPARE_H
#define NIBBLE_QAT_PREPARE_H

#include "qat/quantizer.h"

typedef struct TensorQuantConfig { /* what holds for all weights, or for all activations */
    int bits;                      /* choice: see bits_value */
    Variant quantizer;
    int granularity;
    int64_t group_size;
    bool affine;
    int scale; /* choice: f32, f16, bf16 */
} TensorQuantConfig;

typedef struct QuantRule {
    const char *layers; /* comma-separated: globs of dotted names, first, last, depthwise, kinds of
                           layers */
    int bits, weight_bits, activation_bits; /* choices */
} QuantRule;

typedef struct QatConfig {
    int bits;             /* choice; auto: to be resolved before qat_prepare */
    int64_t budget_bytes; /* 0 unless bits is auto */
    TensorQuantConfig weights, activations;
    Variant input; /* quantizer of the network's input */
    int residual_bits;
    List rules; /* of QuantRule; later rules win */
    double start, freeze_observers,
        freeze_batch_norm; /* below 1: share of the training, else steps */
} QatConfig;

extern const Field qat_fields[];

/* What the choices of TensorQuantConfig.granularity stand for. */
extern const Granularity qat_weight_granularities[], qat_activation_granularities[];

/* The bits behind a choice: 1 to 8, BITS_TERNARY, BITS_FLOAT, BITS_AUTO, or 0 for "inherit". */
int bits_value(int choice);
int bits_choice(int bits); /* the way back */

/* What settings alone show to contradict each other. */
bool qat_check(const QatConfig *config, Error *err);

typedef struct WeightSite {
    const char *name;      /* the layer's where it has no other weight, else the weight's; unique */
    Module *module, *norm; /* norm: the joined batch norm, or NULL */
    Param *weight;
    bool is_only;     /* the layer has no other weight: then its bias goes with it */
    Quant *quant;     /* NULL: the weight stays float */
    Quant *input;     /* the quantizer of the edge that the layer reads, or NULL */
    Module *input_at; /* whose input that stands at: the layer's, or that of a dropout before it */
} WeightSite;

typedef struct Edge {
    const char *producer; /* "input" or a module's dotted name */
    const Var *var;       /* of the search; not valid later */
    Quant *quant;
    const char **readers;
    int reader_count, reader_capacity;
} Edge;

typedef struct Qat {
    Model *model;
    QatConfig config;
    Arena *arena;
    QuantPhase phase;
    bool is_norm_frozen;
    WeightSite *sites; /* in the order of building: those of a layer side by side */
    int site_count;
    Edge *edges;
    int edge_count, edge_capacity;
} Qat;

/* Installs quantizers in a model just built. With quant.bits float (the default) and no rule that
 * says otherwise, nothing is installed. Refuses what a quantizer does not support, naming the
 * layer. */
bool qat_prepare(Model *model, const QatConfig *config, Arena *arena, Qat **out, Error *err);

/* Prints the edges and the weights, a line each, through log_info. */
void qat_describe(const Qat *qat);

/* Sets what step `step` of `total` sees: whether fake-quant has started, observers and batch norms
 * are frozen. A pure function of the step, so a resume needs no more than the step. */
void qat_set_step(Qat *qat, int64_t step, int64_t total);

/* Everything on and nothing observed: for evaluation and conversion. */
void qat_set_evaluation(Qat *qat);

/* The first step, counted from 0, that fakes. */
int64_t qat_start(const Qat *qat, int64_t total);

/* Whether quant.bits alone says the bits of this weight: no rule does, nor quant.weights. */
bool qat_leaves_bits(const Qat *qat, const WeightSite *site);
/* What a rule calls this layer and no other; made in `arena`. */
const char *qat_rule_word(const char *layer, Arena *arena);

bool qat_is_active(const Qat *qat); /* whether anything is quantized */
/* Of a layer's first weight, or NULL. */
const WeightSite *qat_find_site(const Qat *qat, const Module *module);

#endif
