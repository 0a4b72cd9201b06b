/* Preparing: what is folded, rules, what is installed, phases, reports, and what is refused. Edges
 * are in test_prepare_edges.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "autograd/layers.h"
#include "autograd/layers/batch_norm.h"
#include "core/log.h"
#include "tests/prepare_cases.h"

/* ---- Folding. ---- */

static void only_a_norm_that_alone_reads_is_folded(void **state) {
    (void)state;
    static const Case cases[] = {
        {LAYERS(CONV(a) ", batch_norm"), "{bits: 4, activations: {bits: 32}}", "",
         "a 4 +batch_norm1; linear1 4; "},
        {LAYERS(CONV(a) ", residual: {main: [batch_norm]}"), "{bits: 4, activations: {bits: 32}}",
         "", "a 4; linear1 4; "},
        {LAYERS(CONV(a) ", branches: {branches: [" BRANCH("batch_norm") ", " BRANCH("relu") "]}"),
         "{bits: 4, activations: {bits: 32}}", "", "a 4; linear1 4; "},
        {LAYERS(CONV(a) ", branches: {branches: [" BRANCH("batch_norm") ", " BRANCH(
             "batch_norm") "]}"),
         "{bits: 4, activations: {bits: 32}}", "", "a 4; linear1 4; "},
        {LAYERS(CONV(a) ", relu, batch_norm"), "{bits: 4, activations: {bits: 32}}", "",
         "a 4; linear1 4; "},
        {LAYERS(CONV(a) ", dropout, batch_norm"), "{bits: 4, activations: {bits: 32}}", "",
         "a 4; linear1 4; "},
        {LAYERS("flatten, linear: {name: l, units: 4}, batch_norm"),
         "{bits: 4, activations: {bits: 32}}", "", "l 4 +batch_norm1; linear2 4; "},
        {LAYERS(CONV(a) ", batch_norm"), "{bits: 4, rules: [{layers: a, weight_bits: 32}]}",
         "input > a 4s; flatten1 > linear1 4s; ", "a -; linear1 4; "},
    };
    RUN_CASES(cases);
}

static void a_folded_norm_is_joined_and_no_other(void **state) {
    (void)state;
    Qat *qat =
        prepare("model: " LAYERS(CONV(a) ", batch_norm, relu, batch_norm") "\n"
                                                                           "quant: {bits: 8}\n");
    assert_true(batch_norm_is_joined(model_find_module(qat->model, "batch_norm1")));
    assert_false(batch_norm_is_joined(model_find_module(qat->model, "batch_norm2")));
}

/* ---- Rules. ---- */

static void rules_name_layers(void **state) {
    (void)state;
    static const char model[] = "{kind: cnn, widths: [4, 6], hidden: 5}";
    const Case cases[] = {
        {model,
         "{bits: 8, activations: {bits: 32}, rules: [{layers: \"conv*\", bits: 4}, "
         "{layers: conv2, weight_bits: 2}]}",
         "input > conv1 4s; pool1 > conv2 4u; ",
         "conv1 4 +norm1; conv2 2 +norm2; hidden 8; classes 8; "},
        {model, "{bits: 4, rules: [{layers: linear, bits: 32}]}",
         "input > conv1 4s; pool1 > conv2 4u; ",
         "conv1 4 +norm1; conv2 4 +norm2; hidden -; classes -; "},
        {model, "{bits: 4, rules: [{layers: \" hidden ,conv1\", activation_bits: 8}]}",
         "input > conv1 8s; pool1 > conv2 4u; flatten > hidden 8u; relu_hidden > classes 4u; ",
         "conv1 4 +norm1; conv2 4 +norm2; hidden 4; classes 4; "},
        {model, "{bits: 4, rules: [{layers: last, bits: 8}, {layers: \"*\", bits: 3}]}",
         "input > conv1 3s; pool1 > conv2 3u; flatten > hidden 3u; relu_hidden > classes 3u; ",
         "conv1 3 +norm1; conv2 3 +norm2; hidden 3; classes 3; "},
        {model, "{bits: 4, rules: [{layers: \"c?asses\", bits: 8}]}",
         "input > conv1 4s; pool1 > conv2 4u; flatten > hidden 4u; relu_hidden > classes 8u; ",
         NULL},
    };
    RUN_CASES(cases);
}

static const char *prepare_error(const char *text, Shape input) {
    ModelSource source = model_source(text);
    Qat *qat = NULL;
    Error *err = arena_new_array(arena, Error, 1);
    if (qat_prepare(model_of(&source, input, CLASSES, 1), &source.quant, arena, &qat, err))
        fail_msg("was accepted: %s", text);
    assert_int_equal(err->code, ERROR_INPUT);
    return err->message;
}

