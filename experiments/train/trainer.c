#include "experiments/train/trainer.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file.h"
#include "core/log.h"
#include "experiments/adapter/frozen.h"
#include "experiments/adapter/import.h"
#include "experiments/report/progress.h"
#include "experiments/report/summary.h"
#include "experiments/report/text.h"
#include "experiments/train/environment.h"
#include "experiments/train/evaluate.h"
#include "experiments/train/metrics.h"
#include "experiments/train/run.h"
#include "experiments/train/saved.h"
#include "experiments/train/shadow_line.h"
#include "experiments/train/stop.h"
#include "experiments/train/teacher.h"
#include "optim/schedule.h"
#include "qat/calibration.h"

enum { LINE_BYTES = 512 };

typedef struct Training {
    Experiment *e;
    const char *checkpoint, *previous, *best, *metrics_path;
    const char *directory;
    Metrics metrics;
    Progress progress;
    Cursor cursor;
    int64_t epoch_steps, total, stop; /* `stop`: last step of this run */
    double started;                   /* seconds */
    double step_seconds;              /* spent in steps by this process */
    int64_t first_step;
    double score;        /* the task's first, latest on the validation split */
    bool is_over;        /* nothing to train, and the test set was used */
    int64_t saved_step;  /* of the latest checkpoint; -1: there is none */
    bool is_latest_lost; /* that one is checkpoint.prev.h5 */
} Training;

/* ---- Metrics ---- */

static double learning_rate(const Training *r, int64_t step) {
    const OptimizerConfig *c = r->e->config.optimizer.config;
    return c->lr * schedule_factor(&r->e->config.schedule, step, r->total);
}

/* Samples per second of training steps alone: without evaluations and saves. */
static double rate(const Training *r) {
    return r->step_seconds > 0 ? (double)r->e->samples / r->step_seconds : 0;
}

static int64_t epoch_of(const Training *r) {
    return (r->cursor.step - 1) / r->epoch_steps + 1;
}

static bool log_step(Training *r, double loss, Error *err) {
    char line[LINE_BYTES];
    snprintf(line, sizeof line,
             "{\"step\":%ld,\"epoch\":%ld,\"loss\":%.9g,\"lr\":%.9g,\"grad_norm\":%.9g,"
             "\"seconds\":%.3f,\"samples_per_second\":%.1f}",
             (long)r->cursor.step, (long)epoch_of(r), loss, learning_rate(r, r->cursor.step - 1),
             optimizer_norm(r->e->optimizer), environment_seconds() - r->started, rate(r));
    const LossScale *scale = &r->e->loss_scale;
    if (scale->is_dynamic) {
        size_t used = strlen(line) - 1; /* before the brace */
        snprintf(line + used, sizeof line - used, ",\"loss_scale\":%.0f,\"skipped_steps\":%ld}",
                 scale->scale, (long)scale->skipped);
    }
    return metrics_add(&r->metrics, line, err);
}

static void show(Training *r, bool is_milestone) {
    ProgressState state = {
        .step = r->cursor.step,
        .epoch = (r->cursor.step + r->epoch_steps - 1) / r->epoch_steps,
        .loss = r->cursor.loss_average,
        .score = r->score,
        .learning_rate = learning_rate(r, r->cursor.step ? r->cursor.step - 1 : 0),
        .samples = r->e->samples,
    };
    progress_update(&r->progress, &state, is_milestone);
}

/* ---- Saving and evaluating ---- */

/* What has no gradient is not looked at by the optimizer: running statistics, observed ranges. */
static bool check_finite(const Training *r, Error *err) {
    const Model *model = r->e->model;
    for (int i = 0; i < model->param_count; i++) {
        const Tensor *value = &model->params[i]->value;
        if (value->dtype != DTYPE_F32) continue; /* stored: nobody writes it */
        const float *x = tensor_f32(value);
        for (int64_t j = 0, count = tensor_count(value); j < count; j++)
            if (!isfinite(x[j]))
                return FAIL(err, ERROR_NUMERIC,
                            "step %ld: '%s' is not finite; lower optimizer.lr or set "
                            "optimizer.clip_norm",
                            (long)r->cursor.step, model->params[i]->name);
    }
    return true;
}

