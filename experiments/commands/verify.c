/* nibble verify DIR [--reference] [data.path=...] */
#include <stdio.h>

#include "core/file.h"
#include "core/kernels.h"
#include "core/print.h"
#include "experiments/commands/run_options.h"
#include "experiments/ship/logits.h"
#include "experiments/ship/packed.h"
#include "experiments/train/run.h"

enum { REFERENCE };

/* The test images, from where the run's configuration says that they lie. */
static bool open_images(const Arguments *a, Arena *arena, Dataset *out, Error *err) {
    ExperimentConfig config;
    RunOptions options;
    const char *path = run_path(arena, a->items[0], RUN_CONFIG);
    TRY(run_options_read(a, NULL, &options, err));
    TRY(config_read_run(path, options.override_count, options.overrides, arena, &config, err));
    if (dataset_open_test(config.data, arena, out, err)) return true;
    config_place(&config, err);
    return false;
}

static bool check_run(const char *directory, const char *packed, Error *err) {
    TRY(run_exists(directory, err));
    FileState state = file_find(packed, err);
    if (state != FILE_ABSENT) return state == FILE_REGULAR;
    return FAIL(err, ERROR_INPUT, "%s is missing; run 'nibble convert %s' first", packed,
                directory);
}

static bool run(const Arguments *a, Error *err) {
    Arena *arena = arena_new("packed model and test images");
    const char *directory = a->items[0], *path = run_path(arena, directory, RUN_QUANTIZED);
    PackedModel m = {0};
    Dataset images;
    bool ok = check_run(directory, path, err) && packed_open(path, arena, &m, err) &&
              packed_check_run(directory, err) && open_images(a, arena, &images, err);
    kernels_use_reference(a->values[REFERENCE] != NULL);
    ok = ok && logits_compare(&m, &images, directory, err);
    kernels_use_reference(false);
    if (ok)
        print_out("verified: %ld test images, 0 differing bits in the logits of %s%s\n",
                  (long)images.test.count, path,
                  a->values[REFERENCE] ? ", computed with the plain int32 reference" : "");
    packed_model_close(&m);
    arena_free(arena);
    return ok;
}

const Command command_verify = {
    .name = "verify",
    .synopsis = "verify DIR [--reference] [data.path=...]",
    .help = "run quantized.h5 alone over the test images, found where the run's configuration or "
            "data.path says; its logits must equal the recorded ones bit for bit, and it must be "
            "of the "
            "network that the run reports now",
    .min_items = 1,
    .max_items = -1,
    .options = {[REFERENCE] = {"--reference", NULL, "compute products in plain int32"}},
    .is_parallel = true,
    .run = run,
};
