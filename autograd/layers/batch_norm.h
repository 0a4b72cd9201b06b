/* What quantization asks of a batch norm that is folded into the layer before it. */
#ifndef NIBBLE_AUTOGRAD_LAYERS_BATCH_NORM_H
#define NIBBLE_AUTOGRAD_LAYERS_BATCH_NORM_H

#include "autograd/module.h"

/* Folded batch norm (autograd/ops.h): joins a conv or linear module and the batch_norm that alone
 * reads it. The weight's view becomes: fold, then `inner` (a quantizer's view, may be empty); the
 * norm then runs in its folded form. Where the weight is not to be quantized (TapeMode:
 * is_float, floats_weights, only), and while *is_folding, which must outlive the model, is false,
 * nothing is folded: the steps are those of the float network, bit for bit. */
void batch_norm_join(Module *norm, Param *weight, View inner, const bool *is_folding);
bool batch_norm_is_joined(const Module *norm);
/* For scales of the joined weight that are learned row by row: scale [channels, ...] times the size
 * of its channel's factor |gamma| / sigma. What is learned is then a step of the unfolded weight:
 * the quantized convolution's statistics, of which sigma is one, do not depend on sigma. */
Var *batch_norm_gain(Module *norm, Tape *t, Var *scale);
void batch_norm_gains(const Module *norm, float *gains); /* |gamma| / sigma, [channels] */
/* The factors f themselves, with the sign of gamma, and never 0. */
void batch_norm_factors(const Module *norm, float *factors);
/* The bias that the joined product has when deployed, [channels]; and the folded weight. */
void batch_norm_deployed_bias(const Module *norm, float *bias);
void batch_norm_folded_weight(const Module *norm, float *weight);
/* From now on the joined norm adds this bias [channels] and does nothing else: for a network that
 * runs from packed weights. The bias must outlive the model. */
void batch_norm_deploy(Module *norm, Tensor bias);
/* Running statistics only, or batch statistics again. */
void batch_norm_freeze(Module *norm, bool is_frozen);

#endif
