/* Tasks: what a network is trained to do.
 *
 * A task is one file in experiments/train/tasks and one row of tasks.def. It says how a batch is
 * recorded, which scores come out and which way they are better, and in which words people read of
 * it. Training, evaluation, planning, progress, summary and report go by the row; none of them
 * knows what a batch holds. */
#ifndef NIBBLE_EXPERIMENTS_TRAIN_TASK_H
#define NIBBLE_EXPERIMENTS_TRAIN_TASK_H

#include "experiments/train/experiment.h"

enum { TASK_SCORES_MAX = 4 };

/* One figure of an evaluation. It is stored as it is (`key`), and shown as factor * it, in `unit`.
 */
typedef struct Score {
    const char *key;                /* in summary.json, metrics.jsonl, checkpoints: "accuracy" */
    const char *name, *short_name;  /* in titles, and on the progress line: "accuracy", "acc" */
    const char *unit, *points_unit; /* "%"; of a difference: "points" */
    double factor;                  /* 100 for a fraction in per cent */
    int decimals;
    bool is_lower_better;
    double low, high; /* what it can be at all */
} Score;

/* One batch, and what became of it on a tape: the context of task_record. In a dry record the
 * batch's data may be NULL. */
typedef struct TaskStep {
    Experiment *e;
    Batch batch;
    bool
        wants_outputs; /* outputs are compared: a task may leave them out else, and give the loss */
    Var *output, *loss; /* what was recorded */
} TaskStep;

/* What an evaluation adds up. The loss of a batch is a mean over its samples. */
typedef struct TaskTally {
    int64_t samples;
    double loss;                  /* sum over samples */
    double sums[TASK_SCORES_MAX]; /* the task's own */
    int64_t *confusion;           /* [classes, classes]: true, predicted; the caller's, or NULL */
} TaskTally;

typedef struct Task {
    const char *name, *help;
    const char *sample;                /* settings of a small instance, which tests train */
    Column columns[BATCH_COLUMNS_MAX]; /* what it reads of a batch; shapes are the data's */
    int column_count;
    const char *rows;              /* of the data, in the plural: "images", "sequences" */
    const char *samples;           /* what is counted, in the plural: "images", "tokens" */
    Score scores[TASK_SCORES_MAX]; /* the best checkpoint is the best by the first */
    int score_count;
    bool has_confusion;    /* the report shows a matrix of classes, where they are few */
    const char *peft_task; /* what PEFT calls it (task_type); NULL: it has no word for it */
    bool is_packed;        /* quantized.h5 can hold its networks */
    bool is_distilled;     /* in training the loss has the term of train.distill (teacher.h) */
    /* Sets `output` and `loss`; the loss is recorded last, so that nothing takes its place. */
    void (*record)(TaskStep *step, Tape *t);
    /* How many samples the batch's loss is a mean over: its rows, or the labels not masked. */
    int64_t (*count_samples)(const Batch *batch);
    /* Adds a batch's part of `sums` and `confusion`. */
    void (*add)(const TaskStep *step, TaskTally *tally);
    /* The scores, from the sums over at least one sample. */
    void (*score)(const TaskTally *tally, double scores[]);
} Task;

#define TASK(name) extern const Task task_##name;
#include "experiments/train/tasks.def"
#undef TASK

extern const Task *const tasks[]; /* ends with NULL */

const Task *task_find(const char *name); /* NULL: none is called so */

/* The first task that reads nothing but what the data hold. */
bool task_choose(const Column *columns, int column_count, const Task **out, Error *err);

/* Records a batch (a TapeBuild), for training, evaluation or planning, as the tape's mode says: the
 * result is the loss in training and the output else. */
Var *task_record(void *step, Tape *t);

/* Adds a batch that has been run: its loss and what the task adds. */
void task_tally(const TaskStep *step, TaskTally *tally);

/* Whether the first score `a` is better than `b`. */
bool task_is_better(const Task *task, double a, double b);

#endif
