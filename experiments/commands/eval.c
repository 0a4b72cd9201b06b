/* nibble eval DIR [--json] [--calibrate N] [key=value ...] */
#include <math.h>
#include <stdio.h>

#include "core/file.h"
#include "core/log.h"
#include "experiments/commands/run_options.h"
#include "experiments/report/summary.h"
#include "experiments/ship/packed.h"
#include "experiments/train/run.h"

enum { JSON, CALIBRATE };

static void print_score(const Json *json, const char *network, const Score *score, Arena *arena) {
    double value = 0;
    json_get_number(json, arena_format(arena, "%s.%s", network, score->key), &value);
    printf("%-18s %.4f\n", arena_format(arena, "%s %s", network, score->name), value);
}

static void print_text(const Json *json, const Task *task, Arena *arena) {
    bool has_shadow = isfinite(json_number(json, "shadow.loss"));
    for (int i = 0; i < task->score_count; i++) {
        print_score(json, has_shadow ? "quantized" : "test", &task->scores[i], arena);
        if (has_shadow) print_score(json, "shadow", &task->scores[i], arena);
    }
    putchar('\n');
    printf("%-36s %12s %12s %10s\n", "layer", "weight bits", "input bits", "SQNR dB");
    for (int i = 0; i < json_count(json, "layers"); i++) {
        const Json *layer = json_element(json, "layers", i);
        double bits = 0, activation_bits = 0, sqnr = 0;
        json_get_number(layer, "bits", &bits);
        json_get_number(layer, "activation_bits", &activation_bits);
        bool has_noise = json_get_number(layer, "sqnr_db", &sqnr);
        printf("%-36s %12g %12g ", json_get_text(layer, "name"), bits, activation_bits);
        if (has_noise)
            printf("%10.1f\n", sqnr);
        else
            printf("%10s\n", "exact");
    }
}

/* What is evaluated is not what was shipped. */
static void tell_stale(const Experiment *e, const char *directory, Arena *arena) {
    const char *path = run_path(arena, directory, RUN_QUANTIZED);
    Error err = {0};
    bool is_of;
    if (file_find(path, &err) == FILE_ABSENT) return;
    if (!packed_is_of(path, e->network_digest, &is_of, &err))
        log_warning("%s", err.message);
    else if (!is_of)
        log_warning("%s was not made of this network; run 'nibble convert %s' again", path,
                    directory);
}

static bool run(const Arguments *a, Error *err) {
    Arena *arena = arena_new("configuration");
    Experiment e = {0};
    RunOptions options;
    Json *json = NULL;
    bool ok = run_options_read(a, a->values[CALIBRATE], &options, err) &&
              experiment_open_run(a->items[0], &options, arena, &e, err) &&
              summary_evaluate(&e, &json, err);
    if (ok) tell_stale(&e, a->items[0], arena);
    if (ok && a->values[JSON])
        printf("%s\n", json_line(json, arena));
    else if (ok)
        print_text(json, e.task, arena);
    json_free(json);
    experiment_close(&e);
    arena_free(arena);
    return ok;
}

const Command command_eval = {
    .name = "eval",
    .synopsis = "eval DIR [--json] [--calibrate N] [key=value ...]",
    .help = "scores of the quantized network and of its shadow on the test set, layer by layer",
    .min_items = 1,
    .max_items = -1,
    .options = {[JSON] = {"--json", NULL, "one JSON object"}, [CALIBRATE] = RUN_OPTION_CALIBRATE},
    .is_parallel = true,
    .run = run,
};
