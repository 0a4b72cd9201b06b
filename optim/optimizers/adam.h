/* What adam and adamw share. */
#ifndef NIBBLE_OPTIM_OPTIMIZERS_ADAM_H
#define NIBBLE_OPTIM_OPTIMIZERS_ADAM_H

#include "optim/optimizer.h"

typedef struct AdamConfig {
    OptimizerConfig optimizer;
    double beta1, beta2, epsilon;
} AdamConfig;

#define ADAM_FIELDS                                                                                \
    FIELD_FLOAT(AdamConfig, beta1, "0.9", 0, 0.9999, "decay of the mean of gradients"),            \
        FIELD_FLOAT(AdamConfig, beta2, "0.999", 0, 0.99999, "decay of the mean of their squares"), \
        FIELD_FLOAT(AdamConfig, epsilon, "1e-8", 1e-30, 1, "added to the root of the mean square")

#define ADAM_STATES                                                                                \
    { "mean", "mean_square" }
#define ADAM_UNSIGNED                                                                              \
    { false, true }

/* At step t, with g = grad + decay x:
 *   m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
 *   x -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon) */
void adam_move(const AdamConfig *config, const UpdateTerms *terms, float decay, int64_t count,
               float *value, const float *grad, float *const *state);

#endif
