/* What the page of a comparison draws beyond scores: how weights and activations lie on their
 * grids, and test images that change their class. Nothing is fitted; values are only looked at. */
#ifndef NIBBLE_EXPERIMENTS_COMPARE_DETAILS_H
#define NIBBLE_EXPERIMENTS_COMPARE_DETAILS_H

#include "core/json.h"
#include "experiments/report/image.h"
#include "experiments/train/task.h"

enum {
    DETAILS_BINS = 64,
    DETAILS_ROWS = 64,             /* test rows whose activations are counted, the first */
    DETAILS_EXAMPLES = 12,         /* images at most */
    DETAILS_SIDE = IMAGE_SIDE_MAX, /* pixels on a side; of larger images every n-th is taken */
};

/* Adds histograms[] of {layer, of, unit, low, high, counts[DETAILS_BINS], grid[]} to an evaluation
 * file, and `activations_of`, which says whose activations they are: of each layer's weight, with
 * its batch norm folded in, as its quantizer sees it, and of each edge that is quantized, under the
 * name of the first layer that reads it. The grid holds the values that codes can name. Where a
 * tensor has one scale, `unit` is "value"; where it has several, "step": values are divided by
 * their scale and moved by its zero point, so that all lie on one grid. What
 * lies further from the grid than it is wide is counted in the outer bins. Nothing is added for a
 * network that is not quantized. */
bool details_add_histograms(Experiment *e, Json *evaluation, Error *err);

/* Adds examples[] of {index, label, height, width, channels, pixels[]}: test images whose answers
 * `before` and `after` differ, evenly over all such; pixels are bytes, as stored, and floats
 * stretched over 0 to 255. Colours other than grey and RGB are left out but the first channel. */
void details_add_examples(const Dataset *dataset, const int64_t *before, const int64_t *after,
                          Json *evaluation);

#endif