static bool save(Training *r, Error *err) {
    if (r->saved_step == r->cursor.step && !r->is_latest_lost) return true;
    TRY(check_finite(r, err));
    Experiment *e = r->e;
    r->cursor.metric_lines = r->metrics.lines;
    r->cursor.loss_scale = e->loss_scale;
    TRY(metrics_sync(&r->metrics, err));
    /* A checkpoint that is lost must not take the place of the good one before it. */
    const char *previous = r->is_latest_lost ? NULL : r->previous;
    TRY(checkpoint_save(r->checkpoint, previous, e->fixed_text, loader_facts(e->loader), &r->cursor,
                        e->model, e->optimizer, err));
    r->saved_step = r->cursor.step;
    r->is_latest_lost = false;
    return true;
}

/* "accuracy":0.5,... */
static const char *scores_text(const Task *task, const double *scores, Arena *arena) {
    const char *text = "";
    for (int i = 0; i < task->score_count; i++)
        text = arena_format(arena, "%s%s\"%s\":%.9g", text, i ? "," : "", task->scores[i].key,
                            scores[i]);
    return text;
}

/* `shadow`: NULL where nothing is quantized. */
static bool log_validation(Training *r, const Evaluation *trained, const Evaluation *shadow,
                           Error *err) {
    Arena *arena = arena_new("line");
    const Task *task = r->e->task;
    const char *line =
        arena_format(arena, "{\"step\":%ld,\"epoch\":%ld,\"validation\":{\"loss\":%.9g,%s}",
                     (long)r->cursor.step, (long)epoch_of(r), trained->loss,
                     scores_text(task, trained->scores, arena));
    if (shadow)
        line = arena_format(arena, "%s,\"shadow\":{%s}", line,
                            scores_text(task, shadow->scores, arena));
    bool ok = metrics_add(&r->metrics, arena_format(arena, "%s}", line), err);
    arena_free(arena);
    return ok;
}

static bool log_shadow(Training *r, Error *err) {
    if (!shadow_line_is_due(r->e, r->cursor.step)) return true;
    Arena *arena = arena_new("line");
    const char *line;
    bool ok = shadow_line_make(r->e, r->cursor.step, epoch_of(r), arena, &line, err) &&
              metrics_add(&r->metrics, line, err);
    arena_free(arena);
    return ok;
}

/* It comes to the disk before the checkpoint that names it. A run that is killed between the two
 * finds a best.h5 that its checkpoint does not name, looks for the best anew, and comes to the same
 * file again (saved.h). What the file itself says of a best network is itself. */
static bool save_best(Training *r, Error *err) {
    Experiment *e = r->e;
    if (r->cursor.best_step && !task_is_better(e->task, r->score, r->cursor.best_score))
        return true;
    /* A network whose fake-quant has not started, or that lacks a range, cannot be shipped. */
    if (qat_is_active(e->qat) && !e->qat->phase.is_faking) return true;
    if (calibration_find_missing(e->qat)) return true;
    TRY(check_finite(r, err));
    r->cursor.best_score = r->score;
    r->cursor.best_step = r->cursor.step;
    r->cursor.metric_lines = r->metrics.lines;
    r->cursor.loss_scale = e->loss_scale;
    *r->cursor.best_digest = '\0';
    return checkpoint_save(r->best, NULL, e->fixed_text, loader_facts(e->loader), &r->cursor,
                           e->model, e->optimizer, err) &&
           envelope_claim(r->best, r->cursor.best_digest, err);
}

