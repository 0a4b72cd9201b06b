/* The logits of a whole test set, recorded and compared bit for bit. */
#ifndef NIBBLE_EXPERIMENTS_SHIP_LOGITS_H
#define NIBBLE_EXPERIMENTS_SHIP_LOGITS_H

#include "experiments/train/experiment.h"
#include "qat/packed_model.h"

/* Evaluates the network as it is and writes its logits [rows, classes] to an HDF5 file, with the
 * digest of the packed file at `packed` that was made of it. */
bool logits_record(Experiment *e, const char *path, const char *packed, Error *err);

/* Runs the packed model, read from the file at `packed`, alone over the test images; of the data
 * set nothing but their pixels is looked at. Any bit that differs from the record at `path` is
 * ERROR_MISMATCH with the first place and the count. So is a packed file that is not the recorded
 * one: a bit that no test image depends on would not show in the logits. */
bool logits_compare(PackedModel *m, const char *packed, const Dataset *test, const char *path,
                    Error *err);

#endif
