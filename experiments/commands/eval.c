/* nibble eval DIR [--split] [--layer-rows N] [--json] [--calibrate N] [key=value ...]
 * nibble eval DIR --sensitivity [--rows N] [--json] ...
 * nibble eval MODEL_DIR|DIR --text FILE [--stride N] [--json] ... */
#include <stdio.h>

#include "core/file.h"
#include "core/log.h"
#include "core/print.h"
#include "experiments/commands/eval_perplexity.h"
#include "experiments/commands/eval_sensitivity.h"
#include "experiments/commands/eval_text.h"
#include "experiments/commands/run_options.h"
#include "experiments/models/model_directory.h"
#include "experiments/report/summary.h"
#include "experiments/ship/packed.h"
#include "experiments/train/run.h"

enum { SPLIT, LAYER_ROWS, SENSITIVITY, ROWS, TEXT, STRIDE, JSON, CALIBRATE };

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

typedef struct EvalOptions {
    RunOptions run;
    ShadowOptions shadow;
    int64_t rows; /* of --sensitivity */
} EvalOptions;

/* What asks for something else is refused. */
static bool check_options(const Arguments *a, Error *err) {
    bool is_sensitivity = a->values[SENSITIVITY];
    if (is_sensitivity && (a->values[SPLIT] || a->values[LAYER_ROWS]))
        return FAIL(err, ERROR_INPUT,
                    "--split and --layer-rows are about the test set, --sensitivity is about the "
                    "validation split; give one of them");
    if (!is_sensitivity && a->values[ROWS])
        return FAIL(err, ERROR_INPUT, "--rows says how many rows --sensitivity sees");
    if (a->values[STRIDE])
        return FAIL(err, ERROR_INPUT, "--stride says where windows of --text begin");
    if (model_directory_is_one(a->items[0]))
        return FAIL(err, ERROR_INPUT,
                    "%s is a model's directory: say with --text FILE what text is evaluated",
                    a->items[0]);
    return true;
}

static bool read_options(const Arguments *a, EvalOptions *o, Error *err) {
    const char *layer_rows = a->values[LAYER_ROWS], *rows = a->values[ROWS];
    *o = (EvalOptions){.shadow = {.split = LOADER_TEST,
                                  .layer_rows = SHADOW_LAYER_ROWS,
                                  .has_causes = a->values[SPLIT]},
                       .rows = EVAL_SENSITIVITY_ROWS};
    TRY(check_options(a, err) && run_options_read(a, a->values[CALIBRATE], &o->run, err));
    o->run.reads_training = a->values[SENSITIVITY];
    if (layer_rows)
        TRY(run_option_count("--layer-rows", layer_rows, 0, &o->shadow.layer_rows, err));
    return !rows || run_option_count("--rows", rows, 0, &o->rows, err);
}

static bool evaluate_run(const Arguments *a, const EvalOptions *o, Experiment *e, Json **json,
                         Error *err) {
    if (a->values[SENSITIVITY]) return eval_sensitivity(e, o->rows, json, err);
    return summary_evaluate(e, &o->shadow, json, err);
}

/* ---- Text ---- */

static bool read_text_options(const Arguments *a, EvalPerplexityOptions *out, Error *err) {
    *out = (EvalPerplexityOptions){.directory = a->items[0], .text = a->values[TEXT]};
    static const int others[] = {SPLIT, LAYER_ROWS, SENSITIVITY, ROWS};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (a->values[others[i]])
            return FAIL(err, ERROR_INPUT, "%s is about a run's data; with --text there are none",
                        command_eval.options[others[i]].name);
    bool is_model = model_directory_is_one(a->items[0]);
    if (is_model && a->count > 1)
        return FAIL(err, ERROR_INPUT, "'%s': a model's directory has no settings", a->items[1]);
    if (is_model && a->values[CALIBRATE])
        return FAIL(err, ERROR_INPUT, "--calibrate is about a run; %s is a model's directory",
                    a->items[0]);
    TRY(run_options_read(a, a->values[CALIBRATE], &out->run, err));
    const char *stride = a->values[STRIDE];
    return !stride || run_option_count("--stride", stride, 1, &out->stride, err);
}

static bool run_text(const Arguments *a, Error *err) {
    Json *json = NULL;
    EvalPerplexityOptions options;
    Arena *arena = arena_new("result");
    bool ok = read_text_options(a, &options, err) && eval_perplexity(&options, &json, err);
    if (ok && a->values[JSON])
        print_out("%s\n", json_line(json, arena));
    else if (ok)
        eval_perplexity_print(json);
    json_free(json);
    arena_free(arena);
    return ok;
}

/* ---- Runs ---- */

static bool run_run(const Arguments *a, Error *err) {
    Arena *arena = arena_new("configuration");
    Experiment e = {0};
    EvalOptions options;
    Json *json = NULL;
    bool ok = read_options(a, &options, err) &&
              experiment_open_run(a->items[0], &options.run, arena, &e, err) &&
              evaluate_run(a, &options, &e, &json, err);
    if (ok) tell_stale(&e, a->items[0], arena);
    if (ok && a->values[JSON])
        print_out("%s\n", json_line(json, arena));
    else if (ok && a->values[SENSITIVITY])
        eval_sensitivity_print(json, e.task, arena);
    else if (ok)
        eval_text_print(json, e.task, arena);
    json_free(json);
    experiment_close(&e);
    arena_free(arena);
    return ok;
}

static bool run(const Arguments *a, Error *err) {
    return a->values[TEXT] ? run_text(a, err) : run_run(a, err);
}

const Command command_eval = {
    .name = "eval",
    .synopsis = "eval DIR [--split | --sensitivity | --text FILE] [--json] [key=value ...]",
    .help = "the test set, seen by the quantized network and by its shadow, the same weights with "
            "nothing quantized: scores, and what quantization does to each layer",
    .min_items = 1,
    .max_items = -1,
    .options =
        {[SPLIT] = {"--split", NULL, "tell apart what weights and activations cause"},
         [LAYER_ROWS] = {"--layer-rows", "N",
                         "compare layers over the first N rows (default 256; 0: all)"},
         [SENSITIVITY] = {"--sensitivity", NULL,
                          "rank layers by what each costs when it alone is quantized, on the "
                          "validation split"},
         [ROWS] = {"--rows", "N", "of --sensitivity, the first N rows (default 1000; 0: all)"},
         [TEXT] = {"--text", "FILE",
                   "the perplexity of a text; DIR may be a model's directory too"},
         [STRIDE] = {"--stride", "N",
                     "of --text: windows begin every N tokens, and score what none before has seen "
                     "(default: they do not overlap)"},
         [JSON] = {"--json", NULL, "one JSON object"},
         [CALIBRATE] = RUN_OPTION_CALIBRATE},
    .is_parallel = true,
    .run = run,
};
