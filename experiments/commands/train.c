/* nibble train CONFIG --out DIR [key=value ...]   and   nibble train --resume DIR */
#include <stdio.h>
#include <string.h>

#include "core/log.h"
#include "experiments/commands/commands.h"
#include "experiments/plan/footprint.h"
#include "experiments/report/json.h"
#include "experiments/report/text.h"
#include "experiments/train/checkpoint.h"
#include "experiments/train/experiment.h"
#include "experiments/train/run.h"
#include "experiments/train/stop.h"
#include "experiments/train/trainer.h"

enum { OUT, RESUME, FORCE };

static bool read_resumed(const char *directory, const Arguments *a, Arena *arena,
                         ExperimentConfig *config, Error *err) {
    TRY(run_exists(directory, err));
    for (int i = 0; i < a->count; i++) TRY(config_check_free(a->items[i], err));
    return config_read(run_path(arena, directory, RUN_CONFIG), a->count, a->items, arena, config,
                       err);
}

static void print_table(const char *directory, Arena *arena) {
    Error ignored = {0};
    Json *json = json_read_file(run_path(arena, directory, RUN_SUMMARY), &ignored);
    if (!json) return;
    double fp32 = 0, quantized = 0, speed = 0;
    char quantized_text[32] = "none";
    int64_t model_bytes = 0, quantized_bytes = 0, steps = 0;
    json_get_number(json, "fp32.accuracy", &fp32);
    if (json_get_number(json, "quantized.accuracy", &quantized))
        snprintf(quantized_text, sizeof quantized_text, "%.2f%%", 100 * quantized);
    const char *reason = json_get_text(json, "quantized.reason");
    json_get_number(json, "samples_per_second", &speed);
    json_get_int(json, "model_bytes", &model_bytes);
    json_get_int(json, "quantized_bytes", &quantized_bytes);
    json_get_int(json, "steps", &steps);
    printf("%-22s %12s %12s\n", "", "FP32", "quantized");
    printf("%-22s %11.2f%% %12s\n", "test accuracy", 100 * fp32, quantized_text);
    printf("%-22s %12ld %12ld\n", "model bytes", (long)model_bytes, (long)quantized_bytes);
    printf("%-22s %12.0f\n", "training images/s", speed);
    printf("%-22s %12ld\n", "steps", (long)steps);
    printf("%-22s %s\n", "run directory", directory);
    printf("%-22s %s/" RUN_REPORT "\n", "report", directory);
    if (reason) printf("no quantized accuracy: %s\n", reason);
    json_free(json);
}

static bool train(const ExperimentConfig *config, const char *directory, bool resumes, bool force,
                  Arena *arena, Error *err) {
    Experiment e;
    RunClaim claim = {.fd = -1};
    bool ok = experiment_open(config, arena, &e, err);
    if (ok && !resumes) ok = trainer_begin(&e, err);
    if (ok) ok = footprint_check(&e, err);
    /* Nothing of an earlier run is touched before everything else is known to be right. */
    if (ok)
        ok =
            resumes ? run_claim(directory, &claim, err) : run_create(directory, force, &claim, err);
    const char *text = config_write(config, arena);
    if (ok) ok = text_write(run_path(arena, directory, RUN_CONFIG), text, err);
    stop_install();
    ok = ok && trainer_run(&e, directory, resumes, err);
    if (ok) print_table(directory, arena);
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
    if (ok && !a->values[RESUME] && !a->values[FORCE]) ok = run_is_free(directory, err);
    ok = ok && train(&config, directory, a->values[RESUME], a->values[FORCE], arena, err);
    arena_free(arena);
    return ok;
}

const Command command_train = {
    .name = "train",
    .synopsis = "train CONFIG --out DIR [key=value ...] | train --resume DIR [key=value ...]",
    .help = "train a network; ends with its FP32 and its quantized accuracy",
    .min_items = 0,
    .max_items = -1,
    .options = {[OUT] = {"--out", "DIR", "directory of the new run"},
                [RESUME] = {"--resume", "DIR", "go on with the run in DIR"},
                [FORCE] = {"--force", NULL, "replace a run that is already in --out"}},
    .is_parallel = true,
    .run = run,
};
