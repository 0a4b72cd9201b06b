/* Parameters, views and the tree of modules: names, what is read once, building, errors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>

#include "autograd/layers.h"
#include "tests/model_source.h"

static Tape *tape;

static int set_up(void **state) {
    (void)state;
    arena = arena_new("test");
    tape = tape_new(arena);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    tape_free(tape);
    arena_free(arena);
    return 0;
}

static const char small[] = "model:\n"
                            "  kind: sequential\n"
                            "  layers:\n"
                            "    - conv: {filters: 4}\n"
                            "    - relu\n"
                            "    - conv: {filters: 4, bias: false}\n"
                            "    - residual:\n"
                            "        name: block\n"
                            "        main: [conv: {name: a}, batch_norm]\n"
                            "        shortcut: [conv: {name: b, kernel: 1}]\n"
                            "    - branches:\n"
                            "        branches: [{layers: [relu]}, {layers: []}, {layers: [conv]}]\n"
                            "        join: add\n"
                            "    - flatten\n"
                            "    - linear: {units: 3}\n";

static Model *small_model(uint64_t seed) {
    ModelSource source = model_source(small);
    return model_of(&source, SHAPE(4, 4, 2), 3, seed);
}

/* ---- The tree. ---- */

static void params_have_dotted_names_in_the_order_of_making(void **state) {
    (void)state;
    static const char *const names[] = {
        "conv1.weight",
        "conv1.bias",
        "conv2.weight",
        "block.main.a.weight",
        "block.main.a.bias",
        "block.main.batch_norm1.gamma",
        "block.main.batch_norm1.beta",
        "block.main.batch_norm1.running_mean",
        "block.main.batch_norm1.running_variance",
        "block.shortcut.b.weight",
        "block.shortcut.b.bias",
        "branches1.branch3.conv1.weight",
        "branches1.branch3.conv1.bias",
        "linear1.weight",
        "linear1.bias",
    };
    Model *model = small_model(1);
    int count = sizeof names / sizeof *names;
    assert_int_equal(model->param_count, count);
    for (int i = 0; i < count; i++) {
        assert_string_equal(model->params[i]->name, names[i]);
        assert_ptr_equal(model_find_param(model, names[i]), model->params[i]);
    }
    assert_null(model_find_param(model, "conv1"));
    assert_null(model_find_param(model, "weight"));
}

typedef struct Visit {
    const char *names[64];
    int orders[64], count;
} Visit;

static bool note(void *context, Module *module) {
    Visit *visit = context;
    visit->names[visit->count] = module->name;
    visit->orders[visit->count++] = module->order;
    return strcmp(module->name, "branches1") != 0;
}

static void modules_are_visited_in_the_order_of_building_until_told_to_stop(void **state) {
    (void)state;
    static const char *const names[] = {"",
                                        "conv1",
                                        "relu1",
                                        "conv2",
                                        "block",
                                        "block.main",
                                        "block.main.a",
                                        "block.main.batch_norm1",
                                        "block.shortcut",
                                        "block.shortcut.b",
                                        "block.add",
                                        "branches1"};
    Model *model = small_model(1);
    Visit visit = {.count = 0};
    model_visit(model, note, &visit);
    assert_int_equal(visit.count, sizeof names / sizeof *names);
    for (int i = 0; i < visit.count; i++) {
        assert_string_equal(visit.names[i], names[i]);
        assert_int_equal(visit.orders[i], i);
    }
    assert_string_equal(model_find_module(model, "branches1.add2")->layer->kind.name, "add");
    assert_null(model_find_module(model, "branches1.add3"));
    assert_null(model_find_module(model, "main"));
}

static void module_find_param_takes_own_last_names(void **state) {
    (void)state;
    Model *model = small_model(1);
    const Module *a = model_find_module(model, "block.main.a");
    assert_ptr_equal(module_find_param(a, "bias"), model_find_param(model, "block.main.a.bias"));
    assert_null(module_find_param(a, "gamma"));
    assert_null(module_find_param(model->root, "conv1.weight"));
    assert_null(module_find_param(model_find_module(model, "conv2"), "bias"));
}

