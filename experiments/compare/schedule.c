#include "experiments/compare/schedule.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "core/file.h"
#include "data/envelope.h"
#include "experiments/commands/commands.h"
#include "experiments/compare/evaluation.h"
#include "experiments/compare/worker.h"
#include "experiments/plan/footprint.h"
#include "experiments/ptq/stream.h"
#include "experiments/train/bits.h"
#include "experiments/train/environment.h"
#include "experiments/train/run.h"
#include "experiments/train/stop.h"
#include "experiments/train/trainer.h"

/* ---- What is there ---- */

static const char *path_of(const Schedule *s, const char *folder, const char *name,
                           const char *suffix) {
    return arena_format(s->arena, "%s/%s/%s%s", s->directory, folder, name, suffix);
}

static CompareRun run_of(const Schedule *s, const CompareRow *row, int64_t seed,
                         CompareRun *baseline) {
    const char *name = comparison_run_name(row, seed, s->arena);
    return (CompareRun){
        .row = row,
        .seed = seed,
        .baseline = baseline,
        .name = name,
        .directory = path_of(s, COMPARISON_RUNS, name, ""),
        .log = path_of(s, COMPARISON_LOGS, name, ".txt"),
        .config = path_of(s, COMPARISON_CONFIGS, row->name, ".yaml"),
        .evaluation = path_of(s, COMPARISON_EVALUATIONS, name, ".json"),
        .outputs = baseline ? baseline->outputs : path_of(s, COMPARISON_EVALUATIONS, name, ".h5"),
    };
}

static bool has_file(const CompareRun *run, const char *file) {
    Arena *arena = arena_new("run");
    Error ignored = {0};
    bool is_there = file_find(run_path(arena, run->directory, file), &ignored) != FILE_ABSENT;
    arena_free(arena);
    return is_there;
}

/* Whether its summary is of its last checkpoint, and its page is there, which comes last. */
static bool is_made(const CompareRun *run) {
    if (!has_file(run, RUN_REPORT)) return false;
    Arena *arena = arena_new("run");
    Error ignored = {0};
    char digest[ENVELOPE_DIGEST_TEXT];
    const char *summary = run_path(arena, run->directory, RUN_SUMMARY);
    Json *json =
        file_find(summary, &ignored) == FILE_REGULAR ? json_read_file(summary, &ignored) : NULL;
    const char *named = json ? json_get_text(json, "checkpoint_digest") : NULL;
    bool is_of =
        named &&
        envelope_claim(run_path(arena, run->directory, RUN_CHECKPOINT), digest, &ignored) &&
        !strcmp(named, digest);
    if (json) json_free(json);
    arena_free(arena);
    return is_of;
}

/* Done, if its evaluation is there. */
static void take_result(CompareRun *run) {
    run->result = evaluation_read(run->evaluation, run->directory);
    if (!run->result) return;
    run->state = RUN_DONE;
    json_get_int(run->result, "steps", &run->steps);
    run->step = run->steps;
}

void schedule_open(Schedule *s, const Comparison *comparison, const char *directory, Arena *arena) {
    int rows = comparison->row_count, seeds = comparison->seed_count;
    *s = (Schedule){.comparison = comparison,
                    .directory = directory,
                    .arena = arena,
                    .runs = arena_new_array(arena, CompareRun, rows * seeds),
                    .run_count = rows * seeds,
                    .began = environment_seconds()};
    for (int i = 0; i < seeds; i++)
        for (int j = 0; j < rows; j++) {
            CompareRun *run = &s->runs[i * rows + j];
            *run = run_of(s, &comparison->rows[j], comparison->seeds[i],
                          j ? &s->runs[i * rows] : NULL);
            const CompareRow *source = run->row->source;
            if (source) run->source = &s->runs[i * rows + (source - comparison->rows)];
            if (is_made(run)) take_result(run);
        }
}

void schedule_close(Schedule *s) {
    for (int i = 0; i < s->run_count; i++) json_free(s->runs[i].result);
}

int schedule_count(const Schedule *s, RunState state) {
    int count = 0;
    for (int i = 0; i < s->run_count; i++) count += s->runs[i].state == state;
    return count;
}

/* ---- Waiting for a process ---- */

static void pause_briefly(double seconds) {
    nanosleep(&(struct timespec){.tv_sec = 0, .tv_nsec = (long)(seconds * 1e9)}, NULL);
}

