/* `nibble bench`: every figure is there, and they agree with one another. How high they are is not
 * a test's business. */
#include "tests/program.h"

#define BATCH 4

static void assert_near(double a, double b) {
    if (!(a > b * 0.9999 && a < b * 1.0001)) fail_msg("%g is not %g", a, b);
}

static void check_machine(const Json *json) {
    assert_non_null(json_get_text(json, "machine.isa"));
    assert_true(number_of(json, "machine.threads") == 1);
    assert_true(number_of(json, "machine.fma_gflops") > 0);
    assert_true(number_of(json, "machine.fma_gflops_one_thread") > 0);
    assert_true(number_of(json, "machine.bandwidth_gbs") > 0);
    assert_true(number_of(json, "machine.bandwidth_gbs_one_thread") > 0);
}

static const Json *row_of(const Json *json, const char *list, const char *variant) {
    const Json *found = NULL;
    for (int i = 0; i < json_count(json, list); i++) {
        const Json *row = json_element(json, list, i);
        if (!strcmp(json_get_text(row, "variant"), variant)) found = row;
    }
    if (!found) fail_msg("no %s in %s", variant, list);
    return found;
}

/* 784-512-512-10; every weight takes part in three products, but the first layer's input has no
 * gradient. */
static void check_mlp(const Json *json, const char *variant) {
    const Json *row = row_of(json, "models", variant);
    double weights = 784 * 512 + 512 * 512 + 512 * 10;
    double flops = 2.0 * BATCH * (3 * weights - 784 * 512);
    double seconds = number_of(row, "step_seconds");
    assert_string_equal(json_get_text(row, "name"), "mlp");
    assert_near(number_of(row, "samples_per_second") * seconds, BATCH);
    assert_near(number_of(row, "gflops") * 1e9 * seconds, flops);
    assert_near(number_of(row, "share_of_peak") * number_of(json, "machine.fma_gflops"),
                number_of(row, "gflops"));
    /* weights, momentum and gradients; and not another process's worth */
    assert_true(number_of(row, "peak_bytes") > 3 * 4 * weights);
    assert_true(number_of(row, "peak_bytes") < 1e9);
    assert_true(number_of(row, "steps") >= 1);
    assert_true(number_of(row, "spread") >= 0);
    assert_true(number_of(row, "time_over_f32") > 0);
}

static void test_models(void **state) {
    (void)state;
    Json *json = json_of(run(0, "bench --json --seconds 0.02 --batch %d mlp", BATCH).out);
    check_machine(json);
    assert_int_equal(json_count(json, "kernels"), 0);
    check_mlp(json, "f32");
    check_mlp(json, "qat_w8a8");
    check_mlp(json, "qat_w4a4");
    assert_near(number_of(row_of(json, "models", "f32"), "time_over_f32"), 1);
    json_free(json);
}

/* Twice the width is four times the products between hidden layers, and less at both ends. */
static void test_width(void **state) {
    (void)state;
    double flops[2];
    for (int i = 0; i < 2; i++) {
        Json *json =
            json_of(run(0, "bench --json --seconds 0.01 --batch 2 --width %d mlp f32", i + 1).out);
        const Json *row = row_of(json, "models", "f32");
        assert_int_equal(number_of(json, "width"), i + 1);
        flops[i] = number_of(row, "gflops") / number_of(row, "samples_per_second");
        json_free(json);
    }
    assert_true(flops[1] > 2 * flops[0] && flops[1] < 4 * flops[0]);
}

static void test_every_model_trains(void **state) {
    (void)state;
    static const char *const names[] = {"mlp", "cnn", "resnet20", "mobilenet"};
    Json *json = json_of(run(0, "bench --json --seconds 0.01 --batch 2 qat_w4a4").out);
    assert_int_equal(json_count(json, "models"), 4);
    for (int i = 0; i < 4; i++) {
        const Json *row = json_element(json, "models", i);
        assert_string_equal(json_get_text(row, "name"), names[i]);
        assert_string_equal(json_get_text(row, "variant"), "qat_w4a4");
        assert_true(number_of(row, "samples_per_second") > 0);
        double ignored;
        assert_false(json_get_number(row, "time_over_f32", &ignored)); /* f32 did not run */
    }
    json_free(json);
}

static void test_kernels(void **state) {
    (void)state;
    Json *json = json_of(run(0, "bench --json --seconds 0.01 --batch 1 kernels").out);
    check_machine(json);
    assert_int_equal(json_count(json, "models"), 0);
    int count = json_count(json, "kernels");
    assert_true(count > 0);
    for (int i = 0; i < count; i++) {
        const Json *row = json_element(json, "kernels", i);
        const char *name = json_get_text(row, "name");
        for (int j = 0; j < i; j++)
            assert_string_not_equal(json_get_text(json_element(json, "kernels", j), "name"), name);
        assert_true(number_of(row, "microseconds") > 0);
        assert_near(number_of(row, "share_of_peak") * number_of(json, "machine.fma_gflops"),
                    number_of(row, "gflops"));
        if (strcmp(name, "linear 784->512 forward f32") != 0) continue;
        assert_near(number_of(row, "gflops") * 1e3 * number_of(row, "microseconds"),
                    2.0 * 784 * 512);
    }
    json_free(json);
}

static void test_tables(void **state) {
    (void)state;
    Result result = run(0, "bench --seconds 0.01 --batch 2 mlp f32 qat_w8a8");
    static const char *const parts[] = {
        "multiply-adds", "GFLOP/s",           "GB/s",
        "images/s",      "\nmlp        f32 ", "\nmlp        qat_w8a8 "};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) assert_has(result.out, parts[i]);
    assert_lacks(result.out, "w4a4");
    assert_lacks(result.out, "conv");
    assert_string_equal(result.err, "");
}

static void test_bad_input(void **state) {
    (void)state;
    assert_has(run(2, "bench resnet2").err, "did you mean 'resnet20'?");
    assert_has(run(2, "bench --seconds 0").err, "--seconds must be a number above 0");
    assert_has(run(2, "bench --seconds nan").err, "--seconds must be");
    assert_has(run(2, "bench --seconds 1s").err, "'1s'");
    assert_has(run(2, "bench --batch 0").err, "--batch must be a number from 1 to ");
    assert_has(run(2, "bench --width 0").err, "--width must be a number from 1 to ");
    assert_has(run(2, "bench --width 2x").err, "'2x'");
    assert_has(run(2, "bench --batch").err, "--batch needs N");
    Start other = {.variable = "NIBBLE_ISA", .value = "mmx"};
    Result result = program_run(other, "bench mlp");
    assert_code(result, 2, "bench mlp");
    assert_has(result.err, "NIBBLE_ISA=mmx is not known");
}

static void test_help(void **state) {
    (void)state;
    const char *text = run(0, "help bench").out;
    assert_has(text, "nibble bench [--json] [NAME...]");
    assert_has(text, "resnet20");
    assert_has(text, "--seconds S");
    assert_has(text, "--threads N");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_width),
        cmocka_unit_test(test_every_model_trains),
        cmocka_unit_test(test_kernels),
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_bad_input),
        cmocka_unit_test(test_help),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
