/* The shadow beside the network as trained: outputs, scores, and networks of which only weights, or
 * only activations, are quantized. */
#include "tests/shadow_run.h"

#define CNN "{kind: cnn, widths: [4], hidden: 6}"

static Shadow run(ShadowOptions options) {
    Shadow shadow;
    Error err = {0};
    if (!shadow_evaluate(&experiment, &options, NULL, arena, &shadow, &err))
        fail_msg("%s", err.message);
    return shadow;
}

static void outputs_are_compared_by_the_definition(void **state) {
    (void)state;
    open_model(CNN, "{bits: 2}");
    Shadow shadow = run((ShadowOptions){.split = LOADER_TEST, .has_causes = true});
    Evaluation exact = outputs_of(LOADER_TEST, NETWORK_SHADOW);
    for (Network n = 0; n < NETWORK_COUNT; n++) {
        Evaluation given = outputs_of(LOADER_TEST, n);
        const OutputChange *change = &shadow.changes[n];
        assert_int_equal(shadow.networks[n].rows, TEST_ROWS);
        assert_true(shadow.networks[n].loss == given.loss);
        assert_true(shadow.networks[n].scores[0] == given.scores[0]);
        if (n == NETWORK_SHADOW) continue;
        double kl = divergence_of(exact.outputs, given.outputs, TEST_ROWS);
        assert_int_equal(change->outputs, TEST_ROWS);
        assert_true(fabs(change->kl - kl) < 1e-9 && kl > 1e-6);
        assert_int_equal(change->changed, changes_of(exact.outputs, given.outputs, TEST_ROWS));
    }
    assert_true(shadow.changes[NETWORK_TRAINED].changed > 0);
    assert_int_equal(shadow.layer_rows, TEST_ROWS);
}

/* Rows are classes, columns answers of the network as trained. */
static void answers_are_counted(void **state) {
    (void)state;
    open_model(CNN, "{bits: 2}");
    int64_t confusion[CLASSES * CLASSES] = {0}, plain[CLASSES * CLASSES] = {0}, right = 0, rows = 0;
    ShadowOptions options = {.split = LOADER_TEST, .layer_rows = TEST_ROWS + 1};
    Shadow shadow;
    Error err = {0};
    Evaluation trained = {.confusion = plain};
    assert_true(shadow_evaluate(&experiment, &options, confusion, arena, &shadow, &err));
    assert_true(evaluate(&experiment, LOADER_TEST, NETWORK_TRAINED, &trained, &err));
    assert_memory_equal(confusion, plain, sizeof plain);
    for (int i = 0; i < CLASSES * CLASSES; i++) rows += confusion[i];
    for (int i = 0; i < CLASSES; i++) right += confusion[i * CLASSES + i];
    assert_int_equal(rows, TEST_ROWS);
    assert_true(shadow.networks[NETWORK_TRAINED].scores[0] == (double)right / TEST_ROWS);
    assert_int_equal(shadow.layer_rows, TEST_ROWS); /* there are no more */
}

static void known_divergence(void **state) {
    (void)state;
    const float a[] = {0, 0, logf(3), 0}, b[] = {logf(3), 0, 1000 + logf(3), 1000};
    OutputChange change = {0};
    output_change_add(&change, a, b, 2, 2);
    output_change_end(&change);
    double kl = 0.5 * log(0.5 / 0.75) + 0.5 * log(0.5 / 0.25); /* and 0 */
    assert_true(fabs(change.kl - kl / 2) < 1e-7);
    assert_int_equal(change.changed, 0); /* the first of two equal ones */
    const float far[] = {-2000, 2000};
    output_change_add(&change, a, far, 1, 2);
    assert_true(isfinite(change.kl));
    assert_int_equal(change.changed, 1);
}

static void rows_are_limited(void **state) {
    (void)state;
    open_model(CNN, "{bits: 2}");
    Shadow some = run((ShadowOptions){.split = LOADER_TEST, .rows = 33, .layer_rows = 10});
    assert_int_equal(some.networks[NETWORK_TRAINED].rows, 33);
    assert_int_equal(some.changes[NETWORK_TRAINED].outputs, 33);
    assert_int_equal(some.layer_rows, 10);
    LayerReport reports[3];
    Error err = {0};
    assert_true(layers_compare(&experiment, LOADER_TEST, 10, false, reports, &err));
    assert_memory_equal(&some.layers[1].whole, &reports[1].whole, sizeof reports[1].whole);
    /* without causes the two other networks were not run */
    assert_int_equal(some.networks[NETWORK_WEIGHTS].rows, 0);
}

/* As the settings would have it that quantize one kind alone. */
static void parts_are_networks_of_their_own(void **state) {
    (void)state;
    static const char *const models[] = {CNN, "{kind: resnet, depth: 8, widths: [2, 3, 4]}"};
    for (int m = 0; m < 2; m++) {
        open_model(models[m], "{bits: 3, weights: {quantizer: minmax}, residual_bits: 4}");
        fix_ranges();
        Evaluation weights = outputs_of(LOADER_TEST, NETWORK_WEIGHTS);
        Evaluation activations = outputs_of(LOADER_TEST, NETWORK_ACTIVATIONS);
        size_t bytes = sizeof(float) * TEST_ROWS * CLASSES;
        open_model(models[m], "{bits: 3, weights: {quantizer: minmax}, activations: {bits: 32}}");
        assert_memory_equal(outputs_of(LOADER_TEST, NETWORK_TRAINED).outputs, weights.outputs,
                            bytes);
        open_model(models[m], "{bits: 3, weights: {bits: 32}, residual_bits: 4}");
        fix_ranges();
        assert_memory_equal(outputs_of(LOADER_TEST, NETWORK_TRAINED).outputs, activations.outputs,
                            bytes);
        assert_memory_not_equal(weights.outputs, activations.outputs, bytes);
    }
}

static void the_same_for_any_number_of_threads(void **state) {
    (void)state;
    open_model(CNN, "{bits: 4}");
    Shadow first = {0};
    for (int threads = 1; threads <= 3; threads++) {
        Error err = {0};
        assert_true(parallel_init(threads, &err));
        Shadow shadow = run((ShadowOptions){.split = LOADER_TEST, .has_causes = true});
        if (threads == 1) first = shadow;
        assert_memory_equal(shadow.changes, first.changes, sizeof first.changes);
        assert_memory_equal(&shadow.networks, &first.networks, sizeof first.networks);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(outputs_are_compared_by_the_definition),
        TEST(answers_are_counted),
        TEST(known_divergence),
        TEST(rows_are_limited),
        TEST(parts_are_networks_of_their_own),
        TEST(the_same_for_any_number_of_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
