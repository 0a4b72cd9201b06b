/* Adam (Kingma and Ba, ICLR 2015), as torch.optim.Adam: weight decay is added to the gradient. */
#include "optim/optimizers/adam.h"

#include <math.h>

static const Field adam_fields[] = {
    OPTIMIZER_FIELDS(AdamConfig, "0.001", "0"),
    ADAM_FIELDS,
    FIELD_END,
};

void adam_move(const AdamConfig *config, const UpdateTerms *terms, float decay, int64_t count,
               float *restrict value, const float *restrict grad, float *const *state) {
    const float rest1 = (float)(1 - config->beta1);
    const float beta2 = (float)config->beta2, rest2 = (float)(1 - config->beta2);
    const float epsilon = (float)config->epsilon;
    const float size = (float)(terms->lr / (1 - pow(config->beta1, terms->step)));
    const float root = (float)sqrt(1 - pow(config->beta2, terms->step));
    float *restrict mean = state[0];
    float *restrict square = state[1];
    for (int64_t i = 0; i < count; i++) {
        float g = grad[i] + decay * value[i];
        mean[i] += rest1 * (g - mean[i]);
        square[i] = beta2 * square[i] + rest2 * g * g;
        value[i] -= size * mean[i] / (sqrtf(square[i]) / root + epsilon);
    }
}

static void adam_update(const void *config, const UpdateTerms *terms, int64_t count, float *value,
                        const float *grad, float *const *state) {
    adam_move(config, terms, (float)terms->weight_decay, count, value, grad, state);
}

const UpdateRule optimizer_adam = {
    .kind = {"adam", "adaptive moments", sizeof(AdamConfig), adam_fields},
    .states = ADAM_STATES,
    .is_unsigned = ADAM_UNSIGNED,
    .update = adam_update,
};
