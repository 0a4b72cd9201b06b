/* nibble merge RUN --out DIR [--route ROUTE] [--text FILE] [key=value ...] */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/json.h"
#include "core/print.h"
#include "experiments/adapter/merge.h"
#include "experiments/commands/run_options.h"
#include "experiments/train/run.h"

enum { OUT, ROUTE, TEXT, FORCE, JSON };
enum { OUTPUTS = 1024 /* that are compared */ };

static bool find_route(const char *name, MergeRoute *out, Error *err) {
    *out = MERGE_DEQUANTIZED;
    if (!name) return true;
    for (MergeRoute i = 0; i < MERGE_ROUTES; i++)
        if (!strcmp(name, merge_route_names[i])) {
            *out = i;
            return true;
        }
    return FAIL(
        err, ERROR_INPUT,
        "unknown route '%s'; known: f16 (the weights as they were, and the update), "
        "dequantized (the network that was trained), requantized (on the base's grid again)",
        name);
}

static bool check_out(const char *out, Arena *arena, Error *err) {
    if (!out) return FAIL(err, ERROR_INPUT, "give --out DIR, where the merged network is written");
    const char *file = run_path(arena, out, "model.safetensors");
    if (access(file, F_OK)) return true;
    return FAIL(err, ERROR_INPUT, "%s is there already; name another --out", file);
}

static void print_kept(const char *name, int width, const MergeKept *kept) {
    if (!kept->is_possible)
        print_out("%-*s %10s %10s\n", width, name, "-", "-");
    else
        print_out("%-*s %10.4f %7.1f dB\n", width, name, merge_gain(kept),
                  deviation_of(&kept->sums).sqnr_db);
}

static void print_table(const Merge *m, const char *text, const char *directory) {
    int width = 24;
    for (int i = 0; i < m->count; i++)
        if ((int)strlen(m->layers[i].name) > width) width = (int)strlen(m->layers[i].name);
    print_out("%-*s %10s %10s\n", width, "kept of the update", "gain", "SQNR");
    for (MergeRoute i = 0; i < MERGE_ROUTES; i++)
        print_kept(merge_route_names[i], width, &m->all[i]);
    print_out("\nlayers, route %s\n", merge_route_names[m->route]);
    for (int i = 0; i < m->count; i++)
        print_kept(m->layers[i].name, width, &m->layers[i].kept[m->route]);
    print_out("\nKL of the outputs from the run's: %.3g nats, over %ld %s %s; %ld of %ld answers "
              "differ\n",
              m->change.kl, (long)m->rows, text ? "windows of" : "rows of",
              text ? text : "the test set", (long)m->change.changed, (long)m->change.outputs);
    print_out("merged: %s\n", directory);
}

static void set_kept(Json *json, const char *path, const MergeKept *kept, Arena *arena) {
    if (!kept->is_possible) return;
    json_set_number(json, arena_format(arena, "%s.gain", path), merge_gain(kept));
    json_set_number(json, arena_format(arena, "%s.sqnr_db", path),
                    deviation_of(&kept->sums).sqnr_db);
}

static void print_json(const Merge *m, Arena *arena) {
    Json *json = json_new();
    json_set_text(json, "route", merge_route_names[m->route]);
    for (MergeRoute i = 0; i < MERGE_ROUTES; i++)
        set_kept(json, arena_format(arena, "routes.%s", merge_route_names[i]), &m->all[i], arena);
    json_set_number(json, "kl", m->change.kl);
    json_set_int(json, "changed", m->change.changed);
    json_set_int(json, "outputs", m->change.outputs);
    json_set_int(json, "rows", m->rows);
    for (int i = 0; i < m->count; i++) {
        Json *layer = json_append(json, "layers");
        json_set_text(layer, "name", m->layers[i].name);
        for (MergeRoute j = 0; j < MERGE_ROUTES; j++)
            set_kept(layer, merge_route_names[j], &m->layers[i].kept[j], arena);
    }
    puts(json_line(json, arena));
    json_free(json);
}

static bool merge(Experiment *e, const Arguments *a, MergeRoute route, Arena *arena, Error *err) {
    const char *directory = a->values[OUT];
    Merge merge;
    if (!e->adapter)
        return FAIL(err, ERROR_INPUT,
                    "%s has no adapter: all of its weights were trained, and there is nothing to "
                    "merge",
                    a->items[0]);
    TRY(merge_measure(e, route, a->values[FORCE], arena, &merge, err));
    TRY(merge_compare(e, &merge, a->values[TEXT], OUTPUTS, err));
    if (mkdir(directory, 0777) && errno != EEXIST)
        return FAIL(err, ERROR_SYSTEM, "%s: cannot be made: %s", directory, strerror(errno));
    TRY(merge_write(e, &merge, directory, err));
    if (a->values[JSON])
        print_json(&merge, arena);
    else
        print_table(&merge, a->values[TEXT], directory);
    return true;
}

static bool run(const Arguments *a, Error *err) {
    Arena *arena = arena_new("merged network");
    Experiment e = {0};
    RunOptions options;
    MergeRoute route;
    bool ok = find_route(a->values[ROUTE], &route, err) && check_out(a->values[OUT], arena, err) &&
              run_options_read(a, NULL, &options, err) &&
              experiment_open_run(a->items[0], &options, arena, &e, err) &&
              merge(&e, a, route, arena, err);
    experiment_close(&e);
    arena_free(arena);
    return ok;
}

const Command command_merge = {
    .name = "merge",
    .synopsis = "merge RUN --out DIR [--route ROUTE] [--text FILE] [key=value ...]",
    .help =
        "put the adapter of RUN into the weights that it stands on, in f16 (safetensors); tells "
        "what that keeps of the update",
    .min_items = 1,
    .max_items = -1,
    .options = {[OUT] = {"--out", "DIR", "directory of the merged network"},
                [ROUTE] = {"--route", "ROUTE",
                           "f16, dequantized (default: the network that was trained), requantized"},
                [TEXT] = {"--text", "FILE",
                          "compare outputs on this text; of a network of text (default: on the "
                          "test set)"},
                [FORCE] = {"--force", NULL, "merge though the route loses the update"},
                [JSON] = {"--json", NULL, "print what is kept as one JSON object"}},
    .writes_files = true,
    .is_parallel = true,
    .run = run,
};
