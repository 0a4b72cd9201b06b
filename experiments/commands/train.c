/* nibble train CONFIG --out DIR [key=value ...]   and   nibble train --resume DIR */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/json.h"
#include "core/log.h"
#include "core/print.h"
#include "experiments/commands/commands.h"
#include "experiments/plan/footprint.h"
#include "experiments/train/checkpoint.h"
#include "experiments/train/experiment.h"
#include "experiments/train/run.h"
#include "experiments/train/stop.h"
#include "experiments/train/teacher.h"
#include "experiments/train/trainer.h"

enum { OUT, RESUME, FORCE };

static bool read_resumed(const char *directory, const Arguments *a, Arena *arena,
                         ExperimentConfig *config, Error *err) {
    TRY(run_exists(directory, err));
    for (int i = 0; i < a->count; i++) TRY(config_check_free(a->items[i], err));
    return config_read_run(run_path(arena, directory, RUN_CONFIG), a->count, a->items, arena,
                           config, err);
}

/* "92.13%", or "none" */
static const char *score_text(const Json *json, const char *network, const Score *score,
                              Arena *arena) {
    double value = 0;
    const char *path = arena_format(arena, "%s.%s", network, score->key);
    if (!json_get_number(json, path, &value)) return "none";
    return arena_format(arena, "%.*f%s", score->decimals, value * score->factor, score->unit);
}

/* What was trained, beside its shadow where it has one. */
static void print_results(const Json *json, const Task *task, Arena *arena) {
    bool has_shadow = isfinite(json_number(json, "shadow.loss"));
    const char *trained = has_shadow ? "quantized" : "test";
    int64_t model_bytes = 0, quantized_bytes = 0;
    json_get_int(json, "model_bytes", &model_bytes);
    json_get_int(json, "quantized_bytes", &quantized_bytes);
    if (has_shadow) print_out("%-22s %12s %12s\n", "", "quantized", "shadow");
    for (int i = 0; i < task->score_count; i++) {
        const Score *score = &task->scores[i];
        print_out("%-22s %12s", arena_format(arena, "test %s", score->name),
                  score_text(json, trained, score, arena));
        if (has_shadow) print_out(" %12s", score_text(json, "shadow", score, arena));
        putchar('\n');
    }
    print_out("%-22s %12ld", "model bytes", (long)quantized_bytes);
    if (has_shadow) print_out(" %12ld", (long)model_bytes);
    putchar('\n');
}

static void print_table(const char *directory, const Task *task, Arena *arena) {
    Error err = {0};
    Json *json = json_read_file(run_path(arena, directory, RUN_SUMMARY), &err);
    if (!json) {
        log_warning("no table of results: %s", err.message);
        return;
    }
    double speed;
    int64_t steps = 0, timed_from = 0;
    const char *reason = json_get_text(json, "quantized.reason");
    bool is_timed = json_get_number(json, "samples_per_second", &speed);
    json_get_int(json, "timed_from_step", &timed_from);
    json_get_int(json, "steps", &steps);
    print_results(json, task, arena);
    if (is_timed) {
        print_out("%-22s %12.0f", arena_format(arena, "training %s/s", task->samples), speed);
        if (timed_from) print_out(" (from step %ld on)", (long)timed_from);
        putchar('\n');
    }
    print_out("%-22s %12ld\n", "steps", (long)steps);
    print_out("%-22s %s\n", "run directory", directory);
    print_out("%-22s %s/" RUN_REPORT "\n", "report", directory);
    if (isfinite(json_number(json, "shadow.loss")))
        puts("The shadow is the same weights with nothing quantized: a diagnostic, no baseline.");
    if (reason) print_out("no quantized %s: %s\n", task->scores[0].name, reason);
    json_free(json);
}

static bool train(const ExperimentConfig *config, const char *directory, bool resumes, bool force,
                  Arena *arena, Error *err) {
    Experiment e;
    RunClaim claim = {.fd = -1};
    stop_at_once("nothing was written");
    bool ok = experiment_open(config, arena, &e, err);
    ok = ok && teacher_check_apart(&e, directory, err);
    if (ok && !resumes) ok = trainer_begin(&e, err);
    if (ok) ok = footprint_check(&e, err);
    /* Nothing of an earlier run is touched before everything else is known to be right. */
    if (ok)
        ok =
            resumes ? run_claim(directory, &claim, err) : run_create(directory, force, &claim, err);
    stop_install();
    ok = ok && trainer_run(&e, directory, resumes, err);
    if (ok) print_table(directory, e.task, arena);
    run_release(&claim);
    experiment_close(&e);
    return ok;
}

static bool run(const Arguments *a, Error *err) {
    const char *directory = a->values[RESUME] ? a->values[RESUME] : a->values[OUT];
    if (a->values[OUT] && a->values[RESUME])
        return FAIL(err, ERROR_INPUT,
                    "--out starts a run and --resume goes on with one; give one of them");
    if (!directory)
        return FAIL(err, ERROR_INPUT, "give --out DIR, where the run is kept, or --resume DIR");
    if (!a->values[RESUME] && !a->count)
        return FAIL(err, ERROR_INPUT, "usage: nibble %s", command_train.synopsis);
    Arena *arena = arena_new("configuration");
    ExperimentConfig config;
    bool ok = a->values[RESUME]
                  ? read_resumed(directory, a, arena, &config, err)
                  : config_read(a->items[0], a->count - 1, a->items + 1, arena, &config, err);
    ok = ok && config_check_trains(&config, err);
    if (ok && !a->values[RESUME] && !a->values[FORCE]) ok = run_is_free(directory, err);
    ok = ok && train(&config, directory, a->values[RESUME], a->values[FORCE], arena, err);
    arena_free(arena);
    return ok;
}

const Command command_train = {
    .name = "train",
    .synopsis = "train CONFIG --out DIR [key=value ...] | train --resume DIR [key=value ...]",
    .help = "train a network; ends with its scores on the test set",
    .min_items = 0,
    .max_items = -1,
    .options = {[OUT] = {"--out", "DIR", "directory of the new run"},
                [RESUME] = {"--resume", "DIR", "go on with the run in DIR"},
                [FORCE] = {"--force", NULL, "replace a run that is already in --out"}},
    .writes_files = true,
    .is_parallel = true,
    .run = run,
};
