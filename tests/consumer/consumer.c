/* nibble as a library: a small 4-bit network, trained on synthetic images by a loop of our own. */
#include <stdio.h>

#include "autograd/ops.h"
#include "experiments/train/evaluate.h"
#include "optim/schedule.h"

static const char settings[] = "model: {kind: mlp, widths: [32]}\n"
                               "data: {kind: synthetic, train: 2000, test: 500, height: 8,\n"
                               "       width: 8, validation: 0, batch: 50}\n"
                               "quant: {bits: 4}\n"
                               "optimizer: {kind: adam, lr: 0.01}\n";

static bool train_step(Experiment *e, int64_t step, int64_t steps, Error *err) {
    Tape *t = e->tape;
    Batch batch = loader_batch(e->loader, LOADER_TRAIN, 0, step);
    qat_set_step(e->qat, step, steps);
    model_clear_grads(e->model);
    tape_begin(t, TAPE_TRAINING);
    Var *x = tape_constant(t, batch_f32(&batch, "images"));
    Var *logits = model_forward(e->model, t, x);
    Var *loss = op_cross_entropy(t, logits, batch_i32(&batch, "labels"), 0);
    if (t->error.code != ERROR_NONE) {
        *err = t->error;
        return false;
    }
    tape_backward(t, loss, 1);
    return optimizer_step(e->optimizer, schedule_factor(&e->config.schedule, step, steps), err);
}

static bool train(Experiment *e, Error *err) {
    int64_t steps = loader_batches(e->loader, LOADER_TRAIN); /* one epoch */
    for (int64_t step = 0; step < steps; step++) TRY(train_step(e, step, steps, err));
    Evaluation quantized = {0}, shadow = {0};
    qat_set_evaluation(e->qat);
    TRY(evaluate(e, LOADER_TEST, false, &quantized, err));
    TRY(evaluate(e, LOADER_TEST, true, &shadow, err));
    printf("accuracy: 4 bits %.3f, shadow %.3f\n", quantized.scores[0], shadow.scores[0]);
    if (quantized.scores[0] > 0.9) return true; /* a guess is right in one of ten */
    return FAIL(err, ERROR_NUMERIC, "the network has not learned");
}

int main(void) {
    Error err = {0};
    Arena *arena = arena_new("settings");
    ExperimentConfig config;
    Experiment e = {0};
    bool is_done = config_read_text(settings, "settings", 0, NULL, arena, &config, &err) &&
                   experiment_open(&config, arena, &e, &err) && train(&e, &err);
    if (!is_done) fprintf(stderr, "consumer: %s\n", err.message);
    if (e.arena) experiment_close(&e);
    arena_free(arena);
    return is_done ? 0 : 1;
}