/* The validation split, as trained and the shadow; the better network becomes best.h5. */
static bool validate(Training *r, bool may_be_best, Error *err) {
    Experiment *e = r->e;
    if (!loader_rows(e->loader, LOADER_VALIDATION)) return true;
    Evaluation trained = {0}, shadow = {0};
    bool has_shadow = qat_is_active(e->qat);
    optimizer_swap_ema(e->optimizer);
    bool ok = evaluate(e, LOADER_VALIDATION, false, &trained, err);
    if (ok && has_shadow) ok = evaluate(e, LOADER_VALIDATION, true, &shadow, err);
    optimizer_swap_ema(e->optimizer);
    if (!ok) {
        error_prefix(err, "step %ld", (long)r->cursor.step);
        return false;
    }
    r->score = trained.scores[0];
    TRY(log_validation(r, &trained, has_shadow ? &shadow : NULL, err));
    show(r, true);
    return !may_be_best || save_best(r, err);
}

static bool stopped(Training *r, Error *err) {
    TRY(save(r, err));
    return FAIL(err, ERROR_STOPPED,
                "stopped by %s after step %ld; go on with 'nibble train --resume %s'", stop_name(),
                (long)r->cursor.step, r->directory);
}

/* Where train.steps stops a training before its end, the loss and the validation split are looked
 * at once more, but behind the checkpoint: a run that goes on cuts these lines and ends as if it
 * had never stopped. For the same reason this is not the best network. */
static bool stop_early(Training *r, double loss, bool is_logged, bool is_validated, Error *err) {
    TRY(save(r, err));
    if (!is_logged) TRY(log_step(r, loss, err));
    return is_validated || validate(r, false, err);
}

static bool train(Training *r, Error *err) {
    const TrainConfig *c = &r->e->config.train;
    int64_t every = c->checkpoint_every ? c->checkpoint_every : r->epoch_steps;
    while (r->cursor.step < r->stop && !stop_signal()) {
        double loss, began = environment_seconds();
        TRY(trainer_step(r->e, r->cursor.step, &loss, err));
        r->step_seconds += environment_seconds() - began;
        int64_t done = ++r->cursor.step;
        r->cursor.loss_average += (done == 1 ? 1 : 0.02) * (loss - r->cursor.loss_average);
        bool ends = done == r->total;
        bool logs = done % c->log_every == 0 || ends;
        bool validates = done % r->epoch_steps == 0 || ends;
        if (logs) TRY(log_step(r, loss, err));
        TRY(log_shadow(r, err));
        show(r, false);
        if (validates) TRY(validate(r, true, err));
        if (done % every == 0 || ends) TRY(save(r, err));
        if (done == r->stop && !ends) TRY(stop_early(r, loss, logs, validates, err));
    }
    return !stop_signal() || stopped(r, err);
}

/* What a failure leaves. */
static void tell_what_is_kept(const Training *r, Error *err) {
    if (err->code != ERROR_NUMERIC) return;
    if (r->saved_step >= 0)
        error_append(err, ". The checkpoint of step %ld is intact", (long)r->saved_step);
    else
        error_append(err, ". No checkpoint was saved yet");
}

/* ---- A run ---- */

/* What the checkpoint alone cannot know to be wrong. */
static bool check_progress(const Training *r, const char *path, Error *err) {
    const Cursor *c = &r->cursor;
    const Score *score = &r->e->task->scores[0];
    bool may_differ = loader_config(r->e->loader)->changed == CHANGED_ALLOW; /* and be fewer */
    if (c->step > r->total && !may_differ)
        return FAIL(err, ERROR_INPUT, "%s: progress: step is %ld, but the training has %ld steps",
                    path, (long)c->step, (long)r->total);
    if (c->best_step && !(c->best_score >= score->low && c->best_score <= score->high))
        return FAIL(err, ERROR_INPUT, "%s: progress: best_score is %g, but %s is %g to %g", path,
                    c->best_score, score->name, score->low, score->high);
    return true;
}

/* A best network that is not there is the best no more. */
static bool check_best(Training *r, Error *err) {
    Cursor *c = &r->cursor;
    Checkpoint best;
    const char *why;
    if (!c->best_step) return true;
    TRY(saved_open_best(r->directory, c, r->e->arena, &best, &why, err));
    if (why) {
        log_warning("%s: from here on the best network is looked for anew", why);
        c->best_step = 0;
        c->best_score = 0;
    }
    snprintf(c->best_digest, sizeof c->best_digest, "%s", best.digest);
    checkpoint_close(&best);
    return true;
}

