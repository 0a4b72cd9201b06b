/* GPTQ of networks: which inputs it takes, which layers it leaves, and what it says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/parallel.h"
#include "tests/ptq_cases.h"

/* Grouped, depthwise, strided; a linear layer over more than its rows. */
#define CONVOLUTIONS                                                                               \
    "{kind: sequential, layers: [conv: {name: a, filters: 8}, batch_norm, relu, "                  \
    "conv: {name: b, filters: 6, groups: 2, stride: 2}, batch_norm, relu, "                        \
    "conv: {name: c, depthwise: true, kernel: 5}, relu, flatten, linear: {name: d, units: 3}]}"

static char said[4096];

static void hear(void *context, LogLevel level, const char *message) {
    (void)context;
    size_t used = strlen(said);
    snprintf(said + used, sizeof said - used, "%s%s\n", level == LOG_WARNING ? "warning: " : "",
             message);
}

static int start(void **state) {
    said[0] = 0;
    log_set_sink(hear, NULL);
    return set_up(state);
}

static int finish(void **state) {
    log_set_sink(NULL, NULL);
    return tear_down(state);
}

static void assert_said(const char *text) {
    if (!strstr(said, text)) fail_msg("not said: '%s', but\n%s", text, said);
}

static double noted(const Ptq *p, const char *layer, const char *name) {
    for (int i = 0; i < p->note_count; i++) {
        const PtqNote *note = &p->notes[i];
        bool is_its = layer ? note->layer && !strcmp(note->layer, layer) : !note->layer;
        if (is_its && !strcmp(note->name, name)) return note->value;
    }
    fail_msg("no note %s of %s", name, layer ? layer : "the method");
    return 0;
}

/* Neighbouring pixels are much alike, so there is something to make good. */
static Ptq *smooth_ptq(const char *quant) {
    Ptq *p = ptq_of_model(CONVOLUTIONS, quant);
    for (int i = 0; i < BATCHES; i++) {
        float *x = tensor_f32(&source.batches[i]);
        int64_t channels = shape_last(source.batches[i].shape);
        for (int64_t j = channels; j < tensor_count(&source.batches[i]); j++)
            x[j] += 0.9f * x[j - channels];
    }
    return p;
}

/* ---- Layers ---- */

/* Of layer a's output, over all batches. */
typedef struct Loss {
    double sum, energy;
    float bias[8];
} Loss;

static bool add_loss(void *context, const PtqBatch *batch, Error *err) {
    (void)err;
    Loss *loss = context;
    const Var *exact = batch->exact[0].output, *now = batch->quantized[0].output;
    for (int64_t i = 0; i < var_count(exact); i++) {
        double y = (double)var_f32(exact)[i], change = (double)var_f32(now)[i] - y;
        double product = y - (double)loss->bias[i % 8];
        loss->sum += change * change;
        loss->energy += product * product;
    }
    return true;
}

/* The first layer's inputs are the same in both networks: what it is said to lose is what the
 * squares of its output lose, those of the bias left out. */
static void test_error_is_the_output_s(void **state) {
    (void)state;
    Ptq *p = smooth_ptq("{bits: 32, weights: {bits: 3, quantizer: minmax}}");
    apply(p, "[gptq]");
    Loss loss = {0};
    Error err = {0};
    ptq_bias(&p->qat->sites[0], loss.bias);
    assert_true(ptq_stream(p, PTQ_EXACT | PTQ_QUANTIZED, add_loss, &loss, &err));
    double error = noted(p, "a", "output_error");
    assert_float_equal(loss.sum / loss.energy / error, 1, 1e-4);
    double ratio = error / noted(p, "a", "output_error_nearest");
    assert_float_equal(ratio, noted(p, "a", "error_ratio"), 1e-9);
    ptq_free(p);
}

static const char *const specs[] = {
    "{bits: 32, weights: {bits: 2, quantizer: mse}}",
    "{bits: 32, weights: {bits: 3, quantizer: minmax, granularity: tensor}}",
    "{bits: 32, weights: {bits: 4, quantizer: minmax, granularity: group, group_size: 5}}",
    "{bits: 32, weights: {bits: 3, quantizer: minmax, affine: true, granularity: tensor}}",
    "{bits: 32, weights: {bits: 2, quantizer: mse, affine: true, granularity: group}}",
    "{bits: 32, weights: {bits: 3, quantizer: lsq}}",
    "{bits: 32, weights: {bits: 2, quantizer: paretoq}}",
    "{bits: 4, weights: {bits: 3, quantizer: lsq, scale: f16}, activations: {quantizer: mse}}",
    "{bits: 8, weights: {quantizer: percentile, scale: bf16}, activations: {quantizer: minmax}}",
};
static const char *const methods[] = {
    "[gptq]",
    "[{kind: gptq, act_order: true, block: 3}]",
    "[{kind: gptq, static_groups: true, inputs: exact}]",
};

/* Levels are the ones that are packed (ptq_set_levels asserts it), and better than each rounded by
 * itself, in every layer that has inputs to spare. */
