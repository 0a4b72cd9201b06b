/* The runs of a comparison: which there are, which are done, and doing the next. A run is an
 * ordinary run directory, made by the program's own commands in a process of its own; what was
 * made before is found again, so a comparison goes on wherever it was stopped. */
#ifndef NIBBLE_EXPERIMENTS_COMPARE_SCHEDULE_H
#define NIBBLE_EXPERIMENTS_COMPARE_SCHEDULE_H

#include "core/json.h"
#include "experiments/compare/comparison.h"

typedef enum RunState {
    RUN_WAITING,
    RUN_MAKING,     /* it trains, or is made of the FP32 run */
    RUN_EVALUATING, /* it is there, and the test set is seen */
    RUN_DONE,
    RUN_FAILED, /* as training can, without that others are in vain */
} RunState;

typedef struct CompareRun {
    const CompareRow *row;
    int64_t seed;
    struct CompareRun *baseline; /* the FP32 run with the same seed; NULL: it is that */
    struct CompareRun *source;   /* that it is made of, or begins from; NULL: none */
    const char *name, *directory, *log, *config, *evaluation;
    const char *outputs; /* of the FP32 run of the seed, over the test split */
    RunState state;
    Json *result;          /* once done: its evaluation; the schedule's */
    const char *failure;   /* why it failed */
    int64_t step, steps;   /* of its training: done, and all (0: not known) */
    int64_t first_step;    /* done before this process began with it */
    double began, seconds; /* of this process: when it began with the run, and what that took */
    double making_seconds; /* of these, until it was there and the test set was seen */
} CompareRun;

typedef struct Schedule {
    const Comparison *comparison;
    const char *directory;
    Arena *arena;
    CompareRun *runs; /* seed by seed, in each the rows in their order */
    int run_count;
    double began; /* seconds */
} Schedule;

/* Finds what is done in `directory`. The arena and the comparison outlive it. */
void schedule_open(Schedule *schedule, const Comparison *comparison, const char *directory,
                   Arena *arena);
void schedule_close(Schedule *schedule);

/* Refuses a directory of a run that is another run's: of another seed, or with other settings. */
bool schedule_check_runs(const Schedule *schedule, Error *err);

/* Opens each row's experiment once, in a process of its own, so that what is wrong with one shows
 * before anything is trained; and learns how many steps it has. */
bool schedule_survey(Schedule *schedule, Error *err);

/* Called many times a second while a run is at work, and whenever a state has changed. */
typedef void (*ScheduleWatch)(void *context, const CompareRun *run, bool has_changed);

/* Makes and evaluates one run that waits. False: the comparison cannot go on (a wrong setting, a
 * full disk, a signal). A training that diverges, or a process that crashes, fails this run alone.
 */
bool schedule_make(Schedule *schedule, CompareRun *run, ScheduleWatch watch, void *context,
                   Error *err);

int schedule_count(const Schedule *schedule, RunState state);

/* Seconds until all is done, by what was done so far; NAN: nothing is known yet. */
double schedule_left(const Schedule *schedule);

#endif
