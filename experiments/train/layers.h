/* What quantization does to each layer with weights: its output beside the shadow's, over the first
 * rows of a split. */
#ifndef NIBBLE_EXPERIMENTS_TRAIN_LAYERS_H
#define NIBBLE_EXPERIMENTS_TRAIN_LAYERS_H

#include "experiments/train/deviation.h"
#include "experiments/train/evaluate.h"

/* What a layer's deviation is of, where causes are told apart. Local: the layer alone, given the
 * shadow's input, with only its weights quantized (and folded), or only its input (and nothing
 * folded). Cumulative: the layer within NETWORK_WEIGHTS, or NETWORK_ACTIVATIONS. */
typedef enum LayerCause {
    LAYER_WEIGHTS_LOCAL,
    LAYER_WEIGHTS_CUMULATIVE,
    LAYER_INPUT_LOCAL,
    LAYER_INPUT_CUMULATIVE,
    LAYER_CAUSES
} LayerCause;

/* Outputs are taken behind a batch norm that folds into the layer. Of a layer with several weights
 * each has a report, of the same output. */
typedef struct LayerReport {
    const char *name;
    int weight_bits, activation_bits;     /* BITS_FLOAT: not quantized */
    Deviation whole;                      /* in the network as trained */
    Deviation causes[LAYER_CAUSES];       /* where they were asked for; else zeros */
    double clipped_weight, clipped_input; /* share of values beyond the grid; NAN: no quantizer */
    int unused_weight, unused_input;      /* codes that no value takes; -1: no quantizer */
} LayerReport;

/* Sees so few rows at a time, because it holds every value of every layer. */
enum { LAYERS_PART_ROWS = 16 };

/* `reports` [qat->site_count], over the first `rows` rows (0: all) of a split. `has_causes`: fills
 * causes. Every quantizer has its range. The same for any number of threads. */
bool layers_compare(Experiment *e, LoaderSplit split, int64_t rows, bool has_causes,
                    LayerReport *reports, Error *err);

#endif
