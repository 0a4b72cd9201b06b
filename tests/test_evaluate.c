/* Evaluation: loss, accuracy, confusion and logits of a split, the shadow. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "core/parallel.h"
#include "experiments/train/evaluate.h"
#include "experiments/train/ranges.h"

static Arena *arena;
static Experiment experiment;

enum { CLASSES = 5, TEST_ROWS = 53 };

static void open_with(const char *quant, int eval_batch) {
    const char *text = arena_format(
        arena,
        "model: {kind: cnn, widths: [4], hidden: 6}\n"
        "data: {kind: synthetic, classes: %d, height: 6, width: 6, train: 60, test: %d, batch: 10, "
        "eval_batch: %d, validation: 20, noise: 0.8, prefetch: false}\n"
        "quant: %s\n",
        CLASSES, TEST_ROWS, eval_batch, quant);
    ExperimentConfig config;
    Error err = {0};
    if (!config_read_text(text, "test", 0, NULL, arena, &config, &err)) fail_msg("%s", err.message);
    if (!experiment_open(&config, arena, &experiment, &err)) fail_msg("%s", err.message);
    if (qat_is_active(experiment.qat) && !ranges_calibrate(&experiment, 40, &err))
        fail_msg("%s", err.message);
    qat_set_evaluation(experiment.qat);
}

static int set_up(void **state) {
    (void)state;
    arena = arena_new("test");
    experiment = (Experiment){0};
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    experiment_close(&experiment);
    arena_free(arena);
    Error err = {0};
    return parallel_init(0, &err) ? 0 : -1;
}

static Evaluation run(bool is_float) {
    Evaluation e = {.confusion = arena_new_array(arena, int64_t, CLASSES * CLASSES),
                    .outputs = arena_new_array(arena, float, TEST_ROWS *CLASSES)};
    Error err = {0};
    if (!evaluate(&experiment, LOADER_TEST, is_float, &e, &err)) fail_msg("%s", err.message);
    return e;
}

/* -log softmax, in double. */
static double loss_of(const float *logits, int label) {
    double sum = 0;
    for (int i = 0; i < CLASSES; i++) sum += exp((double)logits[i] - (double)logits[label]);
    return log(sum);
}

static int argmax(const float *logits) {
    int best = 0;
    for (int i = 1; i < CLASSES; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

/* The last of the batches is a smaller one. */
static void the_figures_follow_from_the_logits(void **state) {
    (void)state;
    open_with("{bits: 4}", 8);
    Evaluation e = run(false);
    assert_int_equal(e.rows, TEST_ROWS);
    double loss = 0;
    int64_t correct = 0, expected[CLASSES * CLASSES] = {0};
    for (int i = 0; i < TEST_ROWS; i++) {
        const float *logits = e.outputs + (ptrdiff_t)i * CLASSES;
        int label = i % CLASSES; /* labels go round the classes */
        loss += loss_of(logits, label);
        correct += argmax(logits) == label;
        expected[label * CLASSES + argmax(logits)]++;
    }
    assert_true(fabs(e.loss - loss / TEST_ROWS) < 1e-5);
    assert_true(e.scores[0] == (double)correct / TEST_ROWS);
    assert_memory_equal(e.confusion, expected, sizeof expected);
}

static void the_shadow_is_another_network_and_leaves_no_trace(void **state) {
    (void)state;
    open_with("{bits: 2}", 50);
    Evaluation quantized = run(false);
    Evaluation shadow = run(true);
    size_t bytes = sizeof(float) * TEST_ROWS * CLASSES;
    assert_memory_not_equal(shadow.outputs, quantized.outputs, bytes);
    assert_memory_equal(run(false).outputs, quantized.outputs, bytes);
    experiment_close(&experiment);
    open_with("{}", 50);
    assert_memory_equal(run(false).outputs, shadow.outputs, bytes);
}

static void the_result_does_not_depend_on_the_thread_count(void **state) {
    (void)state;
    Evaluation first = {0};
    for (int threads = 1; threads <= 3; threads++) {
        Error err = {0};
        open_with("{bits: 4}", 7);
        assert_true(parallel_init(threads, &err));
        Evaluation e = run(false);
        if (threads == 1) first = e;
        assert_memory_equal(e.outputs, first.outputs, sizeof(float) * TEST_ROWS * CLASSES);
        assert_true(e.loss == first.loss && e.scores[0] == first.scores[0]);
        experiment_close(&experiment);
    }
}

static void values_that_are_not_finite_are_named(void **state) {
    (void)state;
    open_with("{}", 50);
    tensor_f32(&model_find_param(experiment.model, "hidden.weight")->value)[3] = INFINITY;
    Evaluation e = {0};
    Error err = {0};
    assert_false(evaluate(&experiment, LOADER_TEST, false, &e, &err));
    assert_int_equal(err.code, ERROR_NUMERIC);
    assert_non_null(strstr(err.message, "hidden"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(the_figures_follow_from_the_logits),
        TEST(the_shadow_is_another_network_and_leaves_no_trace),
        TEST(the_result_does_not_depend_on_the_thread_count),
        TEST(values_that_are_not_finite_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