static bool load(Training *r, const Checkpoint *from, Error *err) {
    Experiment *e = r->e;
    TRY(experiment_check_data(e, &from->facts, from->path, err));
    TRY(frozen_load(e, err) && frozen_check_digest(e, from->cursor.base_digest, from->path, err));
    TRY(checkpoint_load(from, e->fixed_text, e->model, e->optimizer, err));
    TRY(teacher_check_digest(e, from->cursor.teacher_digest, from->path, err));
    r->cursor = from->cursor;
    return check_progress(r, from->path, err);
}

static bool resume(Training *r, Saved *saved, Error *err) {
    LossScale *scale = &r->e->loss_scale;
    bool is_loaded = load(r, &saved->checkpoint, err);
    checkpoint_close(&saved->checkpoint);
    TRY(is_loaded && check_best(r, err));
    bool is_dynamic = scale->is_dynamic;
    *scale = r->cursor.loss_scale;
    scale->is_dynamic = is_dynamic;
    r->saved_step = r->cursor.step;
    r->is_latest_lost = saved->is_previous;
    log_info("resuming after step %ld", (long)r->cursor.step);
    return true;
}

static bool init_weights(Experiment *e, Error *err) {
    Checkpoint from;
    if (e->adapter)
        return frozen_load(e, err) && adapter_start(e->adapter, &e->base_source, err) &&
               import_weights(e, err);
    if (!e->config.train.init) return true;
    bool is_open = saved_open_weights(e->config.train.init, e->arena, &from, err);
    bool is_done = is_open && checkpoint_init(&from, e->fixed_text, e->model, err);
    if (is_open) checkpoint_close(&from);
    if (is_done) return true;
    error_prefix(err, "train.init");
    return error_blame(err, "train.init");
}

static bool check_length(const Experiment *e, Error *err) {
    int64_t total = trainer_total_steps(e);
    if (total < 1)
        return FAIL(err, ERROR_INPUT,
                    "nothing to train: %ld training %s make %ld steps per epoch of batch %ld; "
                    "lower data.batch or train.accumulate, or raise train.epochs",
                    (long)loader_rows(e->loader, LOADER_TRAIN), e->task->rows,
                    (long)trainer_epoch_steps(e), (long)loader_config(e->loader)->batch) ||
               error_blame(err, "train.epochs");
    return schedule_check(&e->config.schedule, total, err);
}

bool trainer_begin(Experiment *e, Error *err) {
    if (check_length(e, err) && init_weights(e, err)) return true;
    config_place(&e->config, err);
    return false;
}

/* Whether there is a summary of this checkpoint; one of another is made again. */
static bool find_summary(const char *path, const char *digest, bool *is_there, Error *err) {
    *is_there = false;
    FileState state = file_find(path, err);
    if (state != FILE_REGULAR) return state == FILE_ABSENT;
    Error unread = {0};
    Json *json = json_read_file(path, &unread);
    if (unread.code == ERROR_SYSTEM) *err = unread;
    const char *named = json ? json_get_text(json, "checkpoint_digest") : NULL;
    *is_there = named && !strcmp(named, digest);
    json_free(json);
    return unread.code != ERROR_SYSTEM;
}

