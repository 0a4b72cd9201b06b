/* Fake becomes stored: what a quantized layer ships, and a model that runs on nothing else.
 *
 * Packing calls what training calls, so the packed weight holds the very levels that the fake-quant
 * network multiplies; installing gives these levels back to the same kernels. Between the two the
 * logits cannot differ by a bit, and `nibble verify` proves it from the file alone. */
#ifndef NIBBLE_QAT_CONVERT_H
#define NIBBLE_QAT_CONVERT_H

#include "qat/prepare.h"

/* One quantized weight. `codes` is of an integer dtype with scales; bias [out] is the deployed one
 * (with the joined batch norm folded in), NULL where the layer has none. */
typedef struct PackedWeight {
    const char *layer; /* dotted name of the module */
    Tensor codes;
    const float *bias;
    int64_t bias_count;
} PackedWeight;

/* Of a site with a quantizer; memory from `arena`. */
PackedWeight packed_weight(const WeightSite *site, Arena *arena);

/* From here on the site reads `packed` instead of its master, and its joined norm adds the packed
 * bias. The memory behind `packed` must outlive the model. The shape was checked by the caller. */
void packed_install(const WeightSite *site, const PackedWeight *packed, Arena *arena);

/* Gives an edge's quantizer the scales that were stored. */
void packed_install_edge(Quant *quant, const Scales *scales);

/* Whether a Param is shipped as it is, in f32: it is not a quantizer's, not a packed weight, and
 * not of a norm that was folded away. */
bool convert_ships_param(const Qat *qat, const Param *param);

/* Bytes of what is shipped: codes, scales, zero points, biases, edges' scales, and f32 Params; and
 * of the same network in f32. */
typedef struct ModelBytes {
    int64_t quantized, f32;
} ModelBytes;
ModelBytes convert_bytes(const Qat *qat);

#endif