typedef struct Refusal {
    const char *quant, *message;
} Refusal;

static void what_cannot_be_done_is_refused(void **state) {
    (void)state;
    static const Refusal refusals[] = {
        {"{bits: 4, rules: [{layers: first, bits: 8}, {layers: \"last, conw2\", bits: 8}]}",
         "quant.rules.1: no layer with weights matches 'conw2'; did you mean 'conv2'?"},
        {"{bits: 4, rules: [{layers: relu1, bits: 8}]}",
         "quant.rules.0: no layer with weights matches 'relu1'; the first is 'conv1'"},
        {"{bits: 4, rules: [{layers: depthwise, bits: 8}]}",
         "quant.rules.0: no layer with weights matches 'depthwise'; the first is 'conv1'"},
        {"{bits: 4, rules: [{layers: \" , \", bits: 8}]}", "quant.rules.0: layers names nothing"},
        {"{bits: inherit}", "quant.bits has nothing to inherit from; give 1 to 8, or 32"},
        {"{bits: 8, activations: {granularity: token, quantizer: minmax}}",
         "input of conv1: input.out8 is an image: scales per token are for the inputs of linear "
         "layers"},
        {"{bits: 8, input: pact}",
         "input of conv1: quantizer 'pact' clips to [0, alpha] but input.out8 is signed: use 'lsq' "
         "there"},
        {"{bits: 8, weights: {quantizer: pact}}",
         "quantizer 'pact' is for activations, not for the weight conv1.weight"},
    };
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const char *text = arena_format(arena, "model: {kind: cnn, widths: [4, 6]}\nquant: %s\n",
                                        refusals[i].quant);
        assert_string_equal(prepare_error(text, SHAPE(8, 8, 1)), refusals[i].message);
    }
}

/* A convolution over one channel is not depthwise, though its weight has one input channel. */
static void depthwise_needs_more_than_one_channel(void **state) {
    (void)state;
    ModelSource source =
        model_source("model: {kind: mobilenet, stem: 4, widths: [6], strides: [2]}\n"
                     "quant: {bits: 4, rules: [{layers: depthwise, bits: 8}]}\n");
    Qat *qat = qat_of(&source, model_of(&source, SHAPE(8, 8, 1), CLASSES, 1));
    assert_string_equal(weights_text(qat), "stem 4 +stem_norm; block1_depthwise 8 +block1_norm1; "
                                           "block1_pointwise 4 +block1_norm2; classes 4; ");
}

static void linear_layers_take_scales_per_token(void **state) {
    (void)state;
    Qat *qat = prepare("model: {kind: mlp, widths: [5]}\n"
                       "quant: {bits: 8, activations: {granularity: token, quantizer: minmax}}\n");
    for (int i = 0; i < qat->edge_count; i++) {
        assert_int_equal(qat->edges[i].quant->spec.granularity, GRANULARITY_TOKEN);
        assert_null(quant_freeze(qat->edges[i].quant, arena));
    }
    Tensor x = batch_of(qat->model, 3, 1);
    train_step(qat->model, tape, x, 0.01f);
    logits_of(qat->model, tape, x);
    assert_products_read_levels(qat);
}

/* A learned range would cost the gradient to data that do not change. */
static void the_input_of_the_network_has_a_quantizer_of_its_own(void **state) {
    (void)state;
    Qat *qat = prepare("model: {kind: mlp, widths: [5]}\nquant: {bits: 8}\n");
    assert_ptr_equal(qat->edges[0].quant->row, &quantizer_minmax); /* behind the flatten */
    assert_ptr_equal(qat->edges[1].quant->row, &quantizer_lsq);
    qat = prepare("model: {kind: cnn, widths: [4, 6]}\nquant: {bits: 8, input: lsq_plus}\n");
    assert_ptr_equal(qat->edges[0].quant->row, &quantizer_lsq_plus);
    assert_ptr_equal(qat->edges[1].quant->row, &quantizer_lsq);
}

/* ---- What is installed. ---- */

static void readers_share_the_quantizer_and_its_work(void **state) {
    (void)state;
    Qat *qat = prepare("model: " LAYERS("relu, branches: {branches: [" BRANCH(CONV(a)) ", " BRANCH(
        CONV(b)) "]}") "\nquant: {bits: 4}\n");
    const Module *a = model_find_module(qat->model, "branches1.branch1.a");
    const Module *b = model_find_module(qat->model, "branches1.branch2.b");
    assert_ptr_equal(qat_find_site(qat, a)->input, qat_find_site(qat, b)->input);
    assert_ptr_equal(a->inputs[0].self, b->inputs[0].self);
    Tensor x = batch_of(qat->model, 2, 1);
    train_step(qat->model, tape, x, 0); /* for ranges */
    logits_of(qat->model, tape, x);
    int fakes = 0;
    for (int i = 0; i < tape->count; i++)
        fakes += tape->vars[i]->op == &op_row_fake_quant && tape->vars[i]->in[0] == a->last_in[0];
    assert_int_equal(fakes, 1);
}

