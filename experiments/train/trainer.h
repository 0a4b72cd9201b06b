/* The training loop. */
#ifndef NIBBLE_EXPERIMENTS_TRAIN_TRAINER_H
#define NIBBLE_EXPERIMENTS_TRAIN_TRAINER_H

#include "experiments/train/task.h"

/* Trains in `directory`, a run directory: a new run, which trainer_begin has made ready, or when
 * `resumes` from the run's checkpoint, and where there is none yet from its start.
 * Writes config.yaml, metrics, checkpoints, best.h5, and at the end summary.json and report.html;
 * a checkpoint that is refused leaves all as it was. A signal ends it after a clean save with
 * ERROR_STOPPED. */
bool trainer_run(Experiment *e, const char *directory, bool resumes, Error *err);

/* The start of a training, and all that can be wrong with it before its run directory is touched:
 * no step to make, a schedule that does not fit, train.init, which is loaded here and nowhere else:
 * --force may remove the file that it names. */
bool trainer_begin(Experiment *e, Error *err);

/* Steps of an epoch and of the whole training, as schedules see it. */
int64_t trainer_epoch_steps(const Experiment *e);
int64_t trainer_total_steps(const Experiment *e);
int64_t trainer_last_step(const Experiment *e); /* at which a run ends, maybe by train.steps */

TapeMode trainer_mode(const Experiment *e); /* how a step's batches are recorded */

/* One optimizer step (accumulating over micro-batches) at `step`; the mean loss in *loss. Allocates
 * nothing from the system once the arenas have grown. */
bool trainer_step(Experiment *e, int64_t step, double *loss, Error *err);

#endif
