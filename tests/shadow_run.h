/* Small experiments for tests of the shadow: one at a time, with what each test needs of it. */
#ifndef NIBBLE_TESTS_SHADOW_RUN_H
#define NIBBLE_TESTS_SHADOW_RUN_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "core/parallel.h"
#include "experiments/train/ranges.h"
#include "experiments/train/shadow.h"

enum { CLASSES = 5, TEST_ROWS = 53, VALIDATION_ROWS = 20 };

static Arena *arena;
static Experiment experiment;

/* Calibrated, in the phase of an evaluation. One that is open is closed. */
static inline void open_model(const char *model, const char *quant) {
    const char *text =
        arena_format(arena,
                     "model: %s\n"
                     "data: {kind: synthetic, classes: %d, height: 6, width: 6, train: 60, test: "
                     "%d, batch: 10, eval_batch: 20, validation: %d, noise: 0.8}\n"
                     "quant: %s\n",
                     model, CLASSES, TEST_ROWS, VALIDATION_ROWS, quant);
    ExperimentConfig config;
    Error err = {0};
    if (experiment.arena) experiment_close(&experiment);
    if (!config_read_text(text, "test", 0, NULL, arena, &config, &err)) fail_msg("%s", err.message);
    if (!experiment_open(&config, arena, &experiment, &err)) fail_msg("%s", err.message);
    if (qat_is_active(experiment.qat) && !ranges_calibrate(&experiment, 40, &err))
        fail_msg("%s", err.message);
    qat_set_evaluation(experiment.qat);
}

static inline int set_up(void **state) {
    (void)state;
    arena = arena_new("test");
    experiment = (Experiment){0};
    return 0;
}

static inline int tear_down(void **state) {
    (void)state;
    experiment_close(&experiment);
    arena_free(arena);
    Error err = {0};
    return parallel_init(0, &err) ? 0 : -1;
}

static inline Evaluation outputs_of(LoaderSplit split, Network network) {
    Evaluation e = {.outputs = arena_new_array(arena, float, TEST_ROWS *CLASSES)};
    Error err = {0};
    if (!evaluate(&experiment, split, network, &e, &err)) fail_msg("%s", err.message);
    return e;
}

/* Mean of KL(softmax a || softmax b), from the definition. */
static inline double divergence_of(const float *a, const float *b, int64_t rows) {
    double total = 0;
    for (int64_t i = 0; i < rows; i++, a += CLASSES, b += CLASSES) {
        double p[CLASSES], q[CLASSES], of_a = 0, of_b = 0;
        for (int j = 0; j < CLASSES; j++) of_a += p[j] = exp((double)a[j]);
        for (int j = 0; j < CLASSES; j++) of_b += q[j] = exp((double)b[j]);
        for (int j = 0; j < CLASSES; j++) total += p[j] / of_a * log(p[j] / of_a / (q[j] / of_b));
    }
    return total / (double)rows;
}

static inline int64_t changes_of(const float *a, const float *b, int64_t rows) {
    int64_t changed = 0;
    for (int64_t i = 0; i < rows; i++, a += CLASSES, b += CLASSES) {
        int first = 0, second = 0;
        for (int j = 1; j < CLASSES; j++) {
            if (a[j] > a[first]) first = j;
            if (b[j] > b[second]) second = j;
        }
        changed += first != second;
    }
    return changed;
}

/* The same in every network that has such edges. */
static inline void fix_ranges(void) {
    for (int i = 0; i < experiment.qat->edge_count; i++)
        *tensor_f32(&experiment.qat->edges[i].quant->scale->value) = 0.4f;
}

/* Ranges that depend on nothing but the weights and constants, so that networks in which other
 * layers are quantized have the same. */
#define FIXED_RANGES "weights: {quantizer: minmax}, activations: {quantizer: pact}"

#endif
