/* Values and gradients of the ops, and ten training steps, against PyTorch (golden/make_ops.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "autograd/ops.h"
#include "core/parallel.h"
#include "tests/golden.h"

/* The golden results are f64 sums rounded once; what differs is our f32. */
static const float tolerance = 1e-5f;

static Arena *arena;
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

/* ---- One case: leaves by their names in the file, made when a builder asks for them. ---- */

enum { LEAVES_MAX = 8 };

typedef struct Case {
    GoldenCase golden;
    Var *leaves[LEAVES_MAX];
    const char *names[LEAVES_MAX];
    int leaf_count;
} Case;

/* The leaf, or NULL if the case does without it (a bias). */
static Var *leaf(Case *c, const char *name) {
    const GoldenTensor *tensor = golden_find(&c->golden, name);
    if (!tensor) return NULL;
    assert_true(c->leaf_count < LEAVES_MAX);
    Var *v = tape_sample_leaf(tape, tensor->shape, 0, 0);
    memcpy(var_f32(v), tensor->values, sizeof(float) * (size_t)var_count(v));
    c->leaves[c->leaf_count] = v;
    c->names[c->leaf_count++] = name;
    return v;
}

static float number(const Case *c, const char *name) {
    return golden_number(&c->golden, name);
}

static int integer(const Case *c, const char *name) {
    return (int)number(c, name);
}

static const float *numbers(const Case *c, const char *name) {
    return golden_tensor(&c->golden, name)->values;
}

/* ---- How a case of each op is built. ---- */

static Var *build_linear(Case *c) {
    Var *x = leaf(c, "x"), *w = leaf(c, "w"), *bias = leaf(c, "bias");
    return op_linear(tape, x, w, bias);
}

static Var *build_conv2d(Case *c) {
    const float *pad = numbers(c, "pad");
    Conv2dAttr attr = {.stride = integer(c, "stride"),
                       .dilation = integer(c, "dilation"),
                       .groups = integer(c, "groups"),
                       .pad_top = (int64_t)pad[0],
                       .pad_bottom = (int64_t)pad[1],
                       .pad_left = (int64_t)pad[2],
                       .pad_right = (int64_t)pad[3]};
    Var *x = leaf(c, "x"), *w = leaf(c, "w"), *bias = leaf(c, "bias");
    return op_conv2d(tape, x, w, bias, attr);
}

/* Running statistics are taken from the file, and after the step compared with it. */
static BatchNormAttr batch_norm_attr(Case *c) {
    const GoldenTensor *mean = golden_tensor(&c->golden, "mean");
    const GoldenTensor *variance = golden_tensor(&c->golden, "variance");
    return (BatchNormAttr){.epsilon = number(c, "epsilon"),
                           .momentum = number(c, "momentum"),
                           .uses_batch = number(c, "uses_batch") != 0,
                           .running_mean = mean->values,
                           .running_variance = variance->values};
}

static Var *build_batch_norm(Case *c) {
    BatchNormAttr attr = batch_norm_attr(c);
    Var *x = leaf(c, "x"), *gamma = leaf(c, "gamma"), *beta = leaf(c, "beta");
    return op_batch_norm(tape, x, gamma, beta, attr);
}

/* Without a quantizer between, a folded convolution is the convolution and its batch norm. */
static Var *build_conv_batch_norm(Case *c) {
    BatchNormAttr attr = batch_norm_attr(c);
    Conv2dAttr same = {.stride = 1,
                       .dilation = 1,
                       .groups = 1,
                       .pad_top = 1,
                       .pad_bottom = 1,
                       .pad_left = 1,
                       .pad_right = 1};
    Var *x = leaf(c, "x"), *w = leaf(c, "w"), *bias = leaf(c, "bias");
    Var *gamma = leaf(c, "gamma"), *beta = leaf(c, "beta");
    Var *folded = op_batch_norm_fold(tape, w, gamma, attr);
    Var *product = op_conv2d(tape, x, folded, NULL, same);
    return op_batch_norm_folded(tape, product, gamma, beta, bias, attr);
}

static Var *build_rms_norm(Case *c) {
    Var *x = leaf(c, "x"), *gamma = leaf(c, "gamma");
    return op_rms_norm(tape, x, gamma, number(c, "epsilon"));
}

static Var *constant(Case *c, const char *name) {
    const GoldenTensor *at = golden_tensor(&c->golden, name);
    return tape_constant(tape,
                         (Tensor){.dtype = DTYPE_F32, .shape = at->shape, .data = at->values});
}