/* The step of the last whole line of metrics; what it was where there is none. */
static int64_t metrics_step(const CompareRun *run, int64_t before) {
    enum { TAIL = 2048 };
    char text[TAIL + 1], path[4096];
    snprintf(path, sizeof path, "%s/%s", run->directory, RUN_METRICS);
    FILE *file = fopen(path, "r");
    if (!file) return before;
    if (!fseek(file, 0, SEEK_END)) {
        long bytes = ftell(file);
        fseek(file, bytes > TAIL ? bytes - TAIL : 0, SEEK_SET);
    }
    text[fread(text, 1, TAIL, file)] = '\0';
    fclose(file);
    char *end = strrchr(text, '\n');
    if (!end) return before;
    *end = '\0';
    const char *line = strrchr(text, '\n');
    long step = 0;
    bool is_step = sscanf(line ? line + 1 : text, "{\"step\":%ld", &step) == 1;
    return is_step ? step : before;
}

static bool wait_for(Worker *worker, CompareRun *run, ScheduleWatch watch, void *context,
                     Error *err) {
    bool ok = true, is_told = false;
    double pause = 0.002;
    while (!worker_has_ended(worker, &ok, err)) {
        pause_briefly(pause);
        pause = fmin(1.5 * pause, 0.1);
        if (run && run->row->method->is_trained) run->step = metrics_step(run, run->step);
        if (watch) watch(context, run, false);
        if (!stop_signal() || is_told) continue;
        worker_stop(worker);
        is_told = true;
    }
    if (!stop_signal()) return ok;
    *err = (Error){0};
    return FAIL(err, ERROR_STOPPED, "stopped by %s", stop_name());
}

/* ---- Whose run it is ---- */

enum { WORDS_MAX = 16 };

/* Settings of a row that name other runs: paths, which may move, and may not be there yet. */
static int words_without_runs(const CompareRow *row, Arena *arena, char **words) {
    int count = 0;
    if (row->is_taught) words[count++] = arena_strdup(arena, "~train.distill");
    if (row->method->is_trained && row->source) words[count++] = arena_strdup(arena, "~train.init");
    return count;
}

/* What its configuration is to be. */
static bool read_wanted(const CompareRun *run, Arena *arena, ExperimentConfig *config, Error *err) {
    if (run->row->method->is_trained) {
        char *words[WORDS_MAX];
        int count = words_without_runs(run->row, arena, words);
        words[count++] = arena_format(arena, "seed=%ld", (long)run->seed);
        return config_read(run->config, count, words, arena, config, err);
    }
    const char *source = run_path(arena, run->source->directory, RUN_CONFIG);
    return config_read_quantize(source, run->config, 0, NULL, arena, config, err);
}

/* A run that is there must be this one: of its seed, with its settings. Bits that were chosen
 * (bits: auto) stand in a run's configuration as rules. */
static bool check_run(const CompareRun *run, Arena *arena, Error *err) {
    const char *path = run_path(arena, run->directory, RUN_CONFIG);
    ExperimentConfig wanted, there;
    if (!has_file(run, RUN_CONFIG) || (run->baseline && !has_file(run->baseline, RUN_CONFIG)))
        return true;
    TRY(read_wanted(run, arena, &wanted, err) &&
        config_read_run(path, 0, NULL, arena, &there, err));
    there.train.distill = wanted.train.distill = NULL;
    bool is_chosen = bits_value(wanted.quant.bits) == BITS_AUTO;
    if (wanted.seed == there.seed && (is_chosen || !strcmp(config_write_fixed(&wanted, arena),
                                                           config_write_fixed(&there, arena))))
        return true;
    return FAIL(err, ERROR_INPUT,
                "%s is not of the run %s: it has another seed or other settings; move %s away, and "
                "that run is made again",
                path, run->name, run->directory);
}

bool schedule_check_runs(const Schedule *s, Error *err) {
    for (int i = 0; i < s->run_count; i++) {
        Arena *arena = arena_new("configuration");
        bool ok = check_run(&s->runs[i], arena, err);
        arena_free(arena);
        if (!ok) return false;
    }
    return true;
}

/* ---- Before anything is trained ---- */

typedef struct Survey {
    const Schedule *schedule;
    int64_t *steps; /* of each row; shared between the processes */
} Survey;

/* Whether the network at the fewest bits that can be chosen meets the budget. */
static bool survey_budget(const CompareRun *run, const Experiment *e, Arena *arena, Error *err) {
    ExperimentConfig config;
    char *words[WORDS_MAX];
    int count = words_without_runs(run->row, arena, words);
    if (run->row->method->is_trained)
        TRY(config_read(run->config, count, words, arena, &config, err));
    else
        TRY(config_read_quantize(run->source->config, run->config, 0, NULL, arena, &config, err));
    if (bits_check_budget(config.quant.budget_bytes, e->qat, err)) return true;
    config_place(&config, err);
    return false;
}

