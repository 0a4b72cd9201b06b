/* The memory and the work of a training, known before it starts: from dry records of its steps and
 * evaluations, of which nothing is computed and no value is allocated. */
#ifndef NIBBLE_EXPERIMENTS_PLAN_FOOTPRINT_H
#define NIBBLE_EXPERIMENTS_PLAN_FOOTPRINT_H

#include "experiments/plan/record.h"
#include "experiments/train/experiment.h"

/* What memory is taken by. The kinds add up to the peak. */
typedef enum FootprintKind {
    FOOTPRINT_PROCESS,     /* the program, its libraries and their own memory */
    FOOTPRINT_DATA,        /* the data set, and the loader's batches */
    FOOTPRINT_MASTERS,     /* parameters and buffers as they are stored */
    FOOTPRINT_OPTIMIZER,   /* its state; averages of weights */
    FOOTPRINT_GRADIENTS,   /* of parameters */
    FOOTPRINT_ACTIVATIONS, /* values that are kept from forward to backward */
    /* The rest of the block that values and gradients share: gradients to activations, and values
     * that nobody reads again in backward. */
    FOOTPRINT_ACTIVATION_GRADIENTS,
    FOOTPRINT_SCRATCH,    /* what operations save, and what kernels take while they run */
    FOOTPRINT_TEACHER,    /* the network that is learnt from, and what it takes for a batch */
    FOOTPRINT_EVALUATION, /* what evaluations take beyond the memory of training steps */
    FOOTPRINT_KINDS
} FootprintKind;

extern const char *const footprint_kind_names[FOOTPRINT_KINDS]; /* "activation_gradients" */
extern const char *const footprint_kind_texts[FOOTPRINT_KINDS]; /* the same in words */

typedef struct FootprintLayer {
    const char *name;            /* of the module */
    Shape shape;                 /* of its output, for a whole batch */
    const Quant *weight, *input; /* quantizers of its weight and of what it reads; or NULL */
    double flops;                /* of a training step, all micro-batches */
    int64_t kept_bytes;          /* of values kept for backward */
    int64_t parameter_bytes;     /* with those of its quantizers */
} FootprintLayer;

/* Parameters and buffers that are stored alike. */
typedef struct FootprintParams {
    Dtype dtype;
    bool is_trained;
    int64_t count, bytes; /* elements; with their scales */
} FootprintParams;

typedef struct Footprint {
    int64_t bytes[FOOTPRINT_KINDS], total;
    FootprintParams params[2 * DTYPE_COUNT]; /* trained ones first, then by dtype */
    int params_count;
    FootprintLayer *layers; /* in the order in which they run */
    int layer_count;
    double step_flops;
} Footprint;

/* Of an experiment that is open and can be trained (trainer_begin). Weights stay as they are; the
 * phase becomes that of step 0. Memory from `arena`. */
bool footprint_find(Experiment *e, Arena *arena, Footprint *out, Error *err);

/* The most that a training step takes over such a batch, of which only shapes are read. */
bool footprint_step_bytes(Experiment *e, Tape *t, Batch batch, RecordBytes *out, Error *err);

/* How many tokens a row of the batch can have for a step to fit into `available` bytes, all else as
 * `footprint` has it; a multiple of 64. 0: rows are no tokens, or nobody knows. */
int64_t footprint_context(Experiment *e, const Footprint *footprint, int64_t available);

/* Whether there is that much memory for this process; how much there is in *available. */
bool footprint_fits(const Footprint *footprint, int64_t *available);

/* Fails if the training cannot fit, naming what it needs, what there is, and the remedy. */
bool footprint_check(Experiment *e, Error *err);

/* Seconds that a training step is estimated to take: measured over a part of a batch, and
 * extrapolated. Trains a little, so the experiment is of no use afterwards. */
bool footprint_step_seconds(Experiment *e, double *seconds, Error *err);

#endif
