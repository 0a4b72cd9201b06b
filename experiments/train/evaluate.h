/* Evaluation: a network of a run, over a split of the data. The networks share masters and differ
 * in what of them is quantized. */
#ifndef NIBBLE_EXPERIMENTS_TRAIN_EVALUATE_H
#define NIBBLE_EXPERIMENTS_TRAIN_EVALUATE_H

#include "experiments/train/task.h"

typedef enum Network {
    NETWORK_TRAINED,     /* as trained and shipped: what settings quantize is quantized */
    NETWORK_SHADOW,      /* nothing is */
    NETWORK_WEIGHTS,     /* weights are, as shipped; values between layers are float */
    NETWORK_ACTIVATIONS, /* values are; weights are float, and not folded */
    NETWORK_COUNT
} Network;

/* A batch of an evaluation. */
typedef struct EvaluationPart {
    int64_t samples;
    double loss; /* mean over them */
} EvaluationPart;

typedef struct Evaluation {
    int64_t limit;                  /* how many rows are seen, the first; 0: all */
    double loss;                    /* mean over samples */
    double scores[TASK_SCORES_MAX]; /* as the task lists them */
    int64_t rows;
    int64_t *confusion; /* [classes, classes]: true class, predicted class; the caller's, or NULL */
    float *outputs;     /* of all rows, one after the other; the caller's, or NULL */
    EvaluationPart *parts; /* of each batch; the caller's, or NULL */
} Evaluation;

TapeMode evaluate_mode(Network network);

/* Runs a whole split. The result does not depend on the thread count. A non-finite output is
 * ERROR_NUMERIC and named. */
bool evaluate(Experiment *e, LoaderSplit split, Network network, Evaluation *out, Error *err);

/* The same in any mode of an evaluation. */
bool evaluate_as(Experiment *e, LoaderSplit split, TapeMode mode, Evaluation *out, Error *err);

/* One batch, on a planned record: step->output and step->loss are there until the next. */
bool evaluate_batch(TaskStep *step, TapeMode mode, Error *err);
/* The same with every value of the record kept, each apart: slower, and for few rows at a time. */
bool evaluate_kept(TaskStep *step, TapeMode mode, Error *err);

/* Whether a record went well and its result is finite; else the first value that is not is named.
 */
bool evaluate_check(const Tape *t, const Var *output, Error *err);

/* Loss and scores, of what was added up; nothing is set where nothing was. */
void evaluate_score(const Task *task, const TaskTally *tally, Evaluation *out);

/* The batch number `i` of a split, cut where `limit` (0: none) rows are seen when `rows` have been
 * before it; of no rows behind the last. */
Batch evaluate_rows(Experiment *e, LoaderSplit split, int64_t i, int64_t rows, int64_t limit);

#endif