static Var *build_attention(Case *c) {
    AttentionAttr attr = {.heads = integer(c, "heads"),
                          .kv_heads = integer(c, "kv_heads"),
                          .scale = number(c, "scale")};
    Var *q = leaf(c, "q"), *k = leaf(c, "k"), *v = leaf(c, "v");
    Var *starts = golden_find(&c->golden, "starts") ? constant(c, "starts") : NULL;
    return op_attention(tape, q, k, v, starts, attr);
}

static Var *build_rotary(Case *c) {
    RotaryAttr attr = {.heads = integer(c, "heads"), .frequencies = numbers(c, "frequencies")};
    Var *x = leaf(c, "x"), *starts = constant(c, "starts");
    return op_rotary(tape, x, starts, attr);
}

static Var *build_embedding(Case *c) {
    Var *table = leaf(c, "table"), *ids = constant(c, "ids");
    return op_embedding(tape, table, ids);
}

static Var *build_layer_norm(Case *c) {
    Var *x = leaf(c, "x"), *gamma = leaf(c, "gamma"), *beta = leaf(c, "beta");
    return op_layer_norm(tape, x, gamma, beta, number(c, "epsilon"));
}

static Pool2dAttr pool_attr(const Case *c) {
    return (Pool2dAttr){.kernel = integer(c, "kernel"),
                        .stride = integer(c, "stride"),
                        .padding = integer(c, "padding")};
}

#define BUILD_X(op, ...)                                                                           \
    static Var *build_##op(Case *c) {                                                              \
        Var *x = leaf(c, "x");                                                                     \
        return op_##op(tape, x, ##__VA_ARGS__);                                                    \
    }
BUILD_X(relu)
BUILD_X(relu6)
BUILD_X(gelu)
BUILD_X(silu)
BUILD_X(sigmoid)
BUILD_X(tanh)
BUILD_X(softmax)
BUILD_X(global_avg_pool)
BUILD_X(max_normalize)
BUILD_X(max_pool2d, pool_attr(c))
BUILD_X(avg_pool2d, pool_attr(c))
BUILD_X(scale, number(c, "factor"))
BUILD_X(mean, integer(c, "axis"))
BUILD_X(sum, integer(c, "axis"))
BUILD_X(slice, integer(c, "axis"), integer(c, "first"), integer(c, "count"))
BUILD_X(transpose, (int)numbers(c, "axes")[0], (int)numbers(c, "axes")[1])
BUILD_X(reshape, SHAPE((int64_t)numbers(c, "shape")[0], (int64_t)numbers(c, "shape")[1]))
#undef BUILD_X

static Var *build_add(Case *c) {
    Var *a = leaf(c, "a"), *b = leaf(c, "b");
    return op_add(tape, a, b);
}

static Var *build_mul(Case *c) {
    Var *a = leaf(c, "a"), *b = leaf(c, "b");
    return op_mul(tape, a, b);
}

static Var *build_concat(Case *c) {
    static const char *const names[] = {"part0", "part1", "part2"};
    Var *parts[3];
    int count = 0;
    while (count < 3 && (parts[count] = leaf(c, names[count]))) count++;
    return op_concat(tape, parts, count, integer(c, "axis"));
}

static int32_t *labels_of(const GoldenCase *golden) {
    const GoldenTensor *tensor = golden_tensor(golden, "labels");
    int64_t count = shape_count(tensor->shape);
    int32_t *labels = arena_new_array(arena, int32_t, count);
    for (int64_t i = 0; i < count; i++) labels[i] = (int32_t)tensor->values[i];
    return labels;
}

static Var *build_cross_entropy(Case *c) {
    Var *logits = leaf(c, "logits");
    return op_cross_entropy(tape, logits, labels_of(&c->golden), number(c, "smoothing"));
}

static Var *build_mse(Case *c) {
    Var *input = leaf(c, "input"), *target = leaf(c, "target");
    return op_mse(tape, input, target);
}

static Var *build_distill(Case *c) {
    Var *logits = leaf(c, "logits");
    return op_distill(tape, logits, numbers(c, "teacher"), number(c, "temperature"));
}

