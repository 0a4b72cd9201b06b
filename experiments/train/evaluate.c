#include "experiments/train/evaluate.h"

#include <string.h>

#include "core/parallel.h"

TapeMode evaluate_mode(Network network) {
    TapeMode mode = TAPE_EVALUATION;
    mode.is_float = network == NETWORK_SHADOW;
    mode.floats_activations = network == NETWORK_WEIGHTS;
    mode.floats_weights = network == NETWORK_ACTIVATIONS;
    return mode;
}

static bool is_sound(const Tape *t, const Var *output) {
    return var_is_finite(output) && !tape_find_nan(t);
}

bool evaluate_check(const Tape *t, const Var *output, Error *err) {
    if (t->error.code != ERROR_NONE) {
        *err = t->error;
        return false;
    }
    if (is_sound(t, output)) return true;
    const Var *bad = tape_find_nonfinite(t);
    return FAIL(err, ERROR_NUMERIC,
                "evaluation: %s (%s) gives values that are not finite: the training has diverged "
                "(train with a lower optimizer.lr, or with optimizer.clip_norm), or data hold "
                "numbers far beyond those that it saw",
                *bad->scope ? bad->scope : "input", bad->op ? bad->op->name : "data");
}

void evaluate_score(const Task *task, const TaskTally *tally, Evaluation *out) {
    if (!tally->samples) return;
    out->loss = tally->loss / (double)tally->samples;
    task->score(tally, out->scores);
}

static void record_kept(TaskStep *step, TapeMode mode) {
    tape_begin(step->e->tape, mode);
    task_record(step, step->e->tape);
}

bool evaluate_kept(TaskStep *step, TapeMode mode, Error *err) {
    record_kept(step, mode);
    return evaluate_check(step->e->tape, step->output, err);
}

/* To name the layer at fault, a batch is seen once more, and this time every value stays. */
bool evaluate_batch(TaskStep *step, TapeMode mode, Error *err) {
    Tape *t = step->e->tape;
    tape_run(t, mode, task_record, step);
    if (t->error.code == ERROR_NONE && !is_sound(t, step->output)) record_kept(step, mode);
    return evaluate_check(t, step->output, err);
}

Batch evaluate_rows(Experiment *e, LoaderSplit split, int64_t i, int64_t rows, int64_t limit) {
    bool is_past = i >= loader_batches(e->loader, split) || (limit && rows >= limit);
    if (is_past) return (Batch){0};
    Batch batch = loader_batch(e->loader, split, 0, i);
    return limit && batch.count > limit - rows ? batch_part(&batch, 0, limit - rows) : batch;
}

static EvaluationPart part_of(const TaskStep *step) {
    return (EvaluationPart){.samples = step->e->task->count_samples(&step->batch),
                            .loss = (double)var_f32(step->loss)[0]};
}

bool evaluate_as(Experiment *e, LoaderSplit split, TapeMode mode, Evaluation *out, Error *err) {
    TaskTally tally = {.confusion = out->confusion};
    float *outputs = out->outputs;
    out->rows = 0;
    for (int64_t i = 0;; i++) {
        TaskStep step = {.e = e,
                         .batch = evaluate_rows(e, split, i, out->rows, out->limit),
                         .wants_outputs = outputs != NULL};
        if (!step.batch.count) break;
        parallel_adapt();
        TRY(evaluate_batch(&step, mode, err));
        task_tally(&step, &tally);
        if (out->parts) out->parts[i] = part_of(&step);
        int64_t count = var_count(step.output);
        if (outputs) memcpy(outputs, var_f32(step.output), sizeof(float) * (size_t)count);
        if (outputs) outputs += count;
        out->rows += step.batch.count;
    }
    evaluate_score(e->task, &tally, out);
    return true;
}

bool evaluate(Experiment *e, LoaderSplit split, Network network, Evaluation *out, Error *err) {
    return evaluate_as(e, split, evaluate_mode(network), out, err);
}
