/* How long a step takes: parts of a batch are trained on, and their time grows by the row. */
#include "experiments/plan/footprint.h"
#include "experiments/train/environment.h"
#include "experiments/train/task.h"
#include "experiments/train/trainer.h"

enum {
    ROUNDS_MIN = 2,
    ROUNDS_MAX = 50,
    PART = 4, /* of a batch, and half of that: what is held stays small */
};
#define SECONDS_MOST 0.7

/* Forward and backward of the first rows of a batch. */
static bool time_part(Experiment *e, Tape *t, int64_t rows, double *seconds, Error *err) {
    Batch whole = loader_batch(e->loader, LOADER_TRAIN, 0, 0);
    TaskStep step = {.e = e, .batch = batch_part(&whole, 0, rows)};
    model_clear_grads(e->model);
    double began = environment_seconds();
    const Var *loss = tape_run(t, trainer_mode(e), task_record, &step);
    if (t->error.code == ERROR_NONE) tape_backward(t, t->vars[loss->index], 1);
    double took = environment_seconds() - began;
    if (*seconds == 0 || took < *seconds) *seconds = took;
    if (t->error.code == ERROR_NONE) return true;
    *err = t->error;
    return false;
}

/* A batch's rows made ready; by a thread of their own they cost a step nothing. */
static void time_batch(Experiment *e, int64_t number, double *seconds) {
    if (loader_config(e->loader)->prefetch) return;
    double began = environment_seconds();
    loader_batch(e->loader, LOADER_TRAIN, 0, number % loader_batches(e->loader, LOADER_TRAIN));
    double took = environment_seconds() - began;
    if (*seconds == 0 || took < *seconds) *seconds = took;
}

/* The update of all weights, which does not grow with the batch. Whether it is a good one (half
 * precision is not scaled here) does not matter. */
static void time_update(Experiment *e, double *seconds) {
    Error ignored = {0};
    double began = environment_seconds();
    optimizer_step(e->optimizer, 0, &ignored);
    double took = environment_seconds() - began;
    if (*seconds == 0 || took < *seconds) *seconds = took;
}

/* A line through both parts; more rows take no less time, and no more than in proportion. */
static double extrapolate(int64_t few, double few_seconds, int64_t many, double many_seconds,
                          int64_t all) {
    double ratio = (double)all / (double)many, most = many_seconds * ratio;
    if (few == many) return most;
    double each = (many_seconds - few_seconds) / (double)(many - few);
    double seconds = many_seconds + each * (double)(all - many);
    if (seconds > most) return most;
    return seconds < many_seconds ? many_seconds : seconds;
}

static bool measure(Experiment *e, Tape *t, double *seconds, Error *err) {
    int64_t batch = loader_config(e->loader)->batch;
    int64_t many = batch / PART > 0 ? batch / PART : 1, few = many / 2 > 0 ? many / 2 : 1;
    double few_seconds = 0, many_seconds = 0, update_seconds = 0, batch_seconds = 0, ignored = 0;
    double began = environment_seconds();
    TRY(time_part(e, t, many, &ignored, err)); /* memory is touched for the first time */
    for (int i = 0; i < ROUNDS_MAX; i++) {
        if (i >= ROUNDS_MIN && environment_seconds() - began > SECONDS_MOST) break;
        TRY(time_part(e, t, few, &few_seconds, err));
        TRY(time_part(e, t, many, &many_seconds, err));
        time_update(e, &update_seconds);
        time_batch(e, i + 1, &batch_seconds);
    }
    double rows_seconds = batch_seconds + extrapolate(few, few_seconds, many, many_seconds, batch);
    *seconds = (double)e->config.train.accumulate * rows_seconds + update_seconds;
    return true;
}

bool footprint_step_seconds(Experiment *e, double *seconds, Error *err) {
    int64_t total = trainer_total_steps(e);
    qat_set_step(e->qat, total / 2, total);
    Arena *arena = arena_new("step time");
    Tape *t = tape_new(arena);
    t->seed = (uint64_t)e->config.seed;
    bool ok = measure(e, t, seconds, err);
    tape_free(t);
    arena_free(arena);
    return ok;
}
