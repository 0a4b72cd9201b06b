/* What a dry record and its plan foretell (experiments/plan/record.h) is what a training step
 * takes: to the byte in float, and with quantizers but for the geometry of scales, which a dry
 * record has already. An evaluation takes no more, and hardly less. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core/parallel.h"
#include "experiments/plan/record.h"
#include "tests/prepare_cases.h"

enum { IMAGES = 20, /* enough for moments by image */ THREADS_MAX = 3 };

typedef struct Step {
    Model *model;
    Tensor x;
} Step;

static Var *record(void *context, Tape *t) {
    static const int32_t labels[IMAGES];
    const Step *step = context;
    Var *x = tape_constant(t, step->x);
    Var *logits = model_forward(step->model, t, x);
    return op_cross_entropy(t, logits, labels, 0);
}

static RecordBytes bytes_foretold(Step *step, TapeMode mode, bool is_planned) {
    Tape *t = tape_new(arena);
    mode.is_dry = true;
    tape_begin(t, mode);
    const Var *loss = record(step, t);
    if (t->error.code != ERROR_NONE) fail_msg("%s", t->error.message);
    RecordBytes bytes = record_bytes(t, is_planned ? plan_new(t, loss, arena) : NULL);
    tape_free(t);
    return bytes;
}

static void check(const char *model, const char *quant, TapeMode mode) {
    const Qat *qat = prepare(arena_format(arena, "model: %s\nquant: %s\n", model, quant));
    Step step = {qat->model, batch_of(qat->model, IMAGES, 1)};
    RecordBytes said = bytes_foretold(&step, mode, true);
    Tape *t = tape_new(arena);
    model_clear_grads(qat->model);
    Var *loss = tape_run(t, mode, record, &step);
    if (mode.needs_grad) tape_backward(t, loss, 1);
    if (t->error.code != ERROR_NONE) fail_msg("%s", t->error.message);
    int64_t taken = (int64_t)arena_peak(t->arena), staged = (int64_t)arena_peak(t->staging);
    int64_t more = !mode.needs_grad ? taken / 10 : qat_is_active(qat) ? taken / 50 : 0;
    if (record_arena(&said) < taken || record_arena(&said) > taken + more || said.staged != staged)
        fail_msg("%s, %s, %s, %d threads: foretold %lld and %lld, taken %lld and %lld", model,
                 quant, dtype_name(mode.half), parallel_threads(), (long long)record_arena(&said),
                 (long long)said.staged, (long long)taken, (long long)staged);
    tape_free(t);
}

static void steps_take_what_is_foretold(void **state) {
    (void)state;
    static const char *const models[] = {
        "{kind: mlp, widths: [40, 30], dropout: 0.2}",
        "{kind: cnn, widths: [4, 6], hidden: 5}",
        "{kind: resnet, depth: 8, widths: [4, 4, 6]}",
        "{kind: mobilenet, stem: 8, widths: [12, 16], strides: [1, 2]}",
        ("{kind: sequential, layers: [conv: {filters: 6}, batch_norm, gelu, {kind: avg_pool, "
         "kernel: 2}, flatten, layer_norm, {kind: linear, units: 3}]}"),
    };
    static const char *const quants[] = {
        "{}", "{bits: 4}",
        "{bits: 8, weights: {quantizer: mse}, activations: {quantizer: percentile, affine: true}}"};
    static const Dtype halves[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    Error err = {0};
    for (int threads = 1; threads <= THREADS_MAX; threads++) {
        assert_true(parallel_init(threads, &err));
        for (size_t i = 0; i < sizeof models / sizeof *models; i++)
            for (size_t j = 0; j < sizeof quants / sizeof *quants; j++) {
                TapeMode mode = TAPE_TRAINING;
                mode.half = halves[(i + j + (size_t)threads) % 3];
                check(models[i], quants[j], mode);
                mode.is_training = mode.needs_grad = false;
                check(models[i], quants[j], mode);
            }
    }
}

/* Of three batch norms the one behind the convolution; the others measure what they read. */
static void moments_are_asked_of_who_gives_them(void **state) {
    (void)state;
    const Qat *qat = prepare("model: {kind: sequential, layers: [batch_norm, conv: {filters: 6}, "
                             "batch_norm, gelu, batch_norm, flatten, {kind: linear, units: 3}]}\n");
    Step step = {qat->model, batch_of(qat->model, IMAGES, 1)};
    Tape *t = tape_new(arena);
    TapeMode mode = TAPE_TRAINING;
    mode.is_dry = true;
    tape_begin(t, mode);
    const Var *loss = record(&step, t);
    const Plan *plan = plan_new(t, loss, arena);
    int asked = 0;
    for (int i = 0; i < plan->count; i++) {
        if (!plan->slots[i].wants_moments) continue;
        assert_ptr_equal(t->vars[i]->op, &op_row_conv2d);
        asked++;
    }
    assert_int_equal(asked, 1);
    tape_free(t);
}

/* Without a plan every value lies apart, but one that is only reshaped. */
static void values_apart_take_what_is_foretold(void **state) {
    (void)state;
    const Qat *qat =
        prepare("model: {kind: sequential, layers: [conv: {filters: 32}, relu, flatten, "
                "{kind: linear, units: 3}]}\nquant: {}\n");
    Step step = {qat->model, batch_of(qat->model, IMAGES, 1)};
    RecordBytes said = bytes_foretold(&step, TAPE_EVALUATION, false);
    Tape *t = tape_new(arena);
    tape_begin(t, TAPE_EVALUATION);
    record(&step, t);
    assert_in_range(record_arena(&said), arena_peak(t->arena), arena_peak(t->arena) * 101 / 100);
    tape_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(steps_take_what_is_foretold, set_up, tear_down),
        cmocka_unit_test_setup_teardown(values_apart_take_what_is_foretold, set_up, tear_down),
        cmocka_unit_test_setup_teardown(moments_are_asked_of_who_gives_them, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