static void building_happens_once_on_the_first_shape_only_run(void **state) {
    (void)state;
    Model *model = small_model(1);
    int modules = model->module_count, params = model->param_count;
    assert_true(shape_equal(model->output, SHAPE(1, 3)));
    assert_true(
        shape_equal(model_find_param(model, "conv1.weight")->value.shape, SHAPE(4, 3, 3, 2)));
    assert_true(shape_equal(model_find_param(model, "linear1.weight")->value.shape, SHAPE(3, 64)));
    Tensor logits = logits_of(model, tape, batch_of(model, 5, 1));
    assert_true(shape_equal(logits.shape, SHAPE(5, 3)));
    assert_int_equal(model->module_count, modules);
    assert_int_equal(model->param_count, params);
}

static void trainable_count_leaves_buffers_and_scales_out(void **state) {
    (void)state;
    Model *model = small_model(1);
    int64_t convs = (4 * 9 * 2 + 4) + 4 * 9 * 4 + (4 * 9 * 4 + 4) + (4 * 4 + 4) + (4 * 9 * 4 + 4);
    int64_t expected = convs + 2 * 4 + (3 * 64 + 3);
    assert_int_equal(model_trainable_count(model), expected);
    model_param(model, "edge.scale", SHAPE(7), PARAM_SCALE, (Init){INIT_ONE, 0});
    model_param(model, "edge.count", SHAPE(5), PARAM_BUFFER, (Init){INIT_ZERO, 0});
    assert_int_equal(model_trainable_count(model), expected);
}

static void initial_values_are_a_function_of_the_seed(void **state) {
    (void)state;
    Model *a = small_model(7), *b = small_model(7), *c = small_model(8);
    for (int i = 0; i < a->param_count; i++)
        assert_same_bits(a->params[i]->value, b->params[i]->value);
    const Tensor *x = &a->params[0]->value, *y = &c->params[0]->value;
    assert_memory_not_equal(x->data, y->data, sizeof(float) * (size_t)tensor_count(x));
    const Tensor *one = &model_find_param(a, "conv2.weight")->value;
    const Tensor *other = &model_find_param(a, "block.main.a.weight")->value;
    assert_memory_not_equal(one->data, other->data, sizeof(float) * (size_t)tensor_count(one));
    /* He: deviation sqrt(2 / fan_in). Of 64 * 9 * 64 draws the mean square is within 5 %. */
    ModelSource wide = model_source("model: {kind: sequential, layers: [conv: {filters: 64}, "
                                    "global_pool, linear: {units: 2}]}");
    Model *model = model_of(&wide, SHAPE(4, 4, 64), 2, 1);
    const Tensor *w = &model_find_param(model, "conv1.weight")->value;
    double sum = 0;
    for (int64_t i = 0; i < tensor_count(w); i++)
        sum += (double)tensor_f32(w)[i] * (double)tensor_f32(w)[i];
    double expected = 2.0 / (9 * 64);
    assert_true(fabs(sum / (double)tensor_count(w) - expected) < 0.05 * expected);
}

/* ---- Reading parameters. ---- */

typedef struct Doubler {
    int calls;
} Doubler;

static Var *double_it(void *self, Tape *t, Var *x) {
    ((Doubler *)self)->calls++;
    return op_scale(t, x, 2);
}

static Param *new_param(Model *model, Shape shape, float value) {
    Param *p = model_param(model, "p", shape, PARAM_WEIGHT, (Init){INIT_ZERO, 0});
    for (int64_t i = 0; i < shape_count(shape); i++) tensor_f32(&p->value)[i] = value;
    return p;
}

static Model *empty_model(void) {
    Model *model = arena_new_array(arena, Model, 1);
    model->arena = arena;
    return model;
}

