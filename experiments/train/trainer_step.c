/* One step of a training: micro-batches, their gradients, the update. */
#include "experiments/train/trainer.h"

#include <math.h>

#include "core/counts.h"
#include "core/log.h"
#include "core/parallel.h"
#include "optim/schedule.h"

int64_t trainer_epoch_steps(const Experiment *e) {
    return loader_batches(e->loader, LOADER_TRAIN) / e->config.train.accumulate;
}

int64_t trainer_total_steps(const Experiment *e) {
    return count_ceil(e->config.train.epochs * (double)trainer_epoch_steps(e));
}

int64_t trainer_last_step(const Experiment *e) {
    int64_t limit = e->config.train.steps, total = trainer_total_steps(e);
    return limit ? count_least(limit, total) : total;
}

TapeMode trainer_mode(const Experiment *e) {
    TapeMode mode = TAPE_TRAINING;
    mode.half = config_half(&e->config);
    mode.keeps_f32_grads = e->config.train.grad == GRAD_F32;
    mode.recompute = (Recompute)e->config.train.recompute;
    mode.loss_scale = e->loss_scale.scale;
    return mode;
}

/* To name a layer, the batch is seen once more, in f32 and with every value kept. */
static void see_again(TaskStep *step) {
    Tape *t = step->e->tape;
    TapeMode mode = TAPE_TRAINING;
    mode.is_rerun = true;
    tape_begin(t, mode);
    task_record(step, t);
}

static const float half_limit = 65520; /* what f16 rounds to infinity, and up */

static bool fail_nonfinite(TaskStep *micro, int64_t step, Error *err) {
    const Tape *t = micro->e->tape;
    see_again(micro);
    const Var *bad = tape_find_nonfinite(t), *large = tape_find_beyond(t, half_limit);
    if (micro->e->loss_scale.is_dynamic && !bad && large)
        return FAIL(err, ERROR_NUMERIC,
                    "step %ld: the loss is not finite: values of %s (%s) are beyond f16's 65,504, "
                    "which no loss scale cures; set %sprecision: bf16",
                    (long)step + 1, *large->scope ? large->scope : "the input",
                    large->op ? large->op->name : "data",
                    large->op ? "" : "data.normalize: standard or ");
    return FAIL(
        err, ERROR_NUMERIC,
        "step %ld: the loss is not finite; the first value that is not is in %s (%s). Lower "
        "optimizer.lr or set optimizer.clip_norm",
        (long)step + 1, bad && *bad->scope ? bad->scope : "the input",
        bad && bad->op ? bad->op->name
        : bad          ? "a parameter or the data"
                       : "the loss");
}

/* Micro-batch number `micro` of a step; its random numbers are keyed by where it stands. */
static TaskStep micro_batch(Experiment *e, int64_t step, int64_t micro) {
    int64_t accumulate = e->config.train.accumulate, per_epoch = trainer_epoch_steps(e);
    int64_t index = (step % per_epoch) * accumulate + micro;
    e->tape->step = (uint64_t)(step * accumulate + micro);
    return (TaskStep){.e = e,
                      .batch = loader_batch(e->loader, LOADER_TRAIN, step / per_epoch, index)};
}

/* Forward and backward of one: adds its share to every Param's gradient and to the mean loss. */
static bool add_gradients(Experiment *e, int64_t step, int64_t number, double *loss, Error *err) {
    Tape *t = e->tape;
    double share = 1.0 / (double)e->config.train.accumulate;
    TaskStep micro = micro_batch(e, step, number);
    const Var *mean = tape_run(t, trainer_mode(e), task_record, &micro);
    float value = t->error.code == ERROR_NONE ? var_f32(mean)[0] : 0;
    if (tape_find_nan(t)) value = NAN; /* codes have hidden it */
    if (t->error.code == ERROR_NONE && isfinite(value))
        tape_backward(t, t->vars[mean->index], (float)(share * e->loss_scale.scale));
    if (t->error.code != ERROR_NONE) {
        *err = t->error;
        return false;
    }
    if (!isfinite(value)) return fail_nonfinite(&micro, step, err);
    *loss += (double)value * share;
    e->samples += e->task->count_samples(&micro.batch);
    return true;
}

/* The layer where gradients first overflow in the step's last batch, which is seen once more. */
static const char *overflowing_layer(Experiment *e, int64_t step) {
    Tape *t = e->tape;
    int64_t accumulate = e->config.train.accumulate;
    TaskStep micro = micro_batch(e, step, accumulate - 1);
    TapeMode mode = trainer_mode(e);
    mode.is_watching = mode.is_rerun = true;
    Var *loss = tape_run(t, mode, task_record, &micro);
    tape_backward(t, loss, (float)(e->loss_scale.scale / (double)accumulate));
    if (!t->overflowed) return "the gradients of a parameter";
    return *t->overflowed->scope ? t->overflowed->scope : "the loss";
}

/* Gradients of weights that read such an input are as many times larger. */
static bool has_large_input(Experiment *e, int64_t step) {
    static const float large_input = 1000;
    TaskStep micro = micro_batch(e, step, e->config.train.accumulate - 1);
    see_again(&micro);
    const Var *large = tape_find_beyond(e->tape, large_input);
    return large && !large->op && !large->is_parameter;
}

/* Gradients are beyond f16: nothing is changed but the loss scale. */
static bool skip_step(Experiment *e, int64_t step, Error *err) {
    LossScale *scale = &e->loss_scale;
    const char *layer = overflowing_layer(e, step);
    double before = scale->scale;
    bool goes_on = loss_scale_update(scale, true);
    if (!goes_on)
        return FAIL(err, ERROR_NUMERIC,
                    "step %ld: gradients overflow f16 in %s for the %dth time in a row at loss "
                    "scale 1; %s, or set precision: bf16",
                    (long)step + 1, layer, LOSS_SCALE_STUCK_MAX,
                    has_large_input(e, step) ? "set data.normalize: standard"
                                             : "lower optimizer.lr");
    log_warning("step %ld is skipped: gradients overflow f16 in %s; loss scale %.0f, now %.0f",
                (long)step + 1, layer, before, scale->scale);
    return true;
}

/* From gradients that are whole to parameters; those that overflow f16 skip the step. */
static bool update(Experiment *e, int64_t step, Error *err) {
    if (e->loss_scale.is_dynamic && !optimizer_unscale(e->optimizer, 1 / e->loss_scale.scale))
        return skip_step(e, step, err);
    loss_scale_update(&e->loss_scale, false);
    double factor = schedule_factor(&e->config.schedule, step, trainer_total_steps(e));
    if (optimizer_step(e->optimizer, factor, err)) return true;
    error_prefix(err, "step %ld: gradients overflow in %s", (long)step + 1,
                 overflowing_layer(e, step));
    return false;
}

bool trainer_step(Experiment *e, int64_t step, double *loss, Error *err) {
    parallel_adapt();
    qat_set_step(e->qat, step, trainer_total_steps(e));
    model_clear_grads(e->model);
    *loss = 0;
    for (int64_t micro = 0; micro < e->config.train.accumulate; micro++)
        TRY(add_gradients(e, step, micro, loss, err));
    /* The seam of a distributed run. Each micro-batch depends on (step, micro) alone, so ranks may
     * share out the loop above; here they would sum gradients and losses, by a tree that depends on
     * the micro-batches' count, not on the ranks'. From here on all do the same. */
    return update(e, step, err);
}