static void the_shadow_is_the_network_before(void **state) {
    (void)state;
    ModelSource source = model_source("model: {kind: resnet, depth: 8, widths: [4, 4, 6]}\n"
                                      "quant: {bits: 4}\n");
    Model *model = model_of(&source, SHAPE(8, 8, 2), CLASSES, 1);
    Tensor x = batch_of(model, 3, 1);
    Tensor before = logits_of(model, tape, x);
    Qat *qat = qat_of(&source, model);
    assert_true(qat_is_active(qat));
    assert_same_bits(logits_in((TapeMode){.is_float = true}, model, tape, x), before);
    Tensor faked = logits_of(model, tape, x);
    assert_memory_not_equal(faked.data, before.data, sizeof(float) * (size_t)tensor_count(&before));
}

static void without_quantization_nothing_is_installed(void **state) {
    (void)state;
    ModelSource source = model_source("model: {kind: resnet, depth: 8, widths: [4, 4, 6]}\n");
    Model *model = model_of(&source, SHAPE(8, 8, 2), CLASSES, 1);
    Tensor x = batch_of(model, 3, 1);
    int params = model->param_count;
    Tensor before = logits_of(model, tape, x);
    Qat *qat = qat_of(&source, model);
    assert_false(qat_is_active(qat));
    assert_int_equal(model->param_count, params);
    assert_same_bits(logits_of(model, tape, x), before);
}

/* ---- Phases. ---- */

typedef struct PhaseCase {
    const char *quant;
    int64_t step, total;
    bool is_faking, is_observing, is_frozen;
} PhaseCase;

