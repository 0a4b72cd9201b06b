/* What each layer costs when it alone is quantized: the network is run on the same rows with
 * nothing quantized, and with one layer. Rows are of the validation split, never of the test set,
 * so bits may be chosen by these figures.
 *
 *     Sensitivity s;
 *     TRY(sensitivity_begin(e, 1000, arena, &s, err));
 *     TRY(sensitivity_layer(&s, i, SENSITIVITY_BOTH, &cost, err));     as settings quantize site i
 *     TRY(sensitivity_weight(&s, i, 3, &cost, err));                   its weight at 3 bits
 *
 * Sites are those of e->qat, by number: a layer with a weight (a layer with several: each of them).
 * All of it in evaluation mode, on the weights that are loaded; afterwards the experiment is as it
 * was. The same bits for any number of threads. */
#ifndef NIBBLE_EXPERIMENTS_TRAIN_SENSITIVITY_H
#define NIBBLE_EXPERIMENTS_TRAIN_SENSITIVITY_H

#include "experiments/train/shadow.h"

/* What a layer's quantization adds to the network without any. Noise may make loss and score
 * better: below 0. */
typedef struct SensitivityCost {
    double loss;     /* added to the mean loss */
    double score;    /* lost of the task's first score, in its own unit: above 0 is worse */
    double kl;       /* mean of KL(softmax float || softmax with the layer quantized), nats: never
                        below 0, and smooth where few predictions change, so what ranks layers */
    int64_t changed; /* predictions */
} SensitivityCost;

typedef enum SensitivityPart {
    SENSITIVITY_BOTH,    /* the layer's weights and its input */
    SENSITIVITY_WEIGHTS, /* as shipped, with a batch norm that folds into them */
    SENSITIVITY_INPUT,   /* for this layer alone, where others read it too */
    SENSITIVITY_PARTS
} SensitivityPart;

/* A measurement that has begun; its memory is the arena's that it was given. */
typedef struct Sensitivity {
    Experiment *e;
    Evaluation exact; /* of the network without quantization; `rows` says how many there were */
    float *given;     /* outputs of the one at hand */
    int64_t classes;
} Sensitivity;

/* Runs the network without quantization over the first `rows` rows (0: all) of the validation split
 * . ERROR_INPUT where there is none (data.validation: 0), or it was not read (RunOptions); and of a
 * network that was quantized without training, whose weights are rounded already. */
bool sensitivity_begin(Experiment *e, int64_t rows, Arena *arena, Sensitivity *out, Error *err);

/* Of site `site` as settings quantize it, with its own quantizers, which must have their ranges; a
 * part that is not quantized costs 0. Of a layer with several weights, all of them. The phase must
 * be that of an evaluation (qat_set_evaluation). */
bool sensitivity_layer(Sensitivity *s, int site, SensitivityPart part, SensitivityCost *out,
                       Error *err);

/* Of the site's weight rounded to the nearest of `bits` bits (2 to 8, BITS_TERNARY), each range
 * that with the least squared error, in a network of which nothing else is quantized. Scales are as
 * quant.weights says (granularity, group_size, affine), whether the site is quantized in this run
 * or not: of an FP32 network too. A folded batch norm is folded before. */
bool sensitivity_weight(Sensitivity *s, int site, int bits, SensitivityCost *out, Error *err);

/* The same for every site and each of `bits`: costs [site_count][bit_count]. */
bool sensitivity_table(Sensitivity *s, const int *bits, int bit_count, SensitivityCost *costs,
                       Error *err);

#endif
