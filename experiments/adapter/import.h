/* adapter.from: a training that starts from an adapter of PEFT (data/peft.h), which says its rank,
 * alpha, form and layers; what is trained is then as if the settings had said so. */
#ifndef NIBBLE_EXPERIMENTS_ADAPTER_IMPORT_H
#define NIBBLE_EXPERIMENTS_ADAPTER_IMPORT_H

#include "experiments/train/experiment.h"

/* The directory, or NULL. */
const char *import_directory(const ExperimentConfig *config);

/* Of a configuration as its user gives it: puts the adapter's settings in their places. Settings
 * that say the same again are refused. */
bool import_settings(ExperimentConfig *config, Arena *arena, Error *err);

/* Fills the adapter's Params, where the configuration names a directory. An adapter for another
 * base is refused with names and shapes. */
bool import_weights(Experiment *e, Error *err);

#endif
