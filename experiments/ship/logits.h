/* The logits of a whole test set, recorded and compared bit for bit. */
#ifndef NIBBLE_EXPERIMENTS_SHIP_LOGITS_H
#define NIBBLE_EXPERIMENTS_SHIP_LOGITS_H

#include "experiments/train/experiment.h"

/* Evaluates the network as it is and writes its logits [rows, classes] to an HDF5 file, with the
 * digest of the packed file at `packed` that was made of it. */
bool logits_record(Experiment *e, const char *path, const char *packed, Error *err);

/* Evaluates again; any bit that differs from the record is ERROR_MISMATCH with the first place and
 * the count. So is a packed file that is not the recorded one: a bit that no test image depends on
 * would not show in the logits. */
bool logits_compare(Experiment *e, const char *path, const char *packed, int64_t *rows, Error *err);

#endif