static void a_view_is_applied_once_per_record(void **state) {
    (void)state;
    Param *p = new_param(empty_model(), SHAPE(3), 5);
    Doubler doubler = {0};
    p->view = (View){double_it, &doubler};
    for (int record = 1; record <= 3; record++) {
        tape_begin(tape, TAPE_TRAINING);
        Var *first = param_read(p, tape);
        Var *second = param_read(p, tape);
        assert_ptr_equal(first, second);
        assert_int_equal(doubler.calls, record);
        assert_true(var_f32(first)[2] == 10);
        const Var *leaf = param_leaf(p, tape);
        assert_ptr_equal(leaf, first->in[0]);
        assert_true(var_f32(leaf)[2] == 5);
    }
    assert_null(param_read(NULL, tape));
}

static void two_tapes_do_not_share_what_was_read(void **state) {
    (void)state;
    Param *p = new_param(empty_model(), SHAPE(2), 3);
    Tape *other = tape_new(arena);
    tape_begin(tape, TAPE_TRAINING);
    tape_begin(other, TAPE_TRAINING);
    Var *here = param_read(p, tape);
    Var *there = param_read(p, other);
    assert_ptr_not_equal(here, there);
    assert_ptr_equal(tape->vars[here->index], here);
    assert_ptr_equal(other->vars[there->index], there);
    Var *again = param_read(p, tape);
    assert_ptr_equal(tape->vars[again->index], again);
    tape_free(other);
}

/* Products take weights in half precision; a view reads the master. */
static void half_precision_casts_weights_alone(void **state) {
    (void)state;
    Model *model = small_model(1);
    Param *seen = model_find_param(model, "linear1.weight");
    Doubler doubler = {0};
    seen->view = (View){double_it, &doubler};
    TapeMode mode = TAPE_TRAINING;
    mode.half = DTYPE_BF16;
    tape_begin(tape, mode);
    for (int i = 0; i < model->param_count; i++) {
        Param *p = model->params[i];
        const Var *read = param_read(p, tape), *leaf = param_leaf(p, tape);
        assert_true((read != leaf) == (p->role == PARAM_WEIGHT));
        if (p == seen) assert_true(var_f32(read)[5] == 2 * var_f32(leaf)[5]);
    }
    assert_int_equal(doubler.calls, 1);
}

static void a_weight_read_twice_gets_the_sum_of_both_gradients(void **state) {
    (void)state;
    Param *p = new_param(empty_model(), SHAPE(1, 1), 3);
    Doubler doubler = {0};
    p->view = (View){double_it, &doubler};
    tape_begin(tape, TAPE_TRAINING);
    float two = 2;
    Var *x = tape_constant(tape, (Tensor){.dtype = DTYPE_F32, .shape = SHAPE(1, 1), .data = &two});
    Var *w = param_read(p, tape);
    Var *h = op_linear(tape, x, w, NULL);
    Var *v = param_read(p, tape);
    Var *y = op_linear(tape, h, v, NULL);
    tape_backward(tape, y, 1);
    /* y = (2 p)^2 x: 8 p x */
    assert_true(var_f32(y)[0] == 72);
    assert_true(p->has_grad);
    assert_true(p->grad[0] == 8 * 3 * 2);
    assert_int_equal(doubler.calls, 1);
}

static void gradients_add_up_over_records_until_cleared(void **state) {
    (void)state;
    Model *model = small_model(1);
    Param *bias = model_find_param(model, "linear1.bias");
    float first[3];
    for (int record = 0; record < 3; record++) {
        if (record == 2) model_clear_grads(model);
        tape_begin(tape, TAPE_TRAINING);
        Var *x = tape_constant(tape, batch_of(model, 4, 1));
        Var *logits = model_forward(model, tape, x);
        Var *loss = op_cross_entropy(tape, logits, (int32_t[]){0, 1, 2, 0}, 0);
        tape_backward(tape, loss, 1);
        if (record == 0) memcpy(first, bias->grad, sizeof first);
        for (int i = 0; i < 3; i++)
            assert_true(bias->grad[i] == (record == 1 ? 2 : 1) * first[i] && first[i] != 0);
    }
}

