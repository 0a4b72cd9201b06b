/* Quantizers without a range: a network that holds one has no quantized accuracy and cannot be
 * shipped (qat/calibration.h). Nothing is ever fitted to validation or test images. */
#ifndef NIBBLE_EXPERIMENTS_TRAIN_RANGES_H
#define NIBBLE_EXPERIMENTS_TRAIN_RANGES_H

#include "experiments/train/experiment.h"

/* Why a quantizer lacks its range after `step` of `total` steps, made in `arena`; NULL: none
 * does. */
const char *ranges_missing(const Experiment *e, int64_t step, int64_t total, Arena *arena);

/* Gives every quantizer that lacks a range one from the first `images` training images. One that
 * sees nothing but zeros even there is ERROR_INPUT. */
bool ranges_calibrate(Experiment *e, int64_t images, Error *err);

#endif
