/* Evaluation: the network as trained, and its shadow (the same masters, nothing quantized). */
#ifndef NIBBLE_EXPERIMENTS_TRAIN_EVALUATE_H
#define NIBBLE_EXPERIMENTS_TRAIN_EVALUATE_H

#include "experiments/train/task.h"

typedef struct Evaluation {
    int64_t limit;                  /* how many rows are seen, the first; 0: all */
    double loss;                    /* mean over samples */
    double scores[TASK_SCORES_MAX]; /* as the task lists them */
    int64_t rows;
    int64_t *confusion; /* [classes, classes]: true class, predicted class; the caller's, or NULL */
    float *outputs;     /* of all rows, one after the other; the caller's, or NULL */
} Evaluation;

TapeMode evaluate_mode(bool is_float); /* `is_float`: the shadow */

/* Runs a whole split. `is_float`: the shadow. The result does not depend on the thread count. A
 * non-finite output is ERROR_NUMERIC and named. */
bool evaluate(Experiment *e, LoaderSplit split, bool is_float, Evaluation *out, Error *err);

/* One layer with weights, compared with its shadow over `batches` batches of a split. */
typedef struct LayerReport {
    const char *name;
    int weight_bits, activation_bits; /* BITS_FLOAT: not quantized */
    double sqnr_db; /* of the layer's output, norm included: signal over quantization noise */
} LayerReport;

/* `reports` [qat->site_count]. Sees so few rows at a time, because it holds every value of every
 * layer. */
enum { EVALUATE_LAYER_ROWS = 8 };
bool evaluate_layers(Experiment *e, LoaderSplit split, int64_t batches, LayerReport *reports,
                     Error *err);

#endif
