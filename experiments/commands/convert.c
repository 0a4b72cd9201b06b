/* nibble convert DIR [--calibrate N] [key=value ...] */
#include <stdio.h>

#include "core/print.h"
#include "experiments/commands/run_options.h"
#include "experiments/ship/logits.h"
#include "experiments/ship/packed.h"
#include "experiments/train/run.h"
#include "experiments/train/task.h"
#include "qat/convert.h"

enum { CALIBRATE };

static bool convert(Experiment *e, const char *directory, Arena *arena, Error *err) {
    if (!e->task->is_packed)
        return FAIL(err, ERROR_INPUT,
                    "%s: its task is '%s', and quantized.h5 holds no networks of that", directory,
                    e->task->name);
    if (!qat_is_active(e->qat))
        return FAIL(err, ERROR_INPUT,
                    "%s: nothing is quantized: its settings leave every layer "
                    "float; train with quant.bits, or rules, below 32",
                    directory);
    /* What is long and can fail comes first: until then both files are those of before. */
    const char *path = run_path(arena, directory, RUN_QUANTIZED);
    const float *logits = logits_evaluate(e, arena, err);
    TRY(logits && packed_save(path, e, err) && logits_record(e, logits, directory, err));
    ModelBytes bytes = convert_bytes(e->qat);
    print_out("%s: %ld bytes of weights, scales and biases (FP32: %ld, %.1f times as many)\n", path,
              (long)bytes.quantized, (long)bytes.f32, (double)bytes.f32 / (double)bytes.quantized);
    return true;
}

static bool run(const Arguments *a, Error *err) {
    Arena *arena = arena_new("configuration");
    Experiment e = {0};
    RunOptions options;
    bool ok = run_options_read(a, a->values[CALIBRATE], &options, err) &&
              experiment_open_run(a->items[0], &options, arena, &e, err) &&
              convert(&e, a->items[0], arena, err);
    experiment_close(&e);
    arena_free(arena);
    return ok;
}

const Command command_convert = {
    .name = "convert",
    .synopsis = "convert DIR [--calibrate N] [key=value ...]",
    .help = "write quantized.h5, the packed network alone, and record the logits it must give",
    .min_items = 1,
    .max_items = -1,
    .options = {[CALIBRATE] = RUN_OPTION_CALIBRATE},
    .writes_files = true,
    .is_parallel = true,
    .run = run,
};