static Var *build_fake_quant(Case *c) {
    const float *grid = numbers(c, "grid");
    int64_t row = integer(c, "row");
    FakeQuantAttr attr = {.grid = {.bits = (int)grid[0], .base = (int)grid[1], .step = 1},
                          .row_length = row,
                          .run_length = row,
                          .scale_dtype = DTYPE_F32,
                          .range_gradient = (RangeGradient)integer(c, "range_gradient"),
                          .grad_scale = number(c, "grad_scale")};
    Var *x = leaf(c, "x"), *scale = leaf(c, "scale");
    return op_fake_quant(tape, x, scale, NULL, attr);
}

static const struct Builder {
    const char *name;
    Var *(*build)(Case *c);
} builders[] = {
#define BUILDER(op)                                                                                \
    { #op, build_##op }
    BUILDER(linear),
    BUILDER(conv2d),
    BUILDER(batch_norm),
    BUILDER(layer_norm),
    BUILDER(rms_norm),
    BUILDER(attention),
    BUILDER(rotary),
    BUILDER(embedding),
    BUILDER(relu),
    BUILDER(relu6),
    BUILDER(gelu),
    BUILDER(silu),
    BUILDER(sigmoid),
    BUILDER(tanh),
    BUILDER(max_pool2d),
    BUILDER(avg_pool2d),
    BUILDER(global_avg_pool),
    BUILDER(add),
    BUILDER(mul),
    BUILDER(scale),
    BUILDER(concat),
    BUILDER(reshape),
    BUILDER(slice),
    BUILDER(transpose),
    BUILDER(mean),
    BUILDER(sum),
    BUILDER(softmax),
    BUILDER(cross_entropy),
    BUILDER(mse),
    BUILDER(distill),
    BUILDER(fake_quant),
    BUILDER(max_normalize),
    BUILDER(conv_batch_norm),
#undef BUILDER
};
enum { BUILDER_COUNT = sizeof builders / sizeof *builders };

static int find_builder(const char *name) {
    for (int i = 0; i < BUILDER_COUNT; i++)
        if (!strcmp(builders[i].name, name)) return i;
    fail_msg("nothing builds a case of %s", name);
    return -1;
}

static void compare_buffer(const Case *c, const char *name, const char *after) {
    if (golden_find(&c->golden, after))
        golden_compare(&c->golden, after, numbers(c, name), tolerance);
}

static void check_case(Case *c, const struct Builder *builder) {
    c->leaf_count = 0;
    tape_begin(tape, TAPE_TRAINING);
    Var *y = builder->build(c);
    if (tape->error.code != ERROR_NONE)
        fail_msg("case %d: %s", c->golden.number, tape->error.message);
    assert_true(shape_equal(y->value.shape, golden_tensor(&c->golden, "y")->shape));
    float *values = tape_alloc(tape, sizeof(float) * (size_t)var_count(y));
    tensor_decode(&y->value, values);
    golden_compare(&c->golden, "y", values, tolerance);
    Tensor seed = {.shape = y->value.shape, .data = golden_tensor(&c->golden, "y.grad")->values};
    Var *seed_var = tape_constant(tape, seed);
    Var *weighted = op_mul(tape, y, seed_var);
    Var *loss = op_sum(tape, weighted, -1);
    tape_backward(tape, loss, 1);
    for (int i = 0; i < c->leaf_count; i++) {
        char name[GOLDEN_NAME_BYTES];
        snprintf(name, sizeof name, "%s.grad", c->names[i]);
        assert_true(*c->leaves[i]->has_grad);
        golden_compare(&c->golden, name, var_grad_f32(c->leaves[i]), tolerance);
    }
    compare_buffer(c, "mean", "mean.after");
    compare_buffer(c, "variance", "variance.after");
}

static void test_ops(void **state) {
    (void)state;
    int cases[BUILDER_COUNT] = {0};
    Golden golden = golden_open("tests/golden/ops.txt", arena);
    static Case c;
    while (golden_next(&golden, &c.golden)) {
        int builder = find_builder(c.golden.name);
        check_case(&c, &builders[builder]);
        cases[builder]++;
    }
    golden_close(&golden);
    for (int i = 0; i < BUILDER_COUNT; i++)
        if (!cases[i]) fail_msg("%s has no case in the golden file", builders[i].name);
}

/* ---- Ten steps of SGD with momentum on a small CNN. ---- */

enum { PARAM_COUNT = 5 };
static const char *const param_names[PARAM_COUNT] = {"conv", "gamma", "beta", "linear", "bias"};

typedef struct Network {
    GoldenTensor params[PARAM_COUNT];
    float *grad[PARAM_COUNT], *velocity[PARAM_COUNT];
    bool has_grad[PARAM_COUNT];
    BatchNormAttr norm;
} Network;

static Network network_new(const GoldenCase *golden) {
    Network network = {.norm = {.epsilon = golden_number(golden, "epsilon"),
                                .momentum = 0.1f,
                                .uses_batch = true}};
    for (int p = 0; p < PARAM_COUNT; p++) {
        network.params[p] = *golden_tensor(golden, param_names[p]);
        int64_t count = shape_count(network.params[p].shape);
        network.grad[p] = arena_new_array(arena, float, count);
        network.velocity[p] = arena_new_array(arena, float, count);
    }
    int64_t channels = shape_count(network.params[1].shape);
    network.norm.running_mean = arena_new_array(arena, float, channels);
    network.norm.running_variance = arena_new_array(arena, float, channels);
    for (int64_t i = 0; i < channels; i++) network.norm.running_variance[i] = 1;
    return network;
}

/* conv 3x3, batch norm, ReLU, max pool 2, linear, cross-entropy with label smoothing 0.1. */
static Var *network_loss(Network *network, const GoldenTensor *images, const int32_t *labels) {
    Var *params[PARAM_COUNT];
    for (int p = 0; p < PARAM_COUNT; p++) {
        Tensor tensor = {.shape = network->params[p].shape, .data = network->params[p].values};
        params[p] = tape_leaf(tape, tensor, network->grad[p], &network->has_grad[p]);
    }
    Conv2dAttr same = {.stride = 1,
                       .dilation = 1,
                       .groups = 1,
                       .pad_top = 1,
                       .pad_bottom = 1,
                       .pad_left = 1,
                       .pad_right = 1};
    Var *x = tape_constant(tape, (Tensor){.shape = images->shape, .data = images->values});
    x = op_conv2d(tape, x, params[0], NULL, same);
    x = op_batch_norm(tape, x, params[1], params[2], network->norm);
    x = op_relu(tape, x);
    x = op_max_pool2d(tape, x, (Pool2dAttr){.kernel = 2, .stride = 2});
    x = op_reshape(tape, x, SHAPE(images->shape.dim[0], -1));
    x = op_linear(tape, x, params[3], params[4]);
    return op_cross_entropy(tape, x, labels, 0.1f);
}

static void network_update(Network *network, float rate, float momentum) {
    for (int p = 0; p < PARAM_COUNT; p++) {
        assert_true(network->has_grad[p]);
        network->has_grad[p] = false;
        for (int64_t i = 0; i < shape_count(network->params[p].shape); i++) {
            float *velocity = &network->velocity[p][i];
            *velocity = momentum * *velocity + network->grad[p][i];
            network->params[p].values[i] -= rate * *velocity;
        }
    }
}

static void test_training(void **state) {
    (void)state;
    Golden golden = golden_open("tests/golden/training.txt", arena);
    static GoldenCase cnn;
    assert_true(golden_next(&golden, &cnn));
    golden_close(&golden);
    Network network = network_new(&cnn);
    const int32_t *labels = labels_of(&cnn);
    float rate = golden_number(&cnn, "lr"), momentum = golden_number(&cnn, "momentum");
    float losses[10];
    assert_int_equal(shape_count(golden_tensor(&cnn, "losses")->shape), 10);
    for (int step = 0; step < 10; step++) {
        tape_begin(tape, TAPE_TRAINING);
        Var *loss = network_loss(&network, golden_tensor(&cnn, "x"), labels);
        assert_int_equal(tape->error.code, ERROR_NONE);
        losses[step] = *var_f32(loss);
        tape_backward(tape, loss, 1);
        network_update(&network, rate, momentum);
    }
    golden_compare(&cnn, "losses", losses, tolerance);
    golden_compare(&cnn, "mean.after", network.norm.running_mean, tolerance);
    golden_compare(&cnn, "variance.after", network.norm.running_variance, tolerance);
    for (int p = 0; p < PARAM_COUNT; p++) {
        char name[GOLDEN_NAME_BYTES];
        snprintf(name, sizeof name, "%s.after", param_names[p]);
        golden_compare(&cnn, name, network.params[p].values, 4 * tolerance);
    }
}

int main(void) {
    Error err = {0};
    if (!parallel_init(0, &err)) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_ops, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_training, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
