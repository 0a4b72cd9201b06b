/* nibble verify DIR [--reference] */
#include <stdio.h>

#include "core/gemm.h"
#include "experiments/commands/commands.h"
#include "experiments/ship/logits.h"
#include "experiments/ship/packed.h"
#include "experiments/train/run.h"

enum { REFERENCE };

static bool run(const Arguments *a, Error *err) {
    Arena *arena = arena_new("configuration");
    Experiment e = {0};
    const char *directory = a->items[0];
    const char *path = run_path(arena, directory, RUN_QUANTIZED);
    bool ok = run_exists(directory, err);
    if (ok && !run_has(path))
        ok =
            FAIL(err, ERROR_INPUT, "%s is missing; run 'nibble convert %s' first", path, directory);
    ok = ok && packed_open(path, arena, &e, err);
    kernels_use_reference(a->values[REFERENCE] != NULL);
    int64_t rows = 0;
    ok = ok && logits_compare(&e, run_path(arena, directory, RUN_LOGITS), path, &rows, err);
    kernels_use_reference(false);
    if (ok)
        printf("verified: %ld test images, 0 differing bits in the logits of %s%s\n", (long)rows,
               path, a->values[REFERENCE] ? ", computed with the plain int32 reference" : "");
    experiment_close(&e);
    arena_free(arena);
    return ok;
}

const Command command_verify = {
    .name = "verify",
    .synopsis = "verify DIR [--reference]",
    .help = "run quantized.h5 alone over the test set; its logits must equal the recorded ones bit "
            "for bit",
    .min_items = 1,
    .max_items = 1,
    .options = {[REFERENCE] = {"--reference", NULL, "compute products in plain int32"}},
    .is_parallel = true,
    .run = run,
};