static void phases_follow_the_step(void **state) {
    (void)state;
    static const PhaseCase cases[] = {
        {"{bits: 4}", 0, 100, true, true, false},
        {"{bits: 4}", 99, 100, true, true, false},
        {"{bits: 4, start: 0.25}", 24, 100, false, true, false},
        {"{bits: 4, start: 0.25}", 25, 100, true, true, false},
        {"{bits: 4, start: 0.29}", 28, 100, false, true, false},
        {"{bits: 4, start: 0.29}", 29, 100, true, true, false}, /* 28.999999999999996 */
        {"{bits: 4, start: 3}", 2, 100, false, true, false},
        {"{bits: 4, start: 3}", 3, 100, true, true, false},
        {"{bits: 4, freeze_observers: 0.5}", 49, 100, true, true, false},
        {"{bits: 4, freeze_observers: 0.5}", 50, 100, true, false, false},
        {"{bits: 4, freeze_observers: 0}", 0, 100, true, false, false},
        {"{bits: 4, freeze_batch_norm: 0.8}", 79, 100, true, true, false},
        {"{bits: 4, freeze_batch_norm: 0.8}", 80, 100, true, true, true},
        {"{bits: 4, freeze_batch_norm: 7}", 6, 100, true, true, false},
        {"{bits: 4, freeze_batch_norm: 7}", 7, 100, true, true, true},
        {"{bits: 4, freeze_batch_norm: 1}", 100, 100, true, true, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const PhaseCase *c = &cases[i];
        Qat *qat =
            prepare(arena_format(arena, "model: {kind: cnn, widths: [2]}\nquant: %s\n", c->quant));
        qat_set_step(qat, c->step, c->total);
        assert_int_equal(qat->phase.is_faking, c->is_faking);
        assert_int_equal(qat->phase.is_observing, c->is_observing);
        assert_int_equal(qat->is_norm_frozen, c->is_frozen);
        qat_set_evaluation(qat);
        assert_true(qat->phase.is_faking && !qat->phase.is_observing);
    }
}

/* Running statistics move until the freeze and not after it, of norms that are folded or not; and
 * again when the step goes back. */
static void the_freeze_holds_for_every_norm(void **state) {
    (void)state;
    Qat *qat = prepare("model: " LAYERS(
        CONV(a) ", batch_norm, relu, batch_norm") "\n"
                                                  "quant: {bits: 8, freeze_batch_norm: 5}\n");
    Tensor x = batch_of(qat->model, 3, 1);
    static const int64_t steps[] = {4, 5, 9, 4};
    static const bool moves[] = {true, false, false, true};
    for (int i = 0; i < 4; i++) {
        qat_set_step(qat, steps[i], 10);
        for (int norm = 1; norm <= 2; norm++) {
            const char *name = arena_format(arena, "batch_norm%d.running_mean", norm);
            const float *mean = tensor_f32(&model_find_param(qat->model, name)->value);
            float before = mean[0];
            train_step(qat->model, tape, x, 0);
            assert_int_equal(mean[0] != before, moves[i]);
        }
    }
}

static void before_the_start_values_pass(void **state) {
    (void)state;
    Qat *qat = prepare("model: {kind: mlp, widths: [5]}\nquant: {bits: 2, start: 5}\n");
    Tensor x = batch_of(qat->model, 3, 1);
    qat_set_step(qat, 4, 10);
    Tensor waiting = logits_of(qat->model, tape, x);
    Tensor shadow = logits_in((TapeMode){.is_float = true}, qat->model, tape, x);
    assert_same_bits(waiting, shadow);
    qat_set_step(qat, 5, 10);
    train_step(qat->model, tape, x, 0); /* for ranges */
    Tensor started = logits_of(qat->model, tape, x);
    assert_memory_not_equal(started.data, waiting.data,
                            sizeof(float) * (size_t)tensor_count(&waiting));
}

/* With batch norm too: the masters, and the running statistics, take the float network's steps. */
static void before_the_start_steps_are_the_float_networks(void **state) {
    (void)state;
    static const char text[] =
        "model: {kind: cnn, widths: [3, 4], hidden: 5, dropout: 0.5}\n"
        "quant: {bits: %s, start: 5, freeze_observers: 7, freeze_batch_norm: 8}\n";
    Qat *qat = prepare(arena_format(arena, text, "4"));
    Model *plain = prepare(arena_format(arena, text, "32"))->model;
    Tape *other = tape_new(arena);
    Tensor x = batch_of(qat->model, 6, 1);
    for (int step = 0; step < 6; step++) {
        qat_set_step(qat, step, 10);
        train_step(qat->model, tape, x, 0.05f);
        train_step(plain, other, x, 0.05f);
        Tensor a = logits_of(qat->model, tape, x), b = logits_of(plain, other, x);
        bool is_same = memcmp(a.data, b.data, sizeof(float) * (size_t)tensor_count(&a)) == 0;
        assert_int_equal(is_same, step < 5);
        for (int i = 0; i < plain->param_count && step < 5; i++) {
            const Param *p = plain->params[i];
            assert_same_bits(p->value, model_find_param(qat->model, p->name)->value);
        }
    }
    tape_free(other);
}

/* ---- The report. ---- */

typedef struct Lines {
    const char *text[64];
    int count;
} Lines;

static void keep_line(void *context, LogLevel level, const char *message) {
    Lines *lines = context;
    assert_int_equal(level, LOG_INFO);
    lines->text[lines->count++] = arena_strdup(arena, message);
}

static void edges_and_weights_are_described(void **state) {
    (void)state;
    static const char *const expected[] = {
        "edge   input              -> conv1              8 bits signed, minmax, per tensor",
        "edge   flatten            -> classes            4 bits unsigned, lsq, per tensor",
        "weight conv1.weight                             1 bit, paretoq, per channel, folds norm1",
        "weight classes.weight                           stays float",
    };
    Qat *qat = prepare("model: {kind: cnn, widths: [2], hidden: 0}\n"
                       "quant: {bits: 4, weights: {quantizer: paretoq}, rules: [{layers: first, "
                       "bits: 8, weight_bits: 1}, {layers: last, weight_bits: 32}]}\n");
    Lines lines = {.count = 0};
    LogTarget before = log_set_sink(keep_line, &lines);
    qat_describe(qat);
    log_set_sink(before.sink, before.context);
    assert_int_equal(lines.count, 4);
    for (int i = 0; i < 4; i++) assert_string_equal(lines.text[i], expected[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(only_a_norm_that_alone_reads_is_folded),
        TEST(a_folded_norm_is_joined_and_no_other),
        TEST(rules_name_layers),
        TEST(what_cannot_be_done_is_refused),
        TEST(depthwise_needs_more_than_one_channel),
        TEST(linear_layers_take_scales_per_token),
        TEST(the_input_of_the_network_has_a_quantizer_of_its_own),
        TEST(readers_share_the_quantizer_and_its_work),
        TEST(the_shadow_is_the_network_before),
        TEST(without_quantization_nothing_is_installed),
        TEST(phases_follow_the_step),
        TEST(the_freeze_holds_for_every_norm),
        TEST(before_the_start_values_pass),
        TEST(before_the_start_steps_are_the_float_networks),
        TEST(edges_and_weights_are_described),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
