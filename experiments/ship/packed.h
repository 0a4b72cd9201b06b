/* quantized.h5: a packed model as a file. Layout in docs/formats.md. */
#ifndef NIBBLE_EXPERIMENTS_SHIP_PACKED_H
#define NIBBLE_EXPERIMENTS_SHIP_PACKED_H

#include "experiments/train/experiment.h"
#include "qat/convert.h"

/* Packs the weights that are loaded. */
bool packed_save(const char *path, const Experiment *e, Error *err);

/* The model in the file, ready to run; everything in it is checked, and faults name the object.
 * A file of another format version is refused with the remedy. packed_model_close is due whatever
 * the result. */
bool packed_open(const char *path, Arena *arena, PackedModel *out, Error *err);

/* Whether the packed model at `path` was made of the weights in the file of this digest. */
bool packed_is_of(const char *path, const char *network_digest, bool *out, Error *err);
/* Of the network that its run reports now (saved_open_network); else ERROR_MISMATCH with the
 * remedy. A run directory without checkpoints has nothing else to show. */
bool packed_check_run(const char *directory, Error *err);

#endif
