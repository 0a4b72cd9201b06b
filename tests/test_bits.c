/* What layers cost, as quant.bits: auto measures it, against networks prepared, calibrated and
 * evaluated by hand. */
#include "tests/program.h"

#include <math.h>

#include "core/log.h"
#include "core/parallel.h"
#include "experiments/train/bits.h"
#include "experiments/train/evaluate.h"
#include "experiments/train/ranges.h"
#include "experiments/train/trainer.h"

#define NETWORK                                                                                    \
    "model: {kind: cnn, widths: [8, 12], hidden: 24}\n"                                            \
    "data: {kind: synthetic, height: 8, width: 8, classes: 4, train: 352, test: 40, validation: "  \
    "64, batch: 16, noise: 0.6}\n"
#define MSE "weights: {quantizer: mse}, activations: {quantizer: mse}"

enum { VALIDATION = 64, TRAIN = 352 - VALIDATION, CLASSES = 4 };

static const char *table; /* what was logged */

static void collect(void *context, LogLevel level, const char *text) {
    (void)context, (void)level;
    table = format("%s%s\n", table, text);
}

static void open_experiment(const char *more, Experiment *e) {
    ExperimentConfig config;
    Error err = {0};
    if (!file_exists("fp")) {
        text_file("fp.yaml", NETWORK "train: {epochs: 4}\noptimizer: {kind: sgd, lr: 0.05}\n");
        run(0, "train fp.yaml --out fp");
    }
    const char *text = format("%strain: {epochs: 1, init: fp}\n%s", NETWORK, more);
    if (!config_read_text(text, "test", 0, NULL, program_arena, &config, &err) ||
        !experiment_open(&config, program_arena, e, &err))
        fail_msg("%s", err.message);
}

static double row_divergence(const float *exact, const float *given) {
    double p = 0, q = 0, sum = 0;
    for (int i = 0; i < CLASSES; i++) p += exp((double)exact[i]), q += exp((double)given[i]);
    for (int i = 0; i < CLASSES; i++) {
        double log_p = (double)exact[i] - log(p), log_q = (double)given[i] - log(q);
        sum += exp(log_p) * (log_p - log_q);
    }
    return sum;
}

/* Of the network where one rule quantizes one layer. */
static double cost_by_hand(const char *rule) {
    static float outputs[2][VALIDATION * CLASSES];
    Experiment e;
    Error err = {0};
    double sum = 0;
    open_experiment(format("quant: {bits: 32, residual_bits: 32, " MSE ", rules: [%s]}\n", rule),
                    &e);
    if (!trainer_begin(&e, &err) || !ranges_calibrate(&e, TRAIN, &err)) fail_msg("%s", err.message);
    qat_set_evaluation(e.qat);
    for (int is_float = 0; is_float < 2; is_float++) {
        Evaluation evaluation = {.outputs = outputs[is_float]};
        assert_true(evaluate(&e, LOADER_VALIDATION, is_float, &evaluation, &err));
        assert_int_equal(evaluation.rows, VALIDATION);
    }
    for (int i = 0; i < VALIDATION; i++)
        sum += row_divergence(outputs[1] + i * CLASSES, outputs[0] + i * CLASSES);
    experiment_close(&e);
    return sum / VALIDATION;
}

/* A layer's row of the table: its bits and its cost. */
static void read_row(const char *layer, int *bits, double *cost) {
    const char *row = strstr(table, format("bits   %s ", layer));
    assert_non_null(row);
    int length = 0;
    assert_int_equal(sscanf(row, "bits %*s %d bits %*d bytes KL %lf%n", bits, cost, &length), 2);
    assert_true(length > 0);
}

static void check_costs(const char *settings, const char *key) {
    static const char *const layers[] = {"conv1", "conv2", "hidden", "classes"};
    Experiment e;
    double sum = 0;
    table = "";
    LogTarget outer = log_set_sink(collect, NULL);
    open_experiment(settings, &e);
    log_set_sink(outer.sink, outer.context);
    experiment_close(&e);
    for (int i = 0; i < 4; i++) {
        int bits;
        double cost, expected;
        read_row(layers[i], &bits, &cost);
        expected = cost_by_hand(format("{layers: %s, %s: %d}", layers[i], key, bits));
        assert_true(expected > 1e-5);
        if (!(fabs(cost - expected) < 1e-6 + 1e-4 * expected))
            fail_msg("%s at %d bits: %.6f, not %.6f", layers[i], bits, cost, expected);
        sum += expected;
    }
    const char *last = strstr(table, "the packed network");
    assert_non_null(last);
    double total = strtod(strstr(last, "KL ") + 3, NULL);
    assert_true(fabs(total - sum) < 1e-5 + 1e-4 * sum);
}

/* Whatever quantizers train later. */
static void test_costs(void **state) {
    (void)state;
    check_costs("quant: {bits: auto, budget_bytes: 1000}\n", "bits");
    check_costs(
        "quant: {bits: auto, budget_bytes: 1700, activations: {quantizer: lsq_plus, affine: "
        "false}}\n",
        "bits");
}

static void test_costs_of_weights_alone(void **state) {
    (void)state;
    check_costs("quant: {bits: auto, budget_bytes: 1300, activations: {bits: 8}}\n", "weight_bits");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_costs),
        cmocka_unit_test(test_costs_of_weights_alone),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
