/* nibble quantize RUN CONFIG --out DIR [key=value ...] */
#include <math.h>
#include <stdio.h>
#include <sys/stat.h>

#include "core/json.h"
#include "core/log.h"
#include "core/print.h"
#include "experiments/commands/commands.h"
#include "experiments/ptq/quantize.h"
#include "experiments/train/run.h"
#include "experiments/train/stop.h"
#include "experiments/train/task.h"

enum { OUT, FORCE };

static bool is_same_directory(const char *a, const char *b) {
    struct stat first, second;
    return !stat(a, &first) && !stat(b, &second) && first.st_dev == second.st_dev &&
           first.st_ino == second.st_ino;
}

static bool check_out(const char *run, const char *out, bool force, Error *err) {
    if (is_same_directory(run, out))
        return FAIL(err, ERROR_INPUT, "%s is the run that is quantized; --out is another directory",
                    out);
    const char *found = force ? NULL : run_find_file(out);
    if (!found) return true;
    return FAIL(err, ERROR_INPUT,
                "%s already holds a run, or a part of one (%s); replace it with --force", out,
                found);
}

static const char *score_text(const Json *json, const char *network, const Score *score,
                              Arena *arena) {
    double value = json_number(json, arena_format(arena, "%s.%s", network, score->key));
    return arena_format(arena, "%.*f%s", score->decimals, value * score->factor, score->unit);
}

static void print_result(const Task *task, const char *directory, Arena *arena) {
    Error err = {0};
    Json *json = json_read_file(run_path(arena, directory, RUN_SUMMARY), &err);
    if (!json) {
        log_warning("no table of results: %s", err.message);
        return;
    }
    print_out("%-22s %12s %12s\n", "", "float", "quantized");
    for (int i = 0; i < task->score_count; i++) {
        const Score *score = &task->scores[i];
        print_out("%-22s %12s %12s\n", arena_format(arena, "test %s", score->name),
                  score_text(json, "shadow", score, arena),
                  score_text(json, "quantized", score, arena));
    }
    const Score *first = &task->scores[0];
    double validated = json_number(json, arena_format(arena, "best.validation_%s", first->key));
    if (!isnan(validated))
        print_out("%-22s %12s %11.*f%s\n", arena_format(arena, "validation %s", first->name), "",
                  first->decimals, validated * first->factor, first->unit);
    print_out("%-22s %12d %12.3f\n", "bits per weight", BITS_FLOAT,
              json_number(json, "bits_per_weight"));
    print_out("%-22s %s\n", "run directory", directory);
    print_out("%-22s %s/" RUN_REPORT "\n", "report", directory);
    json_free(json);
}

static bool quantize(const char *run, const char *out, const ExperimentConfig *config, Arena *arena,
                     Error *err) {
    Experiment e = {0};
    RunClaim claim = {.fd = -1};
    stop_at_once("nothing was written");
    /* Nothing of an earlier run is touched before everything else is known to be right. */
    bool ok = quantize_open(run, config, arena, &e, err) && run_create(out, true, &claim, err);
    stop_at_once(arena_format(arena, "%s holds no whole run: quantize again, with --force", out));
    Error ignored = {0};
    if (ok && !quantize_run(&e, out, err)) {
        run_clear(out, &ignored); /* part of a run is none */
        ok = false;
    }
    if (ok) print_result(e.task, out, arena);
    run_release(&claim);
    experiment_close(&e);
    return ok;
}

static bool run(const Arguments *a, Error *err) {
    const char *trained = a->items[0], *out = a->values[OUT];
    if (!out) return FAIL(err, ERROR_INPUT, "give --out DIR, where the quantized network is kept");
    TRY(run_exists(trained, err));
    TRY(check_out(trained, out, a->values[FORCE], err));
    Arena *arena = arena_new("configuration");
    ExperimentConfig config;
    bool ok = config_read_quantize(run_path(arena, trained, RUN_CONFIG), a->items[1], a->count - 2,
                                   a->items + 2, arena, &config, err) &&
              quantize(trained, out, &config, arena, err);
    arena_free(arena);
    return ok;
}

const Command command_quantize = {
    .name = "quantize",
    .synopsis = "quantize RUN CONFIG --out DIR [key=value ...]",
    .help =
        "quantize the trained network of RUN without training; DIR is then a run like any other",
    .min_items = 2,
    .max_items = -1,
    .options = {[OUT] = {"--out", "DIR", "directory of the quantized run"},
                [FORCE] = {"--force", NULL, "replace a run that is already in --out"}},
    .writes_files = true,
    .is_parallel = true,
    .run = run,
};
