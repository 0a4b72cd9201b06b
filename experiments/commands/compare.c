/* nibble compare CONFIG --out DIR [key=value ...]   and   nibble compare --resume DIR */
#include "experiments/compare/compare.h"
#include "experiments/commands/commands.h"

enum { OUT, RESUME };

static bool run(const Arguments *a, Error *err) {
    const char *directory = a->values[RESUME] ? a->values[RESUME] : a->values[OUT];
    if (a->values[OUT] && a->values[RESUME])
        return FAIL(err, ERROR_INPUT,
                    "--out starts a comparison, or goes on with the same one; --resume needs no "
                    "CONFIG: give one of them");
    if (!directory)
        return FAIL(err, ERROR_INPUT,
                    "give --out DIR, where the comparison is kept, or --resume DIR");
    if (!a->values[RESUME] != !!a->count)
        return FAIL(err, ERROR_INPUT, "usage: nibble %s", command_compare.synopsis);
    Arena *arena = arena_new("configuration");
    Comparison comparison;
    bool ok = a->values[RESUME] ? comparison_read_saved(directory, arena, &comparison, err)
                                : comparison_read(a->items[0], a->count - 1, a->items + 1, arena,
                                                  &comparison, err);
    ok = ok && compare_run(&comparison, directory, err);
    arena_free(arena);
    return ok;
}

const Command command_compare = {
    .name = "compare",
    .synopsis = "compare CONFIG --out DIR [key=value ...] | compare --resume DIR",
    .help = "train and evaluate methods at several bit-widths and seeds; a table and a page",
    .min_items = 0,
    .max_items = -1,
    .options = {[OUT] = {"--out", "DIR", "directory of the comparison; goes on with what is there"},
                [RESUME] = {"--resume", "DIR", "go on with the comparison in DIR"}},
    .is_parallel = true,
    .run = run,
};
