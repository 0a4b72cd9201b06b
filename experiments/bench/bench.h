/* The parts of `nibble bench`: the machine, the kernels, the models' training steps. Each adds its
 * figures to a JSON object and, unless told not to, prints them as a table. */
#ifndef NIBBLE_EXPERIMENTS_BENCH_BENCH_H
#define NIBBLE_EXPERIMENTS_BENCH_BENCH_H

#include "core/json.h"
#include "experiments/bench/bench_samples.h"

enum { BENCH_MODELS = 4, BENCH_VARIANTS = 4 };
extern const char *const bench_model_names[BENCH_MODELS];
extern const char *const bench_variant_names[BENCH_VARIANTS];

typedef struct BenchOptions {
    double seconds; /* to measure a variant of a model; kernels and machine take parts of it */
    int64_t batch, width; /* width: times that of the models as they are */
    bool is_printed;      /* a table on stdout */
    bool runs_kernels, runs_model[BENCH_MODELS], runs_variant[BENCH_VARIANTS];
} BenchOptions;

/* What others are compared with. */
typedef struct BenchMachine {
    BenchFigure fma_flops, bandwidth;         /* of all threads: FLOP/s, bytes/s */
    BenchFigure fma_flops_one, bandwidth_one; /* of one thread */
} BenchMachine;

bool bench_machine(const BenchOptions *options, Json *json, BenchMachine *machine, Error *err);
bool bench_kernels(const BenchOptions *options, const BenchMachine *machine, Json *json,
                   Error *err);
bool bench_models(const BenchOptions *options, const BenchMachine *machine, Json *json, Error *err);

#endif
