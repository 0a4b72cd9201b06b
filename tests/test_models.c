/* Built-in models and models written out in YAML: the same networks, known sizes, every kind of
 * layer, values and gradients against PyTorch (golden/make_model.py), and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>

#include "autograd/layers.h"
#include "experiments/settings/config.h"
#include "tests/golden.h"
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

/* ---- Written out: the same network. ---- */

static ModelSource source_of_file(const char *path) {
    ExperimentConfig config;
    Error err = {0};
    if (!config_read(path, 0, NULL, arena, &config, &err)) fail_msg("%s", err.message);
    return (ModelSource){config.model, config.quant};
}

static void assert_same_params(const Model *a, const Model *b) {
    assert_int_equal(a->param_count, b->param_count);
    for (int i = 0; i < a->param_count; i++) {
        assert_string_equal(a->params[i]->name, b->params[i]->name);
        assert_int_equal(a->params[i]->role, b->params[i]->role);
        assert_same_bits(a->params[i]->value, b->params[i]->value);
    }
}

/* At first, and after training steps; as it is and with the file's quantization. */
static void assert_same_network(const char *built_in, const char *path) {
    ModelSource written = source_of_file(path);
    ModelSource short_form = model_source(arena_format(arena, "model: %s", built_in));
    Tape *other = tape_new(arena);
    for (int is_quantized = 0; is_quantized < 2; is_quantized++) {
        Model *a = model_of(&short_form, SHAPE(8, 8, 1), 10, 5);
        Model *b = model_of(&written, SHAPE(8, 8, 1), 10, 5);
        short_form.quant = written.quant;
        if (is_quantized) {
            qat_of(&short_form, a);
            qat_of(&written, b);
        }
        Tensor x = batch_of(a, 4, 1);
        assert_same_params(a, b);
        assert_same_bits(logits_of(a, tape, x), logits_of(b, other, x));
        for (int step = 0; step < 2; step++) {
            train_step(a, tape, x, 0.05f);
            train_step(b, other, x, 0.05f);
        }
        assert_same_params(a, b);
        assert_same_bits(logits_of(a, tape, x), logits_of(b, other, x));
    }
    tape_free(other);
}

static void resnet20_written_out_is_the_built_in_model(void **state) {
    (void)state;
    assert_same_network("{kind: resnet, depth: 20}", "configs/resnet20_sequential.yaml");
}

static void mobilenet_written_out_is_the_built_in_model(void **state) {
    (void)state;
    assert_same_network("mobilenet", "configs/mobilenet_sequential.yaml");
}

/* ---- Sizes. ---- */

static Model *build(const char *text, Shape input, int64_t classes) {
    ModelSource source = model_source(arena_format(arena, "model: %s", text));
    return model_of(&source, input, classes, 1);
}

/* He et al. 2016, table 6: 0.27 million; 269,722 with shortcuts without parameters. Ours are 1x1
 * convolutions with batch norm where the shape changes. */
static void resnet20_has_the_known_number_of_parameters(void **state) {
    (void)state;
    const Model *model = build("resnet", SHAPE(32, 32, 3), 10);
    int64_t projections = (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64);
    assert_int_equal(model_trainable_count(model), 269722 + projections);
}

/* Weights of the three stages of n blocks, as the paper counts layers. */
static int64_t resnet_count(int64_t n, const int64_t width[3], int64_t channels, int64_t classes) {
    int64_t count = 9 * channels * width[0] + 2 * width[0];
    for (int s = 0; s < 3; s++) {
        int64_t from = s ? width[s - 1] : width[0], to = width[s];
        count += 9 * from * to + (2 * n - 1) * 9 * to * to + 2 * n * 2 * to;
        if (s) count += from * to + 2 * to;
    }
    return count + width[2] * classes + classes;
}