/* A run of the row, or, where it is made of the FP32 run, of that with the row's quantization. */
static bool survey_open(const CompareRun *run, Arena *arena, Experiment *e, Error *err) {
    ExperimentConfig config;
    char *words[WORDS_MAX];
    int count = words_without_runs(run->row, arena, words);
    if (run->row->has_chosen_bits) { /* nothing can be measured yet */
        words[count++] = arena_format(arena, "quant.bits=%d", BITS_AUTO_LEAST);
        words[count++] = arena_strdup(arena, "quant.budget_bytes=0");
    }
    if (run->row->method->is_trained) {
        TRY(config_read(run->config, count, words, arena, &config, err));
        TRY(experiment_open(&config, arena, e, err) && trainer_begin(e, err) &&
            footprint_check(e, err));
    } else {
        TRY(config_read_quantize(run->source->config, run->config, count, words, arena, &config,
                                 err));
        TRY(experiment_open(&config, arena, e, err) && stream_check(e, err));
    }
    return !run->row->has_chosen_bits || survey_budget(run, e, arena, err);
}

static bool survey_row(const CompareRun *run, int64_t *steps, Error *err) {
    Arena *arena = arena_new("survey");
    Experiment e = {0};
    bool ok = survey_open(run, arena, &e, err);
    if (ok && run->row->method->is_trained) *steps = trainer_last_step(&e);
    if (!ok) error_prefix(err, "%s", run->row->label);
    experiment_close(&e);
    arena_free(arena);
    return ok;
}

static bool survey_all(void *context, Error *err) {
    const Survey *survey = context;
    const Comparison *c = survey->schedule->comparison;
    for (int i = 0; i < c->row_count; i++) {
        bool is_needed = false; /* the runs of the first seed have the rows in their order */
        for (int j = 0; j < c->seed_count; j++)
            is_needed |= survey->schedule->runs[j * c->row_count + i].state != RUN_DONE;
        if (is_needed) TRY(survey_row(&survey->schedule->runs[i], &survey->steps[i], err));
    }
    return true;
}

bool schedule_survey(Schedule *s, Error *err) {
    const Comparison *c = s->comparison;
    size_t bytes = sizeof(int64_t) * (size_t)c->row_count;
    int64_t *steps = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (steps == MAP_FAILED) return FAIL(err, ERROR_SYSTEM, "no memory to share with a process");
    Survey survey = {s, steps};
    Worker worker;
    bool ok = worker_start(&worker, survey_all, &survey,
                           path_of(s, COMPARISON_LOGS, "survey", ".txt"), err) &&
              wait_for(&worker, NULL, NULL, NULL, err);
    for (int i = 0; ok && i < s->run_count; i++)
        if (s->runs[i].state != RUN_DONE) s->runs[i].steps = steps[i % c->row_count];
    munmap(steps, bytes);
    return ok;
}

/* ---- Making a run ---- */

/* A run that was killed between its summary and its page makes both again. */
static void forget_summary(const CompareRun *run) {
    Arena *arena = arena_new("run");
    if (!has_file(run, RUN_REPORT)) unlink(run_path(arena, run->directory, RUN_SUMMARY));
    arena_free(arena);
}

/* What was begun goes on; what cannot go on is made anew. */
static bool make(void *context, Error *err) {
    const CompareRun *run = context;
    const CompareMethod *method = run->row->method;
    Arena *arena = arena_new("command");
    char *words[WORDS_MAX];
    int count = 0;
#define WORD(text) words[count++] = arena_strdup(arena, text)
    WORD(method->command);
    if (method->is_trained && has_file(run, RUN_CONFIG)) {
        forget_summary(run);
        WORD("--resume");
        WORD(run->directory);
    } else {
        if (!method->is_trained) WORD(run->source->directory);
        WORD(run->config);
        WORD("--out");
        WORD(run->directory);
        WORD("--force");
        if (method->is_trained) WORD(arena_format(arena, "seed=%ld", (long)run->seed));
        if (run->row->is_taught)
            WORD(arena_format(arena, "train.distill.teacher=%s", run->baseline->directory));
        if (method->is_trained && run->source)
            WORD(arena_format(arena, "train.init=%s", run->source->directory));
    }
#undef WORD
    bool ok = commands_call(count, words, err);
    arena_free(arena);
    return ok;
}

static bool evaluate_run(void *context, Error *err) {
    return evaluation_write(context, err);
}

/* Of what nobody can mend but by other settings or other hardware, or that stops all alike. */
static bool is_fatal(const Error *err) {
    return err->code == ERROR_INPUT || err->code == ERROR_SYSTEM || err->code == ERROR_STOPPED;
}