static void test_every_kind_of_scale(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++)
        for (size_t j = 0; j < sizeof methods / sizeof *methods; j++) {
            Ptq *p = smooth_ptq(specs[i]);
            apply(p, methods[j]);
            static const char *const names[] = {"a", "b", "c", "d"};
            static const double inputs[] = {18, 36, 25, 96};
            for (int k = 0; k < 4; k++) {
                assert_true(noted(p, names[k], "inputs") == inputs[k]);
                if (!(noted(p, names[k], "error_ratio") < 1))
                    fail_msg("%s %s %s: %g", specs[i], methods[j], names[k],
                             noted(p, names[k], "error_ratio"));
            }
            assert_float_equal(noted(p, NULL, "error_ratio"), noted(p, "d", "error_ratio"), 1e-9);
            assert_said("output error of the 1 layers of at least 64 inputs: ");
            ptq_free(p);
        }
}

/* The inputs of a layer are those that the layers before it give, quantized; or not. */
static void test_inputs(void **state) {
    (void)state;
    double first[2], last[2];
    static const char *const of[] = {"[{kind: gptq}]", "[{kind: gptq, inputs: exact}]"};
    for (int i = 0; i < 2; i++) {
        Ptq *p = ptq_of("{bits: 32, weights: {bits: 2, quantizer: minmax}}");
        apply(p, of[i]);
        first[i] = noted(p, "a", "output_error_nearest");
        last[i] = noted(p, "c", "output_error_nearest");
        ptq_free(p);
    }
    assert_true(first[0] == first[1] && last[0] != last[1]);
}

static void test_threads(void **state) {
    (void)state;
    const float *one = NULL;
    for (int threads = 1; threads <= 4; threads++) {
        Error err = {0};
        assert_true(parallel_init(threads, &err));
        Ptq *p = smooth_ptq(specs[2]);
        apply(p, "[gptq]");
        const Tensor *w = &p->qat->sites[1].weight->value;
        if (one) assert_memory_equal(one, w->data, tensor_bytes(w));
        if (!one) one = tensor_f32(w);
        ptq_free(p);
    }
}

/* ---- What it leaves, and what it refuses ---- */

static void test_skips_functions_of_weights(void **state) {
    (void)state;
    Ptq *p = ptq_of("{bits: 32, weights: {bits: 3, quantizer: dorefa, granularity: tensor}}");
    apply(p, "[gptq]");
    assert_said("warning: a: quantizer 'dorefa' rounds a function of the weight");
    assert_said("warning: c: quantizer");
    ptq_free(p);
}

static void test_skips_what_sees_nothing(void **state) {
    (void)state;
    Ptq *p = ptq_of("{bits: 32, weights: {bits: 3, quantizer: minmax}}");
    Tensor *w = &p->qat->sites[1].weight->value; /* b, without a bias: c sees 0 */
    memset(w->data, 0, tensor_bytes(w));
    Tensor *of_c = &p->qat->sites[2].weight->value;
    float before = tensor_f32(of_c)[7];
    apply(p, "[gptq]");
    assert_said("warning: c: its input is 0 in all 12 rows of calibration data");
    assert_true(tensor_f32(of_c)[7] == before && before != 0);
    ptq_free(p);
}

static void test_says_what_is_singular(void **state) {
    (void)state;
    Ptq *p = ptq_of("{bits: 32, weights: {bits: 3, quantizer: minmax}}");
    apply(p, "[{kind: gptq, damping: 0}]");
    assert_said("warning: c: the Hessian has no Cholesky factor until 0.01 of its mean diagonal is "
                "added");
    assert_said(
        "warning: c: 256 inputs, but calibration shows each 12 times, fewer than there are: raise "
        "calibration.rows");
    assert_true(noted(p, "c", "damping") == 0.01);
    assert_true(noted(p, "a", "damping") == 0);
    ptq_free(p);
}

static void test_refuses_what_takes_too_much(void **state) {
    (void)state;
    Ptq *p = ptq_of_model("{kind: sequential, layers: [flatten, linear: {name: a, units: 300}, "
                          "linear: {name: b, units: 3}]}",
                          "{bits: 32, weights: {bits: 3, quantizer: minmax}}");
    List list = ptq_source_methods("[{kind: gptq, memory: 1}]");
    Error err = {0};
    assert_false(ptq_apply(p, &list, 0, &err));
    assert_int_equal(err.code, ERROR_INPUT);
    const char *start_of = "quantize.0 (gptq): layer 'a' has 128 inputs, for which GPTQ takes ";
    assert_int_equal(strncmp(err.message, start_of, strlen(start_of)), 0);
    assert_true(atol(err.message + strlen(start_of)) > 1 << 20);
    assert_non_null(strstr(err.message, " bytes: raise its memory, now 1 MiB"));
    ptq_free(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_error_is_the_output_s, start, finish),
        cmocka_unit_test_setup_teardown(test_every_kind_of_scale, start, finish),
        cmocka_unit_test_setup_teardown(test_inputs, start, finish),
        cmocka_unit_test_setup_teardown(test_threads, start, finish),
        cmocka_unit_test_setup_teardown(test_skips_functions_of_weights, start, finish),
        cmocka_unit_test_setup_teardown(test_skips_what_sees_nothing, start, finish),
        cmocka_unit_test_setup_teardown(test_says_what_is_singular, start, finish),
        cmocka_unit_test_setup_teardown(test_refuses_what_takes_too_much, start, finish),
    };
    Error err = {0};
    if (!parallel_init(0, &err)) return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