static void a_frozen_param_gets_no_gradient_and_passes_one_on(void **state) {
    (void)state;
    Model *model = small_model(1);
    Param *frozen = model_find_param(model, "linear1.weight");
    frozen->is_frozen = true;
    train_step(model, tape, batch_of(model, 4, 1), 0);
    assert_false(frozen->has_grad);
    assert_true(model_find_param(model, "linear1.bias")->has_grad);
    assert_true(model_find_param(model, "conv1.weight")->has_grad);
    frozen->is_frozen = false;
    train_step(model, tape, batch_of(model, 4, 1), 0);
    assert_true(frozen->has_grad);
}

static void buffers_have_no_gradient(void **state) {
    (void)state;
    Model *model = small_model(1);
    train_step(model, tape, batch_of(model, 4, 1), 0);
    for (int i = 0; i < model->param_count; i++) {
        const Param *p = model->params[i];
        assert_true((p->role == PARAM_BUFFER) == (p->grad == NULL));
        assert_true(p->has_grad == (p->role != PARAM_BUFFER));
    }
}

static void views_on_inputs_come_before_the_layer_and_last_in_is_before_them(void **state) {
    (void)state;
    Model *model = small_model(1);
    Module *linear = model_find_module(model, "linear1");
    Module *add = model_find_module(model, "block.add");
    Tensor x = batch_of(model, 2, 1);
    Tensor plain = logits_of(model, tape, x);
    Doubler doubler = {0}, second = {0};
    linear->inputs[0] = (View){double_it, &doubler};
    Tensor doubled = logits_of(model, tape, x);
    assert_int_equal(doubler.calls, 1);
    assert_ptr_equal(linear->last_in[0], model_find_module(model, "flatten1")->last_out);
    const float *bias = tensor_f32(&model_find_param(model, "linear1.bias")->value);
    for (int i = 0; i < 6; i++) {
        float expected = 2 * (tensor_f32(&plain)[i] - bias[i % 3]) + bias[i % 3];
        assert_true(fabsf(tensor_f32(&doubled)[i] - expected) <= 1e-5f * (1 + fabsf(expected)));
    }
    add->inputs[1] = (View){double_it, &second};
    logits_of(model, tape, x);
    assert_int_equal(second.calls, 1);
    assert_ptr_equal(add->last_in[1], model_find_module(model, "block.shortcut")->last_out);
}

/* ---- Errors. ---- */

typedef struct Refusal {
    const char *layers, *message;
} Refusal;

static void errors_name_the_layer(void **state) {
    (void)state;
    static const Refusal refusals[] = {
        {"[flatten, conv]",
         "model 'sequential': conv1: conv needs images [n, height, width, channels], not rank 2"},
        {"[conv: {filters: 3}, conv: {name: grouped, groups: 2}]",
         "model 'sequential': grouped: groups 2 must divide both the 3 input channels and the 3 "
         "filters"},
        {"[residual: {name: block, main: [conv, add]}]",
         "model 'sequential': block.main: 'add' takes 2 inputs; write a residual or branches"},
        {"[add]", "model 'sequential': 'add' takes 2 inputs; write a residual or branches"},
        {"[conv: {name: same}, relu: {name: same}]",
         "model 'sequential': two layers are named 'same'; rename one"},
        {"[conv: {name: conv2}, conv]",
         "model 'sequential': two layers are named 'conv2'; rename one"},
        {"[residual: {name: block, main: [conv: {name: a}, conv: {name: a}]}]",
         "model 'sequential': block.main: two layers are named 'a'; rename one"},
        {"[conv: {name: a.b}]",
         "model 'sequential': a layer is named 'a.b'; names are letters, digits, '_' and '-'"},
        {"[conv: {name: \"a/b\"}]",
         "model 'sequential': a layer is named 'a/b'; names are letters, digits, '_' and '-'"},
        {"[conv: {name: input}]",
         "model 'sequential': 'input' is what the network reads; rename the layer"},
        {"[conv: {filters: 4}, residual: {name: block, main: [conv: {filters: 5}]}]",
         "model 'sequential': block.add: the two paths give different shapes, [1, 4, 4, 5] and [1, "
         "4, 4, 4]"},
        {"[conv: {filters: 4, kernel: 4, padding: 0}, residual: {name: block, main: [], shortcut: "
         "[global_pool]}]",
         "model 'sequential': block.add: the two paths give different shapes, [1, 1, 1, 4] and [1, "
         "4]"},
        {"[branches: {branches: []}]",
         "model 'sequential': branches1: branches must be from 1 to 16, not 0"},
    };
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const char *text =
            arena_format(arena, "model: {kind: sequential, layers: %s}", refusals[i].layers);
        assert_string_equal(model_error(text, SHAPE(4, 4, 1), 2), refusals[i].message);
    }
}

