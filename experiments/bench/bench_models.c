/* Training steps of whole models. The variants of a model take turns, each in a process of its own,
 * so that a change of the machine's speed meets them all and their memory is not mixed. */
#include <stdio.h>
#include <string.h>

#include "autograd/flops.h"
#include "core/log.h"
#include "core/print.h"
#include "experiments/bench/bench.h"
#include "experiments/bench/bench_worker.h"
#include "experiments/train/environment.h"
#include "experiments/train/trainer.h"

enum { ROUNDS = 5, WARM_UP_STEPS = 3, ROUND_STEPS_MAX = 200, DATA_BATCHES = 4 };

const char *const bench_model_names[BENCH_MODELS] = {"mlp", "cnn", "resnet20", "mobilenet"};

enum { WIDTHS_MAX = 5 };
static const struct {
    const char *settings;
    int64_t widths[WIDTHS_MAX]; /* 0: no more */
} benched[BENCH_MODELS] = {
    {"kind: mlp", {512, 512}},
    {"kind: cnn, hidden: 128", {32, 64}},
    {"kind: resnet, depth: 20", {16, 32, 64}},
    {"kind: mobilenet, stem: 32, strides: [1, 2, 1, 2, 1]", {64, 128, 128, 256, 256}},
};

enum { F32, F16, QAT_W8A8, QAT_W4A4 };
const char *const bench_variant_names[BENCH_VARIANTS] = {
    [F32] = "f32", [F16] = "f16", [QAT_W8A8] = "qat_w8a8", [QAT_W4A4] = "qat_w4a4"};
static const char *const variant_settings[BENCH_VARIANTS] = {
    [F32] = "precision: f32\n",
    [F16] = "precision: f16\n",
    [QAT_W8A8] = "quant: {bits: 8, weights: {quantizer: minmax}, activations: {quantizer: ema}}\n",
    [QAT_W4A4] = "quant: {bits: 4, rules: [{layers: 'first, last', bits: 8}]}\n",
};

static const char *widths_text(int model, int64_t factor, Arena *arena) {
    const char *text = "";
    for (int i = 0; i < WIDTHS_MAX && benched[model].widths[i]; i++)
        text = arena_format(arena, "%s%s%ld", text, i ? ", " : "",
                            (long)(factor * benched[model].widths[i]));
    return text;
}

/* So many epochs that no phase of the training ends while it is measured. */
static const char *configuration(const BenchOptions *options, int model, int variant,
                                 Arena *arena) {
    int64_t batch = options->batch;
    return arena_format(arena,
                        "model: {%s, widths: [%s]}\n"
                        "data: {kind: synthetic, height: 28, width: 28, classes: 10, train: %ld, "
                        "test: %ld, validation: 0, batch: %ld, eval_batch: %ld}\n"
                        "optimizer: {kind: sgd, lr: 0.01, momentum: 0.9, nesterov: true, "
                        "weight_decay: 5e-4}\n"
                        "schedule: constant\n"
                        "train: {epochs: 1000000}\n%s",
                        benched[model].settings, widths_text(model, options->width, arena),
                        (long)(DATA_BATCHES * batch), (long)batch, (long)batch, (long)batch,
                        variant_settings[variant]);
}

/* ---- The worker: one variant ---- */

typedef struct Job {
    const char *config_text;
    double round_seconds;
} Job;

typedef struct Round { /* the answer to a turn; the first, without steps, ends the warm-up */
    Error err;
    double step_flops;
    int64_t peak_bytes; /* growth of resident memory since before the data and the model */
    int step_count;
    double step_seconds[ROUND_STEPS_MAX];
} Round;

static bool time_step(Experiment *e, int64_t step, double *seconds, Error *err) {
    double loss, began = environment_seconds();
    TRY(trainer_step(e, step, &loss, err));
    *seconds = environment_seconds() - began;
    return true;
}

static bool warm_up(Experiment *e, int64_t *step, Round *round) {
    double ignored;
    for (; *step < WARM_UP_STEPS; ++*step) TRY(time_step(e, *step, &ignored, &round->err));
    round->step_flops = flops_of_step(e->tape);
    return true;
}

static bool run_round(Experiment *e, int64_t *step, double seconds, Round *round) {
    double spent = 0;
    round->step_count = 0;
    while (round->step_count < ROUND_STEPS_MAX && (!round->step_count || spent < seconds)) {
        double *took = &round->step_seconds[round->step_count++];
        TRY(time_step(e, (*step)++, took, &round->err));
        spent += *took;
    }
    return true;
}

static void work(int fd, const void *context) {
    const Job *job = context;
    log_set_sink(NULL, NULL); /* what it says of its images interests nobody */
    int64_t bytes_before = environment_rss_bytes(), step = 0;
    Arena *arena = arena_new("configuration");
    ExperimentConfig config;
    Experiment e = {0};
    static Round round;
    char turn;
    bool ok = config_read_text(job->config_text, "bench", 0, NULL, arena, &config, &round.err) &&
              experiment_open(&config, arena, &e, &round.err) && warm_up(&e, &step, &round);
    do {
        round.peak_bytes = environment_peak_rss_bytes() - bytes_before;
        if (!bench_worker_write(fd, &round, sizeof round) || !ok) break;
        if (!bench_worker_read(fd, &turn, sizeof turn)) break;
        ok = run_round(&e, &step, job->round_seconds, &round);
    } while (true);
}

/* ---- Taking turns ---- */

typedef struct VariantRun { /* being measured */
    BenchWorker worker;
    Round round;           /* its latest */
    BenchSamples steps;    /* seconds */
    BenchSamples over_f32; /* medians of rounds over f32's of the same round */
} VariantRun;

