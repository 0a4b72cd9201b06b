/* nibble export RUN --format FORMAT --out DIR [key=value ...] */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/print.h"
#include "experiments/commands/run_options.h"
#include "experiments/export/exporter.h"
#include "experiments/train/run.h"

enum { FORMAT, OUT, FORCE };

static bool find_exporter(const char *name, Arena *arena, const Exporter **out, Error *err) {
    const char *known = "";
    for (int i = 0; i < exporter_kinds.count; i++)
        known = arena_format(arena, "%s%s%s", known, i ? ", " : "", exporter_kinds.kinds[i]->name);
    if (!name) return FAIL(err, ERROR_INPUT, "give --format, one of: %s", known);
    *out = (const Exporter *)kind_find(&exporter_kinds, name);
    return *out || FAIL(err, ERROR_INPUT, "unknown format '%s'; known: %s", name, known);
}

static bool check_out(const Exporter *exporter, const char *out, bool force, Arena *arena,
                      Error *err) {
    if (!out) return FAIL(err, ERROR_INPUT, "give --out DIR, where the files are written");
    const char *file = run_path(arena, out, exporter->file);
    if (force || access(file, F_OK)) return true;
    return FAIL(err, ERROR_INPUT, "%s is there already; replace it with --force", file);
}

static bool write_files(const Exporter *exporter, const char *run, const char *out, Experiment *e,
                        Error *err) {
    if (mkdir(out, 0777) && errno != EEXIST)
        return FAIL(err, ERROR_SYSTEM, "%s: cannot be made: %s", out, strerror(errno));
    if (exporter->write(e, out, err)) return true;
    error_prefix(err, "%s", run);
    return false;
}

static bool run(const Arguments *a, Error *err) {
    Arena *arena = arena_new("configuration");
    Experiment e = {0};
    RunOptions options;
    const Exporter *exporter = NULL;
    bool ok = find_exporter(a->values[FORMAT], arena, &exporter, err) &&
              check_out(exporter, a->values[OUT], a->values[FORCE], arena, err) &&
              run_options_read(a, NULL, &options, err) &&
              experiment_open_run(a->items[0], &options, arena, &e, err) &&
              write_files(exporter, a->items[0], a->values[OUT], &e, err);
    if (ok) print_out("%s: %s\n", a->values[OUT], exporter->kind.help);
    experiment_close(&e);
    arena_free(arena);
    return ok;
}

const Command command_export = {
    .name = "export",
    .synopsis = "export RUN --format FORMAT --out DIR [key=value ...]",
    .help =
        "write the network of RUN for other programs: peft (the adapter alone, as PEFT keeps it), "
        "huggingface (a transformer all of which was trained, from nothing or from a directory)",
    .min_items = 1,
    .max_items = -1,
    .options = {[FORMAT] = {"--format", "FORMAT", "peft, huggingface"},
                [OUT] = {"--out", "DIR", "directory of the files"},
                [FORCE] = {"--force", NULL, "replace files that are already in --out"}},
    .writes_files = true,
    .is_parallel = true,
    .run = run,
};
