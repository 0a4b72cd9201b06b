/* Calibration: ranges from data that a training has not shown to its quantizers.
 *
 * A quantizer whose range comes from data is uncalibrated until it has seen some (quantizer.h). A
 * network that holds one cannot be shipped, nor said to have a quantized accuracy. Data are then
 * run through it in evaluation mode between calibration_begin and calibration_end: quantizers that
 * lacked a range take it from them, observers from all batches, learned ranges from the first;
 * whatever was calibrated before stays as it is. */
#ifndef NIBBLE_QAT_CALIBRATION_H
#define NIBBLE_QAT_CALIBRATION_H

#include "qat/prepare.h"

/* The first quantizer without a range, in the order of weights and then edges; NULL if none. */
const Quant *calibration_find_missing(const Qat *qat);

/* How many quantizers lack a range. The phase becomes that of an evaluation (qat_set_evaluation).
 */
int calibration_begin(Qat *qat);
/* How many of them are of activations and learned: the first batch alone gives those their range.
 * Between begin and end. */
int calibration_learned(const Qat *qat);
void calibration_end(Qat *qat);

#endif