static bool prepare(Training *r, bool resumes, Error *err) {
    Experiment *e = r->e;
    Arena *arena = e->arena;
    r->checkpoint = run_path(arena, r->directory, RUN_CHECKPOINT);
    r->previous = run_path(arena, r->directory, RUN_PREVIOUS);
    r->best = run_path(arena, r->directory, RUN_BEST);
    r->metrics_path = run_path(arena, r->directory, RUN_METRICS);
    r->epoch_steps = trainer_epoch_steps(e);
    r->total = trainer_total_steps(e);
    r->stop = trainer_last_step(e);
    r->score = NAN;
    snprintf(r->cursor.teacher_digest, ENVELOPE_DIGEST_TEXT, "%s", teacher_digest(e));
    Saved saved = {.is_new = true};
    if (resumes) TRY(run_check_files(r->directory, err));
    if (resumes) TRY(saved_open(r->directory, arena, &saved, err));
    if (!saved.is_new) {
        bool is_resumed = check_length(e, err) && resume(r, &saved, err);
        checkpoint_close(&saved.checkpoint);
        TRY(is_resumed);
        environment_compare(run_path(arena, r->directory, RUN_ENVIRONMENT));
    } else if (resumes) { /* killed before its first save, it starts over */
        TRY(trainer_begin(e, err));
    }
    snprintf(r->cursor.base_digest, ENVELOPE_DIGEST_TEXT, "%s", e->base_digest);
    /* Nothing of the run is touched before everything else is known to be right. */
    const char *summary = run_path(arena, r->directory, RUN_SUMMARY);
    bool has_summary;
    TRY(find_summary(summary, saved.checkpoint.digest, &has_summary, err));
    r->is_over = resumes && r->cursor.step >= r->stop && has_summary;
    if (!r->is_over) TRY(metrics_open(&r->metrics, r->metrics_path, r->cursor.metric_lines, err));
    const char *config = config_write(&e->config, arena);
    TRY(text_write(run_path(arena, r->directory, RUN_CONFIG), config, err));
    if (r->is_over) return true;
    unlink(summary); /* of a pause */
    return environment_write(run_path(arena, r->directory, RUN_ENVIRONMENT), err);
}

/* Loads the best network. One that is not there any more is not reported. */
static bool load_best(Training *r, Error *err) {
    Experiment *e = r->e;
    Checkpoint best;
    const char *why;
    if (!r->cursor.best_step) return true;
    TRY(saved_open_best(r->directory, &r->cursor, e->arena, &best, &why, err));
    if (why) {
        log_warning("%s: the summary is of the network of step %ld", why, (long)r->cursor.step);
        r->cursor.best_step = 0;
        return true;
    }
    bool is_loaded = checkpoint_load(&best, e->fixed_text, e->model, e->optimizer, err);
    checkpoint_close(&best);
    return is_loaded;
}

/* The test set, once, with the best network. */
static bool finish(Training *r, double seconds, Error *err) {
    TRY(load_best(r, err));
    SummaryTimes times = {.steps = r->cursor.step,
                          .timed_from = r->first_step,
                          .seconds = seconds,
                          .samples_per_second = rate(r),
                          .best_step = r->cursor.best_step,
                          .best_score = r->cursor.best_score};
    TRY(envelope_claim(r->checkpoint, times.checkpoint_digest, err));
    return summary_write(r->e, r->directory, &times, err);
}

bool trainer_run(Experiment *e, const char *directory, bool resumes, Error *err) {
    Training r = {.e = e, .directory = directory, .metrics.file = -1, .saved_step = -1};
    bool ok = prepare(&r, resumes, err);
    if (ok && r.is_over)
        log_info("%s ended after step %ld; nothing is left to do", directory, (long)r.cursor.step);
    if (ok && !r.is_over) {
        if (qat_is_active(e->qat)) qat_describe(e->qat);
        if (e->adapter) adapter_describe(e->adapter);
        r.first_step = r.cursor.step;
        e->samples = 0;
        r.started = environment_seconds();
        int64_t epochs = (r.total + r.epoch_steps - 1) / r.epoch_steps;
        progress_begin(&r.progress, stderr, r.first_step, r.stop, epochs, e->task);
        LogTarget outer = log_set_sink(progress_message, &r.progress);
        /* From its first line of metrics on a run has a good checkpoint.h5: one without starts
         * over, and one that goes on from the previous has both again. */
        ok = save(&r, err) && train(&r, err);
        if (!ok) tell_what_is_kept(&r, err);
        progress_end(&r.progress);
        log_set_sink(outer.sink, outer.context);
        ok = ok && finish(&r, environment_seconds() - r.started, err);
    }
    metrics_close(&r.metrics);
    return ok;
}
