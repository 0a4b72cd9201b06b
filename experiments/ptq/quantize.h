/* Quantizing a trained network: from the directory of one run to that of another, which is opened,
 * evaluated, converted and trained from like any other. */
#ifndef NIBBLE_EXPERIMENTS_PTQ_QUANTIZE_H
#define NIBBLE_EXPERIMENTS_PTQ_QUANTIZE_H

#include "experiments/train/experiment.h"

/* Opens the experiment of `config` (config_read_quantize) with the weights that the run reports,
 * averaged where it has averages, and without ranges. experiment_close is due whatever the result.
 */
bool quantize_open(const char *run, const ExperimentConfig *config, Arena *config_arena,
                   Experiment *e, Error *err);

/* Runs the pipeline `quantize` and writes the files of a run into `directory`, which is there and
 * claimed, behind it: summary.json and report.html last. */
bool quantize_run(Experiment *e, const char *directory, Error *err);

#endif
