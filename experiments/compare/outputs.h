/* Outputs of an FP32 run over the test split, kept beside its evaluation: other runs of the seed
 * are compared with them, and they are found once. */
#ifndef NIBBLE_EXPERIMENTS_COMPARE_OUTPUTS_H
#define NIBBLE_EXPERIMENTS_COMPARE_OUTPUTS_H

#include "core/tensor.h"
#include "data/envelope.h"

/* Writes `outputs` [rows, classes] of the network of a checkpoint; whole, or not at all. */
bool outputs_write(const char *path, const char checkpoint[ENVELOPE_DIGEST_TEXT],
                   const float *outputs, Shape shape, Error *err);

/* Made in `arena`. NULL: there are none of that checkpoint; what a file holds otherwise is as good
 * as no file. */
float *outputs_read(const char *path, const char checkpoint[ENVELOPE_DIGEST_TEXT], Arena *arena,
                    Shape *shape);

#endif
