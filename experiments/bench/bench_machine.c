/* The machine: multiply-adds in registers and a walk through memory, on one and on all threads. */
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "core/arena.h"
#include "core/kernels/peak.h"
#include "core/parallel.h"
#include "core/print.h"
#include "experiments/bench/bench.h"
#include "experiments/bench/bench_worker.h"
#include "experiments/train/environment.h"

enum { RUNS_MIN = 5 };
#define PEAK_SECONDS 0.005 /* of a run: long beside what starting threads takes */

typedef struct Walk { /* the triad's arrays */
    int64_t count;
    float *a, *b, *c;
} Walk;

/* Together half as much again as the last cache; a virtual machine may be told of its host's, which
 * is larger than what it gets, hence the upper end. At most an eighth of the memory. */
static Walk walk_new(Arena *arena) {
    const int64_t least = 64 << 20, most = 256 << 20;
    int64_t memory = (int64_t)sysconf(_SC_PHYS_PAGES) * (int64_t)sysconf(_SC_PAGESIZE);
    int64_t bytes = sysconf(_SC_LEVEL3_CACHE_SIZE) / 2;
    if (bytes < least) bytes = least;
    if (bytes > most) bytes = most;
    if (memory > 0 && bytes > memory / 24) bytes = memory / 24;
    Walk walk = {.count = bytes / (int64_t)sizeof(float)};
    walk.a = arena_new_array(arena, float, walk.count);
    walk.b = arena_new_array(arena, float, walk.count);
    walk.c = arena_new_array(arena, float, walk.count);
    return walk;
}

static double measure_flops(int64_t rounds) {
    double began = environment_seconds();
    double flops = peak_multiply_adds(rounds);
    return flops / (environment_seconds() - began);
}

static double measure_bandwidth(const Walk *walk) {
    double began = environment_seconds();
    peak_triad(walk->b, walk->c, 0.5f, walk->count, walk->a);
    return 3.0 * sizeof(float) * (double)walk->count / (environment_seconds() - began);
}

/* The quickest of several runs decides: a delay must not pass for work. */
static int64_t find_rounds(void) {
    for (int64_t rounds = 1000;; rounds *= 2) {
        double least = INFINITY;
        for (int i = 0; i < RUNS_MIN && least >= PEAK_SECONDS; i++) {
            double began = environment_seconds();
            peak_multiply_adds(rounds);
            least = fmin(least, environment_seconds() - began);
        }
        if (least >= PEAK_SECONDS) return rounds;
    }
}

/* What a machine can do at its best: whatever else runs only takes away from it. */
static BenchFigure peak_figure(const BenchSamples *samples) {
    BenchFigure figure = bench_samples_figure(samples);
    for (int i = 0; i < samples->count; i++)
        if (samples->value[i] > figure.median) figure.median = samples->value[i];
    return figure;
}

/* One and all threads in turn, so that a change of the machine's speed meets both. */
static bool measure(double seconds, BenchMachine *machine, Error *err) {
    static BenchSamples flops[2], bandwidth[2]; /* too large for a stack */
    Arena *arena = arena_new("memory bandwidth");
    Walk walk = walk_new(arena);
    int threads[] = {1, parallel_threads()};
    int64_t rounds = find_rounds();
    double began = environment_seconds();
    for (int run = 0; run < RUNS_MIN || environment_seconds() - began < seconds; run++) {
        for (int i = 0; i < 2; i++) {
            TRY(parallel_init(threads[i], err));
            bench_samples_add(&flops[i], measure_flops(rounds));
            bench_samples_add(&bandwidth[i], measure_bandwidth(&walk));
        }
    }
    arena_free(arena);
    *machine = (BenchMachine){.fma_flops_one = peak_figure(&flops[0]),
                              .fma_flops = peak_figure(&flops[1]),
                              .bandwidth_one = peak_figure(&bandwidth[0]),
                              .bandwidth = peak_figure(&bandwidth[1])};
    return true;
}

typedef struct Answer {
    Error err;
    BenchMachine machine;
} Answer;

static void work(int fd, const void *context) {
    const BenchOptions *options = context;
    Answer answer = {0};
    measure(options->seconds / 2, &answer.machine, &answer.err);
    bench_worker_write(fd, &answer, sizeof answer);
}

static void set_figure(Json *json, const char *name, double unit, BenchFigure figure) {
    char path[JSON_NAME_MAX];
    snprintf(path, sizeof path, "machine.%s", name);
    json_set_number(json, path, figure.median / unit);
    snprintf(path, sizeof path, "machine.%s_spread", name);
    json_set_number(json, path, figure.spread);
}

static void print(const Json *json, const BenchMachine *machine) {
    const char *name = json_get_text(json, "machine.name");
    print_out("%s, %s kernels, %s, %d thread%s\n", name ? name : "unknown processor",
              json_get_text(json, "machine.isa"), json_get_text(json, "blas"), parallel_threads(),
              parallel_threads() == 1 ? "" : "s");
    print_out("multiply-adds     %8.1f GFLOP/s  spread %4.1f%%  (one thread %.1f)\n",
              machine->fma_flops.median * 1e-9, 100 * machine->fma_flops.spread,
              machine->fma_flops_one.median * 1e-9);
    print_out("memory            %8.1f GB/s     spread %4.1f%%  (one thread %.1f)\n",
              machine->bandwidth.median * 1e-9, 100 * machine->bandwidth.spread,
              machine->bandwidth_one.median * 1e-9);
}

bool bench_machine(const BenchOptions *options, Json *json, BenchMachine *machine, Error *err) {
    BenchWorker worker;
    Answer answer = {0};
    TRY(bench_worker_start(&worker, work, options, err));
    bool is_read = bench_worker_read(worker.fd, &answer, sizeof answer);
    if (!bench_worker_end(&worker) || !is_read)
        return FAIL(err, ERROR_SYSTEM, "the measurement of the machine ended early");
    if (answer.err.code != ERROR_NONE) {
        *err = answer.err;
        return false;
    }
    *machine = answer.machine;
    environment_describe(json);
    json_set_text(json, "machine.name", json_get_text(json, "machine.cpu"));
    json_set_text(json, "machine.isa", json_get_text(json, "kernels"));
    json_set_int(json, "machine.threads", parallel_threads());
    set_figure(json, "fma_gflops", 1e9, machine->fma_flops);
    set_figure(json, "fma_gflops_one_thread", 1e9, machine->fma_flops_one);
    set_figure(json, "bandwidth_gbs", 1e9, machine->bandwidth);
    set_figure(json, "bandwidth_gbs_one_thread", 1e9, machine->bandwidth_one);
    if (options->is_printed) print(json, machine);
    return true;
}