static void resnets_of_other_depths_have_the_counted_parameters(void **state) {
    (void)state;
    static const int depths[] = {8, 14, 20, 32};
    for (int i = 0; i < 4; i++) {
        const char *text =
            arena_format(arena, "{kind: resnet, depth: %d, widths: [4, 6, 10]}", depths[i]);
        const Model *model = build(text, SHAPE(8, 8, 3), 7);
        int64_t n = (depths[i] - 2) / 6;
        assert_int_equal(model_trainable_count(model),
                         resnet_count(n, (int64_t[]){4, 6, 10}, 3, 7));
    }
}

static void mobilenet_has_the_counted_parameters(void **state) {
    (void)state;
    static const int64_t widths[] = {64, 128, 128, 256, 256};
    int64_t expected = 9 * 1 * 32 + 2 * 32, from = 32;
    for (int i = 0; i < 5; i++) {
        expected += 9 * from + 2 * from + from * widths[i] + 2 * widths[i];
        from = widths[i];
    }
    expected += 256 * 10 + 10;
    const Model *model = build("mobilenet", SHAPE(28, 28, 1), 10);
    assert_int_equal(model_trainable_count(model), expected);
}

static void cnn_and_mlp_have_the_counted_parameters(void **state) {
    (void)state;
    int64_t cnn = (9 * 32 + 2 * 32) + (9 * 32 * 64 + 2 * 64) + (7 * 7 * 64 * 128 + 128) + 1290;
    assert_int_equal(model_trainable_count(build("cnn", SHAPE(28, 28, 1), 10)), cnn);
    int64_t bare = (9 * 3 * 8 + 2 * 8) + (5 * 5 * 8 * 4 + 4);
    assert_int_equal(
        model_trainable_count(build("{kind: cnn, widths: [8], hidden: 0}", SHAPE(10, 10, 3), 4)),
        bare);
    int64_t mlp = (784 * 512 + 512) + (512 * 512 + 512) + (512 * 10 + 10);
    assert_int_equal(model_trainable_count(build("mlp", SHAPE(28, 28, 1), 10)), mlp);
    assert_int_equal(model_trainable_count(build("{kind: mlp, widths: []}", SHAPE(3, 3, 1), 2)),
                     9 * 2 + 2);
}

typedef struct ShapeCase {
    const char *model, *module;
    Shape input, weight;
} ShapeCase;