static bool receive(VariantRun *v, int model, int variant, Error *err) {
    if (!bench_worker_read(v->worker.fd, &v->round, sizeof v->round))
        return FAIL(err, ERROR_SYSTEM, "%s %s: its process ended early", bench_model_names[model],
                    bench_variant_names[variant]);
    if (v->round.err.code == ERROR_NONE) return true;
    *err = v->round.err;
    error_prefix(err, "%s %s", bench_model_names[model], bench_variant_names[variant]);
    return false;
}

static bool start(const BenchOptions *options, int model, int variant, VariantRun *v, Error *err) {
    Arena *arena = arena_new("configuration");
    Job job = {configuration(options, model, variant, arena), options->seconds / ROUNDS};
    *v = (VariantRun){0};
    bool ok = bench_worker_start(&v->worker, work, &job, err) && receive(v, model, variant, err);
    arena_free(arena);
    return ok;
}

/* Adds the steps of the latest round; their median. */
static double add_round(VariantRun *v) {
    BenchSamples round = {0};
    for (int i = 0; i < v->round.step_count; i++) {
        bench_samples_add(&round, v->round.step_seconds[i]);
        bench_samples_add(&v->steps, v->round.step_seconds[i]);
    }
    return bench_samples_figure(&round).median;
}

static bool take_turns(int model, VariantRun *variants, Error *err) {
    const char turn = 1;
    double f32_seconds = 0;
    for (int i = 0; i < BENCH_VARIANTS; i++) {
        VariantRun *v = &variants[i];
        if (!v->worker.pid) continue;
        if (!bench_worker_write(v->worker.fd, &turn, sizeof turn) || !receive(v, model, i, err))
            return FAIL(err, ERROR_SYSTEM, "%s: a process ended early", bench_model_names[model]);
        double seconds = add_round(v);
        if (i == F32) f32_seconds = seconds;
        if (f32_seconds > 0) bench_samples_add(&v->over_f32, seconds / f32_seconds);
    }
    return true;
}

/* ---- Reporting ---- */

static void print_row(const Json *row, const VariantRun *v) {
    double rate = 0, gflops = 0, share = 0, seconds = 0, spread = 0, ratio = 0;
    json_get_number(row, "samples_per_second", &rate);
    json_get_number(row, "gflops", &gflops);
    json_get_number(row, "share_of_peak", &share);
    json_get_number(row, "step_seconds", &seconds);
    json_get_number(row, "spread", &spread);
    print_out("%-10s %-9s %10.0f %9.1f %8.1f%% %9.2f %7.1f%% ", json_get_text(row, "name"),
              json_get_text(row, "variant"), rate, gflops, 100 * share, seconds * 1e3,
              100 * spread);
    if (json_get_number(row, "time_over_f32", &ratio))
        print_out("%8.2fx ", ratio);
    else
        print_out("%9s ", "");
    print_out("%9.1f\n", (double)v->round.peak_bytes / 1048576.0);
    fflush(stdout);
}

static void report(const VariantRun *v, int model, int variant, const BenchOptions *options,
                   const BenchMachine *machine, Json *json) {
    BenchFigure step = bench_samples_figure(&v->steps);
    double rate = v->round.step_flops / step.median;
    Json *row = json_append(json, "models");
    json_set_text(row, "name", bench_model_names[model]);
    json_set_text(row, "variant", bench_variant_names[variant]);
    json_set_number(row, "samples_per_second", (double)options->batch / step.median);
    json_set_number(row, "gflops", rate * 1e-9);
    json_set_number(row, "share_of_peak", rate / machine->fma_flops.median);
    json_set_int(row, "peak_bytes", v->round.peak_bytes);
    json_set_number(row, "step_seconds", step.median);
    json_set_number(row, "spread", step.spread);
    json_set_int(row, "steps", v->steps.count);
    if (v->over_f32.count) {
        BenchFigure ratio = bench_samples_figure(&v->over_f32);
        json_set_number(row, "time_over_f32", ratio.median);
        json_set_number(row, "time_over_f32_spread", ratio.spread);
    }
    if (options->is_printed) print_row(row, v);
}

static bool run_model(int model, const BenchOptions *options, const BenchMachine *machine,
                      Json *json, Error *err) {
    static VariantRun variants[BENCH_VARIANTS]; /* too large for a stack */
    memset(variants, 0, sizeof variants);
    bool ok = true;
    for (int i = 0; ok && i < BENCH_VARIANTS; i++)
        if (options->runs_variant[i]) ok = start(options, model, i, &variants[i], err);
    for (int round = 0; ok && round < ROUNDS; round++) ok = take_turns(model, variants, err);
    for (int i = 0; i < BENCH_VARIANTS; i++) {
        if (ok && variants[i].worker.pid) report(&variants[i], model, i, options, machine, json);
        bench_worker_end(&variants[i].worker);
    }
    return ok;
}

bool bench_models(const BenchOptions *options, const BenchMachine *machine, Json *json,
                  Error *err) {
    int models = 0;
    for (int i = 0; i < BENCH_MODELS; i++) models += options->runs_model[i];
    if (!models) return true;
    if (options->is_printed)
        print_out("\n%-10s %-9s %10s %9s %9s %9s %8s %9s %9s\n", "training", "", "images/s",
                  "GFLOP/s", "of peak", "ms/step", "spread", "over f32", "MiB");
    for (int i = 0; i < BENCH_MODELS; i++)
        if (options->runs_model[i]) TRY(run_model(i, options, machine, json, err));
    return true;
}
