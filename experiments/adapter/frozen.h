/* The base of an adapter: a network that is frozen, that of a run (train.init) or one that came
 * with its model. Checkpoints of such a run hold the adapter alone and the digest of the base,
 * which is loaded anew each time that the run is opened. */
#ifndef NIBBLE_EXPERIMENTS_ADAPTER_FROZEN_H
#define NIBBLE_EXPERIMENTS_ADAPTER_FROZEN_H

#include "experiments/train/experiment.h"

/* Fills the base's Params from train.init, where that is given, and finds e->base_digest: of the
 * numbers as they are stored. Without an adapter nothing is done. */
bool frozen_load(Experiment *e, Error *err);

/* Refuses a base that is not the one that the checkpoint at `path` stands on, of this digest. */
bool frozen_check_digest(const Experiment *e, const char *digest, const char *path, Error *err);

/* The weights that a directory of Hugging Face's holds under the Params' names; it must live as
 * long. NULL: none. */
AdapterSource frozen_source(const char *directory);

#endif
