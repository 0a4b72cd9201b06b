/* Stochastic gradient descent with momentum, as torch.optim.SGD with dampening 0:
 *   d = grad + decay x;  m = momentum m + d;  x -= lr (nesterov ? d + momentum m : m)
 * (Sutskever et al. 2013 for Nesterov's form). The first m is d, because m starts at 0. */
#include "optim/optimizer.h"

typedef struct SgdConfig {
    OptimizerConfig optimizer;
    double momentum;
    bool nesterov;
} SgdConfig;

static const Field sgd_fields[] = {
    OPTIMIZER_FIELDS(SgdConfig, "0.1", "0"),
    FIELD_FLOAT(SgdConfig, momentum, "0.9", 0, 0.9999, "velocity kept from step to step; 0: none"),
    FIELD_BOOL(SgdConfig, nesterov, "false", "look ahead along the velocity"),
    FIELD_END,
};

static int sgd_state_count(const void *config) {
    return ((const SgdConfig *)config)->momentum > 0;
}

static bool sgd_check(const void *config, Error *err) {
    const SgdConfig *sgd = config;
    if (sgd->nesterov && !(sgd->momentum > 0))
        return FAIL(err, ERROR_INPUT,
                    "optimizer.nesterov needs optimizer.momentum above 0; set it, or set "
                    "nesterov: false") ||
               error_blame(err, "optimizer.nesterov");
    return true;
}

static void sgd_update(const void *config, const UpdateTerms *terms, int64_t count,
                       float *restrict value, const float *restrict grad, float *const *state) {
    const SgdConfig *sgd = config;
    const float lr = (float)terms->lr, decay = (float)terms->weight_decay;
    const float momentum = (float)sgd->momentum;
    float *restrict velocity = state[0];
    if (!velocity) {
        for (int64_t i = 0; i < count; i++) value[i] -= lr * (grad[i] + decay * value[i]);
    } else if (sgd->nesterov) {
        for (int64_t i = 0; i < count; i++) {
            float d = grad[i] + decay * value[i];
            velocity[i] = momentum * velocity[i] + d;
            value[i] -= lr * (d + momentum * velocity[i]);
        }
    } else {
        for (int64_t i = 0; i < count; i++) {
            velocity[i] = momentum * velocity[i] + (grad[i] + decay * value[i]);
            value[i] -= lr * velocity[i];
        }
    }
}

const UpdateRule optimizer_sgd = {
    .kind = {"sgd", "gradient descent with momentum", sizeof(SgdConfig), sgd_fields},
    .states = {"momentum"},
    .state_count = sgd_state_count,
    .check = sgd_check,
    .update = sgd_update,
};
