/* nibble bench [--json] [NAME...] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/kernels.h"
#include "core/settings/field.h"
#include "experiments/bench/bench.h"
#include "experiments/commands/commands.h"

enum { JSON, SECONDS, BATCH, WIDTH };
enum { BATCH_MAX = 4096, WIDTH_MAX = 64 };
#define SECONDS_MAX   3600.0
#define SECONDS_USUAL 3.0
#define BATCH_USUAL   128

static const char *const kernels_name = "kernels";

static bool read_seconds(const char *text, double *seconds, Error *err) {
    char *end;
    *seconds = strtod(text, &end);
    if (end != text && !*end && *seconds > 0 && *seconds <= SECONDS_MAX) return true;
    return FAIL(err, ERROR_INPUT, "--seconds must be a number above 0, at most %g, not '%s'",
                SECONDS_MAX, text);
}

static bool read_count(const char *option, const char *text, int most, int64_t *count, Error *err) {
    char *end;
    long value = strtol(text, &end, 10);
    *count = value;
    if (end != text && !*end && value >= 1 && value <= most) return true;
    return FAIL(err, ERROR_INPUT, "%s must be a number from 1 to %d, not '%s'", option, most, text);
}

/* Marks `word` in `wanted` where it is one of `names`. */
static bool choose(const char *word, const char *const *names, int count, bool *wanted) {
    for (int i = 0; i < count; i++) {
        if (strcmp(names[i], word) != 0) continue;
        wanted[i] = true;
        return true;
    }
    return false;
}

static bool fail_name(const char *word, Error *err) {
    const char *names[1 + BENCH_MODELS + BENCH_VARIANTS] = {kernels_name};
    memcpy(names + 1, bench_model_names, sizeof bench_model_names);
    memcpy(names + 1 + BENCH_MODELS, bench_variant_names, sizeof bench_variant_names);
    const char *near = nearest_name(word, names, sizeof names / sizeof *names);
    return FAIL(err, ERROR_INPUT,
                "nothing to measure is called '%s'%s%s%s; 'nibble help bench' lists the names",
                word, near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

static void choose_all(bool *wanted, int count) {
    for (int i = 0; i < count; i++) wanted[i] = true;
}

/* A model without a variant means all variants of it, a variant without a model all models. */
static bool read_names(const Arguments *a, BenchOptions *options, Error *err) {
    bool has_model = false, has_variant = false;
    for (int i = 0; i < a->count; i++) {
        const char *word = a->items[i];
        if (choose(word, bench_model_names, BENCH_MODELS, options->runs_model))
            has_model = true;
        else if (choose(word, bench_variant_names, BENCH_VARIANTS, options->runs_variant))
            has_variant = true;
        else if (!choose(word, &kernels_name, 1, &options->runs_kernels))
            return fail_name(word, err);
    }
    if (!a->count) options->runs_kernels = true;
    if (!a->count || (has_variant && !has_model)) choose_all(options->runs_model, BENCH_MODELS);
    if (!a->count || (has_model && !has_variant)) choose_all(options->runs_variant, BENCH_VARIANTS);
    return true;
}

static bool read_options(const Arguments *a, BenchOptions *options, Error *err) {
    *options = (BenchOptions){
        .seconds = SECONDS_USUAL, .batch = BATCH_USUAL, .width = 1, .is_printed = !a->values[JSON]};
    if (a->values[SECONDS]) TRY(read_seconds(a->values[SECONDS], &options->seconds, err));
    if (a->values[BATCH])
        TRY(read_count("--batch", a->values[BATCH], BATCH_MAX, &options->batch, err));
    if (a->values[WIDTH])
        TRY(read_count("--width", a->values[WIDTH], WIDTH_MAX, &options->width, err));
    return read_names(a, options, err);
}

static bool measure(const BenchOptions *options, Json *json, Error *err) {
    BenchMachine machine;
    TRY(bench_machine(options, json, &machine, err));
    json_set_int(json, "batch", options->batch);
    json_set_int(json, "width", options->width);
    json_set_number(json, "seconds", options->seconds);
    if (options->runs_kernels) TRY(bench_kernels(options, &machine, json, err));
    return bench_models(options, &machine, json, err);
}

static bool run(const Arguments *a, Error *err) {
    BenchOptions options;
    TRY(read_options(a, &options, err));
    Json *json = json_new();
    bool ok = measure(&options, json, err);
    if (ok && !options.is_printed) {
        Arena *arena = arena_new("json");
        fputs(json_indented(json, arena), stdout);
        arena_free(arena);
    }
    json_free(json);
    return ok;
}

const Command command_bench = {
    .name = "bench",
    .synopsis = "bench [--json] [NAME...]",
    .help = "measure this machine, and on it the kernels and training steps of the models; names "
            "choose: kernels, mlp, cnn, resnet20, mobilenet, f32, f16, qat_w8a8, qat_w4a4",
    .min_items = 0,
    .max_items = -1,
    .options = {[JSON] = {"--json", NULL, "machine-readable"},
                [SECONDS] = {"--seconds", "S", "for each variant of a model (default: 3)"},
                [BATCH] = {"--batch", "N", "images per training step (default: 128)"},
                [WIDTH] = {"--width", "K", "K times the widths of the models (default: 1)"}},
    .is_parallel = true,
    .run = run,
};