static void weights_have_their_shapes(void **state) {
    (void)state;
    static const ShapeCase cases[] = {
        {"cnn", "conv1", {3, {28, 28, 1}}, {4, {32, 3, 3, 1}}},
        {"cnn", "hidden", {3, {28, 28, 1}}, {2, {128, 3136}}},
        {"cnn", "hidden", {3, {12, 15, 3}}, {2, {128, 3 * 3 * 64}}},
        {"cnn", "classes", {3, {28, 28, 1}}, {2, {10, 128}}},
        {"mlp", "hidden2", {3, {28, 28, 1}}, {2, {512, 512}}},
        {"mobilenet", "block2_depthwise", {3, {28, 28, 1}}, {4, {64, 3, 3, 1}}},
        {"mobilenet", "block4_pointwise", {3, {28, 28, 1}}, {4, {256, 1, 1, 128}}},
        {"resnet", "stage2_block1.shortcut.conv", {3, {28, 28, 1}}, {4, {32, 1, 1, 16}}},
        {"resnet", "stage3_block3.main.conv2", {3, {28, 28, 1}}, {4, {64, 3, 3, 64}}},
        {"resnet", "classes", {3, {9, 9, 2}}, {2, {10, 64}}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const Model *model = build(cases[i].model, cases[i].input, 10);
        const Module *module = model_find_module(model, cases[i].module);
        assert_non_null(module);
        assert_true(shape_equal(module_find_param(module, "weight")->value.shape, cases[i].weight));
    }
}

static void dropout_is_there_when_asked_for(void **state) {
    (void)state;
    assert_null(model_find_module(build("cnn", SHAPE(8, 8, 1), 2), "dropout1"));
    const Model *cnn = build("{kind: cnn, dropout: 0.25}", SHAPE(8, 8, 1), 2);
    const Module *dropout = model_find_module(cnn, "dropout2");
    assert_non_null(dropout);
    assert_true(((const DropoutConfig *)dropout->config)->probability == 0.25);
    assert_non_null(
        model_find_module(build("{kind: mlp, dropout: 0.5}", SHAPE(2, 2, 1), 2), "dropout2"));
}

/* ---- Every kind of layer. ---- */

typedef struct LayerCase {
    const char *kind, *layer; /* as in a list of layers */
    Shape input, output;      /* of one sample; output with the batch */
} LayerCase;

static const LayerCase layer_cases[] = {
    {"conv", "conv", {3, {6, 7, 4}}, {4, {1, 6, 7, 4}}},
    {"conv", "conv: {filters: 6, kernel: 5, stride: 2}", {3, {6, 7, 4}}, {4, {1, 3, 4, 6}}},
    {"conv", "conv: {filters: 6, dilation: 2}", {3, {6, 7, 4}}, {4, {1, 6, 7, 6}}},
    {"conv", "conv: {filters: 6, dilation: 2, padding: 0}", {3, {6, 7, 4}}, {4, {1, 2, 3, 6}}},
    {"conv",
     "conv: {filters: 6, kernel: 1, groups: 2, bias: false}",
     {3, {6, 7, 4}},
     {4, {1, 6, 7, 6}}},
    {"conv", "conv: {depthwise: true, filters: 8, padding: 2}", {3, {6, 7, 4}}, {4, {1, 8, 9, 8}}},
    {"linear", "linear: {units: 5}", {1, {7}}, {2, {1, 5}}},
    {"linear", "linear: {units: 5, bias: false}", {2, {3, 7}}, {3, {1, 3, 5}}},
    {"batch_norm", "batch_norm: {epsilon: 1e-3, momentum: 0.5}", {3, {6, 7, 4}}, {4, {1, 6, 7, 4}}},
    {"batch_norm", "batch_norm", {1, {7}}, {2, {1, 7}}},
    {"layer_norm", "layer_norm: {epsilon: 1e-3}", {2, {3, 7}}, {3, {1, 3, 7}}},
    {"rms_norm", "rms_norm: {epsilon: 1e-3}", {2, {3, 7}}, {3, {1, 3, 7}}},
    {"embedding", "embedding: {rows: 9, units: 4}", {1, {5}}, {3, {1, 5, 4}}},
    {"self_attention", "self_attention: {heads: 2}", {2, {5, 8}}, {3, {1, 5, 8}}},
    {"self_attention",
     "self_attention: {heads: 4, kv_heads: 2, head_dim: 6, attention_bias: all, qk_norm: true}",
     {2, {5, 8}},
     {3, {1, 5, 8}}},
    {"gated_mlp", "gated_mlp: {units: 6, bias: true}", {2, {5, 4}}, {3, {1, 5, 4}}},
    {"decoder_block", "decoder_block: {heads: 2, ff: 6}", {2, {5, 8}}, {3, {1, 5, 8}}},
    {"head", "head: {units: 9}", {2, {5, 4}}, {3, {1, 5, 9}}},
    {"relu", "relu", {3, {6, 7, 4}}, {4, {1, 6, 7, 4}}},
    {"relu6", "relu6: {name: six}", {3, {6, 7, 4}}, {4, {1, 6, 7, 4}}},
    {"gelu", "gelu", {1, {7}}, {2, {1, 7}}},
    {"silu", "silu", {1, {7}}, {2, {1, 7}}},
    {"sigmoid", "sigmoid", {1, {7}}, {2, {1, 7}}},
    {"tanh", "tanh", {1, {7}}, {2, {1, 7}}},
    {"max_pool", "max_pool", {3, {6, 7, 4}}, {4, {1, 3, 3, 4}}},
    {"max_pool", "max_pool: {kernel: 3, stride: 1, padding: 1}", {3, {6, 7, 4}}, {4, {1, 6, 7, 4}}},
    {"avg_pool", "avg_pool: {kernel: 3, stride: 2}", {3, {6, 7, 4}}, {4, {1, 2, 3, 4}}},
    {"global_pool", "global_pool", {3, {6, 7, 4}}, {2, {1, 4}}},
    {"flatten", "flatten", {3, {6, 7, 4}}, {2, {1, 168}}},
    {"dropout", "dropout: {probability: 0.25}", {3, {6, 7, 4}}, {4, {1, 6, 7, 4}}},
    {"sequential",
     "sequential: {layers: [relu, conv: {filters: 3}]}",
     {3, {6, 7, 4}},
     {4, {1, 6, 7, 3}}},
    {"residual", "residual: {main: [conv, relu]}", {3, {6, 7, 4}}, {4, {1, 6, 7, 4}}},
    {"residual",
     "residual: {main: [max_pool], shortcut: [conv: {stride: 2}]}",
     {3, {6, 6, 4}},
     {4, {1, 3, 3, 4}}},
    {"add", "residual: {main: [], shortcut: [sigmoid]}", {1, {7}}, {2, {1, 7}}},
    {"branches",
     "branches: {branches: [{layers: [conv]}, {layers: []}, {layers: [tanh]}]}",
     {3, {6, 7, 4}},
     {4, {1, 6, 7, 12}}},
    {"branches",
     "branches: {branches: [{layers: [relu]}, {layers: []}, {layers: [tanh]}], join: add}",
     {3, {6, 7, 4}},
     {4, {1, 6, 7, 4}}},
    {"branches", "branches: {branches: [{layers: [relu]}]}", {1, {7}}, {2, {1, 7}}},
};
enum { LAYER_CASES = sizeof layer_cases / sizeof *layer_cases };

static bool is_nonzero(const float *x, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (x[i] != 0) return true;
    return false;
}

/* A training step on sum(out^2): the input and every parameter get a gradient. */
static void run_layer(const LayerCase *c) {
    ModelSource source =
        model_source(arena_format(arena, "model: {kind: sequential, layers: [%s]}", c->layer));
    Model *model;
    List list;
    Error err = {0};
    const ModelKind *row = (const ModelKind *)source.model.kind;
    assert_true(row->layers(source.model.config, 1, arena, &list, &err));
    if (!model_new(&list, c->input, 3, arena, &model, &err)) fail_msg("%s", err.message);
    assert_true(shape_equal(model->output, c->output));
    Tensor x = batch_of(model, 4, 2);
    bool reads_ids = !strcmp(c->kind, "embedding");
    for (int64_t i = 0; reads_ids && i < tensor_count(&x); i++) tensor_f32(&x)[i] = (float)(i % 9);
    logits_of(model, tape, x);
    model_clear_grads(model);
    TapeMode mode = TAPE_TRAINING;
    mode.is_watching = true;
    tape_begin(tape, mode);
    float *grad = arena_new_array(arena, float, tensor_count(&x));
    Var *leaf = tape_leaf(tape, x, grad, NULL);
    Var *y = model_forward(model, tape, leaf);
    float *target = arena_new_array(arena, float, var_count(y));
    Tensor aim = {.dtype = DTYPE_F32, .shape = y->value.shape, .data = target};
    for (int64_t i = 0; i < var_count(y); i++) target[i] = (float)(i % 5) - 2;
    Var *expected = tape_constant(tape, aim);
    Var *loss = op_mse(tape, y, expected);
    tape_backward(tape, loss, 1);
    if (tape->error.code) fail_msg("%s: %s", c->layer, tape->error.message);
    assert_null(tape_find_nonfinite(tape));
    assert_null(tape->overflowed);
    assert_true(reads_ids || is_nonzero(grad, tensor_count(&x)));
    for (int i = 0; i < model->param_count; i++) {
        const Param *p = model->params[i];
        if (p->grad && !(p->has_grad && is_nonzero(p->grad, tensor_count(&p->value))))
            fail_msg("%s: %s has no gradient", c->layer, p->name);
    }
}

static bool kind_is_in(void *context, Module *module) {
    const char **kind = context;
    if (!strcmp(module->layer->kind.name, *kind)) *kind = "";
    return true;
}

static void every_kind_of_layer_runs_forward_and_backward(void **state) {
    (void)state;
    for (int i = 0; i < LAYER_CASES; i++) run_layer(&layer_cases[i]);
    for (int i = 0; i < layer_kinds.count; i++) {
        bool is_covered = false;
        for (int j = 0; j < LAYER_CASES; j++)
            is_covered = is_covered || !strcmp(layer_cases[j].kind, layer_kinds.kinds[i]->name);
        if (!is_covered) fail_msg("no case for layer '%s'", layer_kinds.kinds[i]->name);
    }
}

static void the_cases_hold_the_kinds_they_are_for(void **state) {
    (void)state;
    for (int i = 0; i < LAYER_CASES; i++) {
        const char *kind = layer_cases[i].kind;
        ModelSource source = model_source(arena_format(
            arena,
            "model: {kind: sequential, layers: [%s, flatten: {name: flat}, linear: {name: "
            "out, units: 2}]}",
            layer_cases[i].layer));
        model_visit(model_of(&source, layer_cases[i].input, 2, 1), kind_is_in, &kind);
        assert_string_equal(kind, "");
    }
}

/* ---- PyTorch. ---- */

static const char golden_model[] =
    "model:\n"
    "  kind: sequential\n"
    "  layers:\n"
    "    - conv: {name: stem, filters: 4, bias: false}\n"
    "    - batch_norm: {name: stem_norm}\n"
    "    - relu\n"
    "    - residual:\n"
    "        name: block\n"
    "        main:\n"
    "          - conv: {name: conv1, filters: 6, stride: 2, bias: false}\n"
    "          - batch_norm: {name: norm1}\n"
    "          - silu\n"
    "          - conv: {name: conv2, depthwise: true}\n"
    "        shortcut:\n"
    "          - conv: {name: short, filters: 6, kernel: 1, stride: 2}\n"
    "    - batch_norm: {name: norm2}\n"
    "    - relu\n"
    "    - max_pool\n"
    "    - flatten\n"
    "    - linear: {name: classes, units: 3}\n";

static const float golden_tolerance = 1e-4f;

static void load_params(const GoldenCase *from, Model *model) {
    for (int i = 0; i < model->param_count; i++) {
        Param *p = model->params[i];
        if (p->role == PARAM_BUFFER) continue;
        const GoldenTensor *tensor = golden_tensor(from, p->name);
        assert_true(shape_equal(tensor->shape, p->value.shape));
        memcpy(p->value.data, tensor->values, sizeof(float) * (size_t)tensor_count(&p->value));
    }
}

/* The gradient of a bias in front of a batch norm is 0, of which rounding leaves sums of 64 numbers
 * below 1. */
static void compare_gradient(const GoldenCase *from, const Param *p) {
    const GoldenTensor *expected = golden_tensor(from, p->name);
    bool is_zero = p->role == PARAM_BIAS;
    for (int64_t i = 0; i < tensor_count(&p->value); i++)
        is_zero = is_zero && fabsf(expected->values[i]) < 1e-12f;
    for (int64_t i = 0; is_zero && i < tensor_count(&p->value); i++)
        assert_true(fabsf(p->grad[i]) < 1e-6f);
    if (!is_zero) golden_compare(from, p->name, p->grad, golden_tolerance);
}

static void a_training_step_is_that_of_pytorch(void **state) {
    (void)state;
    ModelSource source = model_source(golden_model);
    Model *model = model_of(&source, SHAPE(8, 8, 2), 3, 1);
    Golden file = golden_open("tests/golden/model.txt", arena);
    GoldenCase *c = arena_new_array(arena, GoldenCase, 1);
    assert_true(golden_next(&file, c));
    load_params(c, model);
    Tensor x = {.dtype = DTYPE_F32, .shape = SHAPE(4, 8, 8, 2)};
    x.data = golden_tensor(c, "x")->values;

    assert_true(golden_next(&file, c));
    float *grad = arena_new_array(arena, float, tensor_count(&x));
    tape_begin(tape, TAPE_TRAINING);
    Var *leaf = tape_leaf(tape, x, grad, NULL);
    Var *logits = model_forward(model, tape, leaf);
    Var *loss = op_cross_entropy(tape, logits, (int32_t[]){0, 1, 2, 0}, 0);
    tape_backward(tape, loss, 1);
    golden_compare(c, "logits", var_f32(logits), golden_tolerance);
    golden_compare(c, "loss", var_f32(loss), golden_tolerance);
    golden_compare(c, "x", grad, golden_tolerance);
    for (int i = 0; i < model->param_count; i++) {
        const Param *p = model->params[i];
        if (p->role == PARAM_BUFFER)
            golden_compare(c, p->name, tensor_f32(&p->value), golden_tolerance);
        else
            compare_gradient(c, p);
    }

    assert_true(golden_next(&file, c));
    Tensor evaluated = logits_of(model, tape, x);
    golden_compare(c, "logits", tensor_f32(&evaluated), golden_tolerance);
    golden_close(&file);
}

/* ---- What is refused. ---- */

typedef struct Refusal {
    const char *model, *message;
} Refusal;

/* At stride 1, whatever the kernel: a residual around it is possible. */
static void padding_keeps_the_size(void **state) {
    (void)state;
    for (int kernel = 1; kernel <= 6; kernel++)
        for (int dilation = 1; dilation <= 3; dilation++) {
            ModelSource source = model_source(arena_format(
                arena,
                "model: {kind: sequential, layers: [residual: {main: [{conv: {filters: 2, kernel: "
                "%d, dilation: %d}}]}, flatten, linear: {units: 3}]}\n",
                kernel, dilation));
            model_of(&source, SHAPE(9, 8, 2), 3, 1);
        }
}

static void wrong_settings_are_refused(void **state) {
    (void)state;
    static const Refusal refusals[] = {
        {"{kind: resnet, depth: 18}",
         "model.depth must be 6 n + 2 (8, 14, 20, 26, 32, ...), not 18"},
        {"{kind: resnet, widths: [16, 32]}",
         "model.widths needs three numbers, one per stage, not 2"},
        {"{kind: mobilenet, widths: [8, 8], strides: [1]}",
         "model.widths has 2 numbers and model.strides 1; they need one per block"},
        {"{kind: sequential, layers: []}", "model.layers is empty"},
        {"{kind: sequential, layers: [flatten, linear: {units: 9}]}",
         "model: the last layer gives [1, 9] for one sample, but the data have 10 classes; end "
         "with a linear layer of 10 units"},
        {"{kind: sequential, layers: [conv: {filters: 10}]}",
         "model: the last layer gives [1, 4, 4, 10] for one sample, but the data have 10 classes; "
         "end with a linear layer of 10 units"},
        {"{kind: sequential, layers: [flatten, linear: {units: 10}, conv]}",
         "model 'sequential': conv1: conv needs images [n, height, width, channels], not rank 2"},
    };
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const char *text = arena_format(arena, "model: %s", refusals[i].model);
        assert_string_equal(model_error(text, SHAPE(4, 4, 1), 10), refusals[i].message);
    }
}

/* Three poolings by 2 leave nothing of 4 pixels: the layer that fails is named. */
static void images_that_are_too_small_are_refused(void **state) {
    (void)state;
    const char *message = model_error("model: {kind: cnn, widths: [2, 2, 2]}", SHAPE(4, 4, 1), 10);
    assert_true(strncmp(message, "model 'cnn': pool3: ", 20) == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(resnet20_written_out_is_the_built_in_model),
        TEST(mobilenet_written_out_is_the_built_in_model),
        TEST(resnet20_has_the_known_number_of_parameters),
        TEST(resnets_of_other_depths_have_the_counted_parameters),
        TEST(mobilenet_has_the_counted_parameters),
        TEST(cnn_and_mlp_have_the_counted_parameters),
        TEST(weights_have_their_shapes),
        TEST(dropout_is_there_when_asked_for),
        TEST(every_kind_of_layer_runs_forward_and_backward),
        TEST(the_cases_hold_the_kinds_they_are_for),
        TEST(a_training_step_is_that_of_pytorch),
        TEST(padding_keeps_the_size),
        TEST(wrong_settings_are_refused),
        TEST(images_that_are_too_small_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