/* What files call a layer's parts has room for so much. */
static void names_are_bounded(void **state) {
    (void)state;
    char name[257];
    memset(name, 'n', 256);
    name[256] = '\0';
    const char *text = "model: {kind: sequential, layers: [flatten, residual: {name: r, main: "
                       "[linear: {name: %s, units: 16}]}, linear: {units: 2}]}";
    assert_string_equal(model_error(arena_format(arena, text, name), SHAPE(4, 4, 1), 2),
                        "model 'sequential': r.main: the name of layer 1, with those of the layers "
                        "around it, is longer than 255 letters: "
                        "r.main.nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn...; shorten it");
    ModelSource source = model_source(arena_format(arena, text, name + 8));
    assert_non_null(model_find_module(model_of(&source, SHAPE(4, 4, 1), 2, 1),
                                      arena_format(arena, "r.main.%s", name + 8)));
}

/* Shapes that only the ops see. */
static void errors_of_ops_name_the_layer(void **state) {
    (void)state;
    static const Refusal refusals[] = {
        {"[conv: {name: tall, kernel: 7, padding: 0}]", "tall: conv2d"},
        {"[max_pool: {name: big, kernel: 9}]", "big: max_pool2d"},
        {"[flatten, global_pool]", "global_pool1: global_avg_pool"},
        {"[branches: {name: split, branches: [{layers: []}, {layers: [max_pool]}]}]",
         "split: concat"},
    };
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const char *text =
            arena_format(arena, "model: {kind: sequential, layers: %s}", refusals[i].layers);
        const char *start = arena_format(arena, "model 'sequential': %s: ", refusals[i].message);
        const char *message = model_error(text, SHAPE(4, 4, 1), 2);
        if (strncmp(message, start, strlen(start)) != 0) fail_msg("%s", message);
    }
}

static void names_may_repeat_under_different_parents(void **state) {
    (void)state;
    ModelSource source = model_source(
        "model: {kind: sequential, layers: [conv: {name: a, filters: 2}, residual: {name: r, main: "
        "[conv: {name: a}], shortcut: [conv: {name: a}]}, residual: {name: input_like, main: "
        "[conv: {name: input}]}, flatten, linear: {units: 2}]}");
    Model *model = model_of(&source, SHAPE(4, 4, 1), 2, 1);
    assert_non_null(model_find_param(model, "r.main.a.weight"));
    assert_non_null(model_find_param(model, "r.shortcut.a.weight"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(params_have_dotted_names_in_the_order_of_making),
        TEST(modules_are_visited_in_the_order_of_building_until_told_to_stop),
        TEST(module_find_param_takes_own_last_names),
        TEST(building_happens_once_on_the_first_shape_only_run),
        TEST(trainable_count_leaves_buffers_and_scales_out),
        TEST(initial_values_are_a_function_of_the_seed),
        TEST(a_view_is_applied_once_per_record),
        TEST(two_tapes_do_not_share_what_was_read),
        TEST(half_precision_casts_weights_alone),
        TEST(a_weight_read_twice_gets_the_sum_of_both_gradients),
        TEST(gradients_add_up_over_records_until_cleared),
        TEST(a_frozen_param_gets_no_gradient_and_passes_one_on),
        TEST(buffers_have_no_gradient),
        TEST(views_on_inputs_come_before_the_layer_and_last_in_is_before_them),
        TEST(errors_name_the_layer),
        TEST(names_are_bounded),
        TEST(errors_of_ops_name_the_layer),
        TEST(names_may_repeat_under_different_parents),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
