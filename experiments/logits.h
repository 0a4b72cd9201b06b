/* The logits of a whole test set, recorded and compared bit for bit. */
#ifndef NIBBLE_EXPERIMENTS_LOGITS_H
#define NIBBLE_EXPERIMENTS_LOGITS_H

#include "experiments/experiment.h"

/* Evaluates the network as it is and writes its logits [rows, classes] to an HDF5 file. */
bool logits_record(Experiment *e, const char *path, Error *err);

/* Evaluates again; any bit that differs from the record is ERROR_MISMATCH with the first place and the
 * count. */
bool logits_compare(Experiment *e, const char *path, int64_t *rows, Error *err);

#endif
