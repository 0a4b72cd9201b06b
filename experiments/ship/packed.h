/* quantized.h5: the packed network alone. Codes, scales, biases, edges' scales and the
 * configuration it is rebuilt from; no masters, no optimizer. Layout in docs/formats.md. */
#ifndef NIBBLE_EXPERIMENTS_SHIP_PACKED_H
#define NIBBLE_EXPERIMENTS_SHIP_PACKED_H

#include "experiments/train/experiment.h"
#include "qat/convert.h"

/* Packs the weights that are loaded. */
bool packed_save(const char *path, const Experiment *e, Error *err);

/* An experiment that runs on what is in the file and nothing else: built from the configuration in
 * it, on the data that this names. experiment_close is due whatever the result. */
bool packed_open(const char *path, Arena *config_arena, Experiment *e, Error *err);

#endif
