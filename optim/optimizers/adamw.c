/* Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019), as torch.optim.AdamW:
 * x *= 1 - lr decay, then Adam's move without decay. */
#include "optim/optimizers/adam.h"

static const Field adamw_fields[] = {
    OPTIMIZER_FIELDS(AdamConfig, "0.001", "0.01"),
    ADAM_FIELDS,
    FIELD_END,
};

static void adamw_update(const void *config, const UpdateTerms *terms, int64_t count, float *value,
                         const float *grad, float *const *state) {
    const float keep = (float)(1 - terms->lr * terms->weight_decay);
    for (int64_t i = 0; i < count; i++) value[i] *= keep;
    adam_move(config, terms, 0, count, value, grad, state);
}

const UpdateRule optimizer_adamw = {
    .kind = {"adamw", "Adam with decoupled weight decay", sizeof(AdamConfig), adamw_fields},
    .states = ADAM_STATES,
    .is_unsigned = ADAM_UNSIGNED,
    .update = adamw_update,
};
