/* For tests of plans: an experiment out of text, and a batch of its images that a tape records. */
#ifndef NIBBLE_TESTS_BATCHED_H
#define NIBBLE_TESTS_BATCHED_H

#include "autograd/ops.h"
#include "autograd/plan.h"
#include "experiments/train/trainer.h"
#include "tests/tape_fixture.h"

static inline void open_network(const char *text, Arena *config_arena, Experiment *e) {
    Error err = {0};
    ExperimentConfig config;
    if (!config_read_text(text, "test", 0, NULL, config_arena, &config, &err) ||
        !experiment_open(&config, config_arena, e, &err))
        fail_msg("%s", err.message);
}

typedef struct Batched {
    Experiment *e;
    Batch batch;
} Batched;

/* Of the first epoch. */
static inline Batched batched(Experiment *e, int64_t number) {
    return (Batched){e, loader_batch(e->loader, LOADER_TRAIN, 0, number)};
}

/* The loss. */
static inline Var *record(void *context, Tape *t) {
    Batched *b = context;
    Var *x = tape_constant(t, batch_f32(&b->batch, "images"));
    Var *logits = model_forward(b->e->model, t, x);
    return op_cross_entropy(t, logits, batch_i32(&b->batch, "labels"), 0.1f);
}

#endif
