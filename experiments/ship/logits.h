/* The logits of a whole test set, recorded and compared bit for bit: logits.h5 of a run directory.
 *
 * A record names what it is of: the packed file, the test images and the kernels. Bits are compared
 * only where file and images are those, so that a difference speaks of the network and nothing
 * else. */
#ifndef NIBBLE_EXPERIMENTS_SHIP_LOGITS_H
#define NIBBLE_EXPERIMENTS_SHIP_LOGITS_H

#include "experiments/train/experiment.h"
#include "qat/packed_model.h"

/* Evaluates the network as it is: its logits [rows, classes], in `arena`. NULL: failed. */
const float *logits_evaluate(Experiment *e, Arena *arena, Error *err);

/* Writes the record of `logits` to the run directory, for the packed file that is there. */
bool logits_record(const Experiment *e, const float *logits, const char *directory, Error *err);

/* Runs the packed model, read from the run directory's file, alone over the test images; of the
 * data set nothing but their pixels is looked at. ERROR_MISMATCH: the packed file is not the
 * recorded one (a bit that no test image depends on would not show in the logits), or a bit of the
 * logits differs, with the first place and the count. ERROR_INPUT: the test images have changed. */
bool logits_compare(PackedModel *m, const Dataset *test, const char *directory, Error *err);

#endif
