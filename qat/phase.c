/* What a step sees of quantization: functions of the step alone. */
#include "autograd/layers/batch_norm.h"
#include "core/counts.h"
#include "qat/prepare.h"

/* Steps for a setting that is a share of the training below 1, and steps from 1 on. */
static int64_t in_steps(double setting, int64_t total) {
    return setting < 1 ? count_floor(setting * (double)total) : (int64_t)setting;
}

/* As in_steps, with 1 meaning never. */
static bool is_past(double setting, int64_t step, int64_t total) {
    return setting != 1 && step >= in_steps(setting, total);
}

static bool freeze_norm(void *context, Module *module) {
    if (module->layer->flags & LAYER_FOLDS) batch_norm_freeze(module, *(const bool *)context);
    return true;
}

/* All of them: joined to a product or not. */
static void freeze_norms(Qat *qat, bool is_frozen) {
    qat->is_norm_frozen = is_frozen;
    model_visit(qat->model, freeze_norm, &is_frozen);
}

int64_t qat_start(const Qat *qat, int64_t total) {
    return in_steps(qat->config.start, total);
}

void qat_set_step(Qat *qat, int64_t step, int64_t total) {
    qat->phase.is_faking = step >= qat_start(qat, total);
    qat->phase.is_observing = !is_past(qat->config.freeze_observers, step, total);
    bool is_frozen = is_past(qat->config.freeze_batch_norm, step, total);
    if (is_frozen != qat->is_norm_frozen) freeze_norms(qat, is_frozen);
}

void qat_set_evaluation(Qat *qat) {
    qat->phase = (QuantPhase){.is_faking = true, .is_observing = false};
}
