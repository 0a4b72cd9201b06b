/* The base of an adapter: the network that train.init names, frozen. Checkpoints of such a run hold
 * the adapter alone and the digest of the base, which is loaded anew each time that the run is
 * opened. */
#ifndef NIBBLE_EXPERIMENTS_ADAPTER_FROZEN_H
#define NIBBLE_EXPERIMENTS_ADAPTER_FROZEN_H

#include "experiments/train/experiment.h"

/* Fills the base's Params and e->base_digest. Without an adapter, or where the model came with its
 * numbers, nothing is done. */
bool frozen_load(Experiment *e, Error *err);

/* Refuses a base that is not the one that the checkpoint at `path` stands on, of this digest. */
bool frozen_check_digest(const Experiment *e, const char *digest, const char *path, Error *err);

#endif
