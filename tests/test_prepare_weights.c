/* Layers with several weights: each has a name, a quantizer and a packed form of its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "autograd/layers.h"
#include "qat/convert.h"
#include "tests/prepare_cases.h"

/* ---- A layer with two weights and a bias: y = (x value^T + bias) + x gate^T. ---- */

enum { FEATURES = 6, UNITS = 5 };

static bool pair_build(Module *self, Var *const *in, Error *err) {
    (void)err;
    Shape shape = SHAPE(UNITS, shape_last(in[0]->value.shape));
    Init init = {INIT_NORMAL, 0.5f};
    module_param(self, "value", shape, PARAM_WEIGHT, init);
    module_param(self, "gate", shape, PARAM_WEIGHT, init);
    module_param(self, "bias", SHAPE(UNITS), PARAM_BIAS, init);
    return true;
}

static Var *pair_forward(Module *self, Tape *t, Var *const *in) {
    Var *value = param_read(module_find_param(self, "value"), t);
    Var *gate = param_read(module_find_param(self, "gate"), t);
    Var *bias = param_read(module_find_param(self, "bias"), t);
    Var *a = op_linear(t, in[0], value, bias);
    Var *b = op_linear(t, in[0], gate, NULL);
    return op_add(t, a, b);
}

static const Layer layer_pair = {
    .kind = {"pair", "two products of one input", sizeof(PlainConfig), NULL},
    .input_count = 1,
    .build = pair_build,
    .forward = pair_forward,
};

static Model *model_new_pair(uint64_t seed) {
    static PlainConfig flatten = {.layer = {"flatten"}}, pair = {.layer = {"block"}};
    static NormConfig norm = {.layer = {"norm"}, .epsilon = 1e-5, .momentum = 0.1};
    static LinearConfig classes = {.layer = {"classes"}, .units = CLASSES, .bias = true};
    static Variant layers[] = {{&layer_flatten.kind, &flatten},
                               {&layer_pair.kind, &pair},
                               {&layer_batch_norm.kind, &norm},
                               {&layer_linear.kind, &classes}};
    Error err = {0};
    Model *model = NULL;
    if (!model_new(&(List){4, layers}, SHAPE(1, 1, FEATURES), seed, arena, &model, &err))
        fail_msg("%s", err.message);
    return model;
}

static Qat *pair_of(const char *quant, uint64_t seed) {
    const char *text = arena_format(arena, "model: {kind: mlp}\nquant: %s\n", quant);
    ModelSource source = model_source(text);
    return qat_of(&source, model_new_pair(seed));
}

static void assert_prepared(const char *quant, const char *weights, const char *edges) {
    Qat *qat = pair_of(quant, 1);
    assert_string_equal(weights_text(qat), weights);
    assert_string_equal(edges_text(qat), edges);
}

/* The norm cannot fold: it follows both products. */
static void each_weight_is_named(void **state) {
    (void)state;
    assert_prepared("{bits: 4}", "block.value 4; block.gate 4; classes 4; ",
                    "flatten > block 4s; norm > classes 4s; ");
    assert_prepared("{}", "block.value -; block.gate -; classes -; ", "");
}

static void rules_name_layers_and_weights(void **state) {
    (void)state;
    assert_prepared("{bits: 4, rules: [{layers: first, bits: 8}]}",
                    "block.value 8; block.gate 8; classes 4; ",
                    "flatten > block 8s; norm > classes 4s; ");
    assert_prepared("{bits: 4, rules: [{layers: block, weight_bits: 2}]}",
                    "block.value 2; block.gate 2; classes 4; ",
                    "flatten > block 4s; norm > classes 4s; ");
    assert_prepared("{bits: 4, rules: [{layers: last, weight_bits: 2}]}",
                    "block.value 4; block.gate 4; classes 2; ",
                    "flatten > block 4s; norm > classes 4s; ");
    /* the input is as wide as the most demanding weight asks */
    assert_prepared("{bits: 4, rules: [{layers: block.value, bits: 8}]}",
                    "block.value 8; block.gate 4; classes 4; ",
                    "flatten > block 8s; norm > classes 4s; ");
    assert_prepared("{bits: 4, rules: [{layers: '*.gate', bits: 32}]}",
                    "block.value 4; block.gate -; classes 4; ", "norm > classes 4s; ");
}

static void names_that_are_close_are_told(void **state) {
    (void)state;
    ModelSource source = model_source("model: {kind: mlp}\n"
                                      "quant: {bits: 4, rules: [{layers: block.gat, bits: 8}]}\n");
    Qat *qat;
    Error err = {0};
    assert_false(qat_prepare(model_new_pair(1), &source.quant, arena, &qat, &err));
    assert_non_null(strstr(err.message, "no layer with weights matches 'block.gat'; did you mean "
                                        "'block.gate'?"));
}

/* ---- Packed ---- */

/* Both weights, and the bias of the two, which belongs to neither. */
static void what_is_packed_gives_the_same_bits(void **state) {
    (void)state;
    Qat *qat = pair_of("{bits: 4, rules: [{layers: block.gate, weight_bits: 3}]}", 1);
    Tensor x = batch_of(qat->model, 8, 1);
    for (int i = 0; i < 3; i++) train_step(qat->model, tape, x, 0.1f);
    qat_set_evaluation(qat);
    const float mean[FEATURES] = {0}, deviation[FEATURES] = {1, 1, 1, 1, 1, 1};
    PackedModel packed = packed_model_of(qat, arena);
    packed.mean = mean;
    packed.deviation = deviation;
    assert_int_equal(packed.weight_count, 3);
    for (int i = 0; i < 3; i++)
        assert_true((packed.weights[i].bias != NULL) ==
                    !strcmp(packed.weights[i].layer, "classes"));
    assert_string_equal(packed.weights[0].layer, "block.value");
    assert_string_equal(packed.weights[1].layer, "block.gate");
    assert_int_equal(packed.param_count, 1 + 4); /* the bias; the norm */
    Error err = {0};
    Tensor logits = tensor_new(arena, DTYPE_F32, SHAPE(8, CLASSES));
    if (!packed_model_build(&packed, &err) ||
        !packed_model_run(&packed, x.data, 8, logits.data, &err))
        fail_msg("%s", err.message);
    packed_model_close(&packed);
    assert_same_bits(logits, logits_of(qat->model, tape, x));
}

static void a_bias_of_one_of_several_is_refused(void **state) {
    (void)state;
    Qat *qat = pair_of("{bits: 4}", 1);
    Tensor x = batch_of(qat->model, 8, 1);
    train_step(qat->model, tape, x, 0.1f);
    qat_set_evaluation(qat);
    const float ones[FEATURES] = {1, 1, 1, 1, 1, 1};
    PackedModel packed = packed_model_of(qat, arena);
    packed.mean = packed.deviation = ones;
    packed.weights[0].bias = ones;
    packed.weights[0].bias_count = UNITS;
    Error err = {0};
    assert_false(packed_model_build(&packed, &err));
    assert_string_equal(err.message, "weights/block.value: has a bias, but the layer has none");
    packed_model_close(&packed);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(each_weight_is_named, set_up, tear_down),
        cmocka_unit_test_setup_teardown(rules_name_layers_and_weights, set_up, tear_down),
        cmocka_unit_test_setup_teardown(names_that_are_close_are_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_packed_gives_the_same_bits, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_bias_of_one_of_several_is_refused, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
