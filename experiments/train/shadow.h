/* The shadow beside the network as trained, on the same batches: what quantization does to the
 * output and to each layer. The shadow is a diagnostic; what quantization costs is measured against
 * a network that was trained in FP32. */
#ifndef NIBBLE_EXPERIMENTS_TRAIN_SHADOW_H
#define NIBBLE_EXPERIMENTS_TRAIN_SHADOW_H

#include "experiments/train/layers.h"

typedef struct ShadowOptions {
    LoaderSplit split;
    int64_t rows;       /* the first; 0: all */
    int64_t layer_rows; /* of these, which layers are compared over; 0: all */
    bool has_causes;    /* weights and activations are told apart */
} ShadowOptions;

enum { SHADOW_LAYER_ROWS = 256 }; /* unless asked for otherwise */

/* How a network's outputs differ from the shadow's. An output is a row of logits: a sample's, or a
 * token's. */
typedef struct OutputChange {
    double kl;       /* mean of KL(softmax shadow || softmax network), nats */
    int64_t changed; /* outputs whose largest logit is another one */
    int64_t outputs;
} OutputChange;

typedef struct Shadow {
    Evaluation networks[NETWORK_COUNT]; /* with has_causes all, else as trained and shadow */
    OutputChange changes[NETWORK_COUNT];
    int64_t layer_rows;
    LayerReport *layers; /* [qat->site_count] */
} Shadow;

/* Something is quantized, and every quantizer has its range. `confusion` (or NULL): of the network
 * as trained. The same for any number of threads; scores and losses are those of `evaluate`. */
bool shadow_evaluate(Experiment *e, const ShadowOptions *options, int64_t *confusion, Arena *arena,
                     Shadow *out, Error *err);

/* Adds `rows` outputs of a network to a sum: kl and changed of all, until output_change_end. */
void output_change_add(OutputChange *sum, const float *exact, const float *given, int64_t rows,
                       int64_t classes);
void output_change_end(OutputChange *sum);

#endif
