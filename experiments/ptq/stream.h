/* Calibration data of an experiment: the first `calibration.rows` training rows, validation left
 * out, not augmented, in the data set's order. */
#ifndef NIBBLE_EXPERIMENTS_PTQ_STREAM_H
#define NIBBLE_EXPERIMENTS_PTQ_STREAM_H

#include "experiments/train/experiment.h"
#include "qat/ptq.h"

/* More rows than there are: ERROR_INPUT. Rows of fewer than half of the classes that they could be
 * of, as a data set sorted by class begins with, are warned of. */
bool stream_check(const Experiment *e, Error *err);
/* At most `calibration.batch` rows at a time; none of them is of two of the loader's batches. Lives
 * in the experiment's arena. */
PtqData stream_open(Experiment *e);

#endif
