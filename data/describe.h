/* What was read, in a line, and what looks wrong about it: a data set of another layout or
 * numbering trains without an error, to nothing. */
#ifndef NIBBLE_DATA_DESCRIBE_H
#define NIBBLE_DATA_DESCRIBE_H

#include "data/dataset.h"

/* "data: 60000 training and 10000 test images of 28 x 28 x 1 (height, width, channels), bytes from
 * 0 to 255; 10 classes, 6000 training images each". Counts by class where they differ and are few.
 * Of the training images, or, where only the test part was read, of that. Text in `arena`. */
const char *dataset_description(const Dataset *dataset, Arena *arena);

/* A reason to look at the data again (channels that seem to come first, labels that seem to begin
 * at 1), or NULL. */
const char *dataset_suspicion(const Dataset *dataset, Arena *arena);

#endif
