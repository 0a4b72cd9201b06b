/* Fake becomes stored: what a trained network ships.
 *
 * Packing calls what training calls, so a packed weight holds the very levels that the fake-quant
 * network multiplies; a packed model (qat/packed_model.h) gives these levels back to the same
 * kernels. Between the two the logits cannot differ by a bit, and `nibble verify` proves it from
 * the file alone. */
#ifndef NIBBLE_QAT_CONVERT_H
#define NIBBLE_QAT_CONVERT_H

#include "qat/packed_model.h"
#include "qat/prepare.h"

/* Of a site with a calibrated quantizer; memory from `arena`. */
PackedWeight packed_weight(const WeightSite *site, Arena *arena);

/* The parts of the packed model that `qat`, all calibrated, is now, in memory of `arena` and of the
 * model. What is not the network's (normalisation, classes' names) and packed_model_build are the
 * caller's. */
PackedModel packed_model_of(const Qat *qat, Arena *arena);

/* Whether a Param is shipped as it is, in f32: it is not a quantizer's, not a packed weight, and
 * not of a norm that was folded away. */
bool convert_ships_param(const Qat *qat, const Param *param);

/* Bytes of what is shipped: codes, scales, zero points, biases, edges' scales, and f32 Params; and
 * of the same network in f32. */
typedef struct ModelBytes {
    int64_t quantized, f32;
    double bits_per_weight; /* of all layers' weights, as shipped: scales and zero points counted */
} ModelBytes;
ModelBytes convert_bytes(const Qat *qat);
/* Of a site's weight alone, with scales and zero points, without a bias. */
int64_t convert_weight_bytes(const WeightSite *site);

#endif
