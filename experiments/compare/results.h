/* What a comparison found: each run a row, the runs of a row over all seeds a group. Written as
 * results.json and results.csv; layout in docs/formats.md. */
#ifndef NIBBLE_EXPERIMENTS_COMPARE_RESULTS_H
#define NIBBLE_EXPERIMENTS_COMPARE_RESULTS_H

#include "experiments/compare/schedule.h"
#include "experiments/compare/statistics.h"
#include "experiments/train/task.h"

typedef struct Group {
    const CompareRow *row;
    const Task *task;
    int seeds;      /* runs that are done */
    Interval score; /* the task's first, over seeds */
    /* To FP32, paired by seed; of one seed: paired by test row, or by batch of the test split. Of a
     * task without classes it is that of the loss. */
    Interval difference;
    bool is_by_rows;       /* of one seed */
    int64_t better, worse; /* test rows that this row, or FP32, alone got right; all seeds */
    double p;              /* McNemar, of these; NAN: no classes */
    double recovered; /* of what PTQ at the same bits loses; NAN: it loses too little, or none */
    double bits_per_weight, bytes, train_seconds; /* means; NAN: not known */
    double kl;                                    /* to the FP32 run's outputs, mean */
    double samples_per_second, peak_bytes;        /* of training, and of its process */
} Group;

/* PTQ must lose so much before a share of it means anything. */
static const double RESULTS_LOSS_MIN = 0.02;

/* What a run that is done was trained for. */
const Task *results_run_task(const CompareRun *run);
/* Of the runs that are done; the first task where none is. */
const Task *results_task(const Schedule *schedule);

/* `groups` [row_count], in the order of the table: FP32 first, then by bits, from many to few. */
void results_groups(const Schedule *schedule, Group *groups);

/* Writes both files, each whole. `seconds`: of the whole comparison, earlier processes included. */
bool results_write(const Schedule *schedule, double seconds, Error *err);
/* Seconds that results.json has counted; 0: there is none. */
double results_seconds(const char *directory);

#endif