static bool settle(Schedule *s, CompareRun *run, bool ok, Error *err) {
    if (ok) return true;
    if (is_fatal(err)) {
        run->state = RUN_WAITING;
        if (err->code != ERROR_STOPPED)
            error_prefix(err, "%s, seed %ld", run->row->label, (long)run->seed);
        return false;
    }
    run->state = RUN_FAILED;
    run->failure = arena_strdup(s->arena, err->message);
    *err = (Error){0};
    return true;
}

static bool do_job(Schedule *s, CompareRun *run, RunState state, WorkerJob job, void *job_context,
                   ScheduleWatch watch, void *context, Error *err) {
    Worker worker;
    run->state = state;
    watch(context, run, true);
    bool ok = worker_start(&worker, job, job_context, run->log, err) &&
              wait_for(&worker, run, watch, context, err);
    run->seconds = environment_seconds() - run->began;
    if (state == RUN_MAKING) run->making_seconds = run->seconds;
    return settle(s, run, ok, err);
}

/* A run that failed, without which this one cannot be made. */
static const CompareRun *failed_need(const CompareRun *run) {
    const CompareRun *taught_by = run->row->is_taught ? run->baseline : NULL;
    if (run->source && run->source->state == RUN_FAILED) return run->source;
    return taught_by && taught_by->state == RUN_FAILED ? taught_by : NULL;
}

bool schedule_make(Schedule *s, CompareRun *run, ScheduleWatch watch, void *context, Error *err) {
    const CompareRun *baseline = run->baseline;
    const CompareRun *failed = failed_need(run);
    if (failed) {
        run->state = RUN_FAILED;
        run->failure =
            arena_format(s->arena, "there is no %s run to make it of", failed->row->label);
        watch(context, run, true);
        return true;
    }
    run->began = environment_seconds();
    run->first_step = run->step = metrics_step(run, 0);
    run->making_seconds = 0;
    if (!is_made(run)) TRY(do_job(s, run, RUN_MAKING, make, run, watch, context, err));
    bool has_baseline = baseline && baseline->state == RUN_DONE;
    EvaluationJob job = {.run = run->name,
                         .directory = run->directory,
                         .baseline = has_baseline ? baseline->directory : NULL,
                         .outputs = run->outputs,
                         .path = run->evaluation,
                         .is_trained = run->row->method->is_trained,
                         .has_costs = run == s->runs,
                         .seconds = run->seconds};
    if (run->state != RUN_FAILED)
        TRY(do_job(s, run, RUN_EVALUATING, evaluate_run, &job, watch, context, err));
    if (run->state != RUN_FAILED) take_result(run);
    watch(context, run, true);
    return true;
}

/* ---- The time left ---- */

/* Of those that this process made. */
static bool is_timed(const CompareRun *run) {
    return run->state == RUN_DONE && run->began > 0;
}

/* Seconds a step, or a whole run where runs have no steps, of the runs that this process made, or
 * with `row` of its alone; NAN: of none. */
static double pace(const Schedule *s, const CompareRow *row, bool has_steps) {
    double seconds = 0, units = 0;
    for (int i = 0; i < s->run_count; i++) {
        const CompareRun *run = &s->runs[i];
        if (row ? run->row != row : run->row->method->is_trained != has_steps) continue;
        bool is_over = is_timed(run);
        if (!is_over && !(run->state == RUN_MAKING && has_steps)) continue;
        seconds += is_over ? run->seconds : environment_seconds() - run->began;
        units += has_steps ? (double)(run->step - run->first_step) : 1;
    }
    return units > 0 ? seconds / units : NAN;
}

/* What seeing the test set takes, which is most of a run that is rounded and no more. */
static double evaluation_seconds(const Schedule *s) {
    double seconds = 0;
    int count = 0;
    for (int i = 0; i < s->run_count; i++) {
        if (!is_timed(&s->runs[i])) continue;
        seconds += s->runs[i].seconds - s->runs[i].making_seconds;
        count++;
    }
    return count ? seconds / count : 0;
}

/* A step, or a run without steps: as its own row's, else as others like it, else at least as its
 * evaluation. */
static double guess(const Schedule *s, const CompareRow *row) {
    bool has_steps = row->method->is_trained;
    double own = pace(s, row, has_steps), others = pace(s, NULL, has_steps);
    if (!isnan(own)) return own;
    return isnan(others) && !has_steps ? evaluation_seconds(s) : others;
}

double schedule_left(const Schedule *s) {
    double sum = 0;
    for (int i = 0; i < s->run_count; i++) {
        const CompareRun *run = &s->runs[i];
        if (run->state == RUN_DONE || run->state == RUN_FAILED) continue;
        bool has_steps = run->row->method->is_trained;
        sum += guess(s, run->row) * (has_steps ? (double)(run->steps - run->step) : 1);
    }
    return sum;
}
