/* A packed model alone: its memory holds codes, any count of images gives the same bits, its
 * normalisation is its own, and parts that a stranger might have written are refused by name. That
 * it computes what the trained network computes is test_convert's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>

#include "qat/convert.h"
#include "tests/model_source.h"
#include "tests/storages.h"

static int set_up(void **state) {
    (void)state;
    arena = arena_new("test");
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    arena_free(arena);
    return 0;
}

static const float mean[] = {0.5f, -2}, deviation[] = {3, 0.7f};

/* An untrained network of this text, whose quantizers saw a batch, packed in `into`. */
static PackedModel packed_from(const char *text, Shape input, int64_t classes, Arena *into) {
    ModelSource source = model_source(text);
    Qat *qat = qat_of(&source, model_of(&source, input, classes, 1));
    Tape *tape = tape_new(arena);
    Tensor x = batch_of(qat->model, 8, 3);
    qat_set_step(qat, 0, 10);
    train_step(qat->model, tape, x, 0.01f);
    qat_set_evaluation(qat);
    tape_free(tape);
    PackedModel m = packed_model_of(qat, into);
    m.mean = mean;
    m.deviation = deviation;
    return m;
}

static const char network[] = "model:\n"
                              "  kind: sequential\n"
                              "  layers:\n"
                              "    - conv: {name: stem, filters: 4, bias: false}\n"
                              "    - batch_norm: {name: norm}\n"
                              "    - relu\n"
                              "    - conv: {name: wide, filters: 4}\n"
                              "    - relu\n"
                              "    - residual: {name: block, main: [{conv: {filters: 4}}]}\n"
                              "    - layer_norm: {name: loose}\n"
                              "    - flatten\n"
                              "    - linear: {name: classes, units: 3}\n"
                              "quant: {bits: 4, weights: {quantizer: minmax, affine: true},\n"
                              "  activations: {quantizer: minmax, affine: true}}\n";

static PackedModel small(void) {
    return packed_from(network, SHAPE(4, 4, 2), 3, arena);
}

static void build(PackedModel *m) {
    Error err = {0};
    if (!packed_model_build(m, &err)) fail_msg("%s", err.message);
}

static void run(PackedModel *m, const float *images, int64_t count, float *logits) {
    Error err = {0};
    if (!packed_model_run(m, images, count, logits, &err)) fail_msg("%s", err.message);
}

static float *images_of(const PackedModel *m, int64_t count) {
    float *images = arena_new_array(arena, float, count *shape_count(m->input));
    RandomKey key = {.seed = 8, .stream = RANDOM_TEST};
    random_fill_normal(key, 2, count * shape_count(m->input), images);
    return images;
}

/* ---- Running ---- */

/* Weights of 4 bits take half a byte in memory, before and after a run; as floats they would take
 * eight times as much. */
static void weights_stay_codes(void **state) {
    (void)state;
    enum { WIDTH = 1024, CODES = WIDTH * WIDTH / 2, SLACK = CODES };
    Arena *own = arena_new("packed");
    PackedModel made = packed_from("model: {kind: mlp, widths: [1024, 1024]}\n"
                                   "quant: {bits: 4, weights: {granularity: tensor}}\n",
                                   SHAPE(1, 1, 4), 3, arena);
    made.mean = made.deviation = (const float[]){1, 1, 1, 1};
    size_t before = arena_used(own);
    made.arena = own;
    build(&made);
    float logits[3 * 3];
    run(&made, images_of(&made, 3), 3, logits);
    assert_int_equal(made.weights[1].codes.dtype, DTYPE_INT4);
    assert_in_range(arena_used(own) - before, 1, SLACK);
    assert_in_range(arena_used(made.tape->arena), 1, SLACK);
    packed_model_close(&made);
    arena_free(own);
}

static void any_count_gives_the_same_bits(void **state) {
    (void)state;
    enum { COUNT = 150 };
    PackedModel m = small();
    build(&m);
    const float *images = images_of(&m, COUNT);
    float together[COUNT * 3], alone[COUNT * 3];
    run(&m, images, COUNT, together);
    for (int i = 0; i < COUNT; i++) run(&m, images + i * shape_count(m.input), 1, alone + 3 * i);
    assert_memory_equal(together, alone, sizeof together);
    size_t used = arena_used(m.arena);
    run(&m, images, COUNT, together);
    assert_int_equal(arena_used(m.arena), used);
    packed_model_close(&m);
}

static void stored_pixels_are_normalised(void **state) {
    (void)state;
    enum { COUNT = 5 };
    static const float zero[] = {0, 0}, one[] = {1, 1};
    PackedModel m = small(), plain = small();
    plain.mean = zero;
    plain.deviation = one;
    m.graph.places.count = plain.graph.places.count = 0; /* quantizers would hide a last bit */
    build(&m);
    build(&plain);
    int64_t pixels = COUNT * shape_count(m.input);
    float *images = images_of(&m, COUNT), logits[COUNT * 3], expected[COUNT * 3];
    run(&m, images, COUNT, logits);
    for (int64_t i = 0; i < pixels; i++) images[i] = (images[i] - mean[i % 2]) / deviation[i % 2];
    run(&plain, images, COUNT, expected);
    assert_memory_equal(logits, expected, sizeof logits);
    packed_model_close(&m);
    packed_model_close(&plain);
}

static void logits_that_are_not_finite_are_an_error(void **state) {
    (void)state;
    PackedModel m = small();
    for (int i = 0; i < m.weight_count; i++)
        for (int64_t j = 0; j < m.weights[i].codes.scales->count; j++)
            *(float *)(uintptr_t)&m.weights[i].codes.scales->scale[j] = 3e38f;
    build(&m);
    Error err = {0};
    float logits[3];
    assert_false(packed_model_run(&m, images_of(&m, 1), 1, logits, &err));
    assert_int_equal(err.code, ERROR_NUMERIC);
    assert_non_null(strstr(err.message, "logits that are not finite"));
    packed_model_close(&m);
}

/* Codes behind it would hide a NaN: inputs so large that a float layer gives one. */
static void values_that_are_not_finite_are_an_error(void **state) {
    (void)state;
    PackedModel m = packed_from("model: {kind: cnn, widths: [4, 4]}\n"
                                "quant: {bits: 4, rules: [{layers: first, bits: 32}]}\n",
                                SHAPE(4, 4, 2), 3, arena);
    build(&m);
    Error err = {0};
    float logits[3], *images = images_of(&m, 1);
    run(&m, images, 1, logits);
    for (int i = 0; i < 32; i++) images[i] = i % 2 ? 3e38f : -3e38f;
    assert_false(packed_model_run(&m, images, 1, logits, &err));
    assert_int_equal(err.code, ERROR_NUMERIC);
    assert_non_null(strstr(err.message, "that are not finite: images hold numbers far beyond"));
    packed_model_close(&m);
}

/* ---- What is refused ---- */

static PackedWeight *weight(PackedModel *m, const char *layer) {
    for (int i = 0; i < m->weight_count; i++)
        if (!strcmp(m->weights[i].layer, layer)) return &m->weights[i];
    fail_msg("no weight %s", layer);
    return NULL;
}

static Scales *scales(PackedModel *m) {
    return (Scales *)(uintptr_t)weight(m, "wide")->codes.scales;
}

static PackedEdge *edge(PackedModel *m) {
    return &m->edges[0];
}

#define NUMBER(pointer) (*(float *)(uintptr_t)(pointer))

static void infinite_scale(PackedModel *m) {
    NUMBER(&scales(m)->scale[2]) = INFINITY;
}
static void negative_scale(PackedModel *m) {
    NUMBER(&scales(m)->scale[1]) = -1;
}
static void zero_scale(PackedModel *m) {
    NUMBER(&scales(m)->scale[3]) = 0;
}
static void nan_scale(PackedModel *m) {
    edge(m)->scale = NAN;
}
static void large_zero(PackedModel *m) {
    NUMBER(&scales(m)->zero[3]) = 16;
}
static void small_zero(PackedModel *m) {
    NUMBER(&scales(m)->zero[3]) = -1;
}
static void broken_zero(PackedModel *m) {
    edge(m)->zero = 0.5f;
}
static void many_bits(PackedModel *m) {
    edge(m)->grid.bits = 9;
}
static void one_bit(PackedModel *m) {
    edge(m)->grid.bits = 1;
}
static void one_bit_signed(PackedModel *m) {
    scales(m)->grid = grid_signed(1);
}
static void four_of_three(PackedModel *m) {
    scales(m)->grid = (Grid){.bits = 2, .base = -1, .step = 1};
}
static void byte_of_none(PackedModel *m) {
    scales(m)->grid = grid_ternary();
    NUMBER(&scales(m)->zero[0]) = NUMBER(&scales(m)->zero[1]) = 0;
    NUMBER(&scales(m)->zero[2]) = NUMBER(&scales(m)->zero[3]) = 0;
    Tensor *codes = &m->weights[1].codes;
    codes->dtype = DTYPE_TERNARY;
    memset(codes->data, 242, dtype_bytes(DTYPE_TERNARY, tensor_count(codes)));
    ((uint8_t *)codes->data)[7] = 243;
}
static void wide_step(PackedModel *m) {
    scales(m)->grid.step = 2;
}
static void odd_weight(PackedModel *m) {
    scales(m)->grid = grid_odd(4);
}
static void odd_edge(PackedModel *m) {
    edge(m)->grid = grid_odd(4);
}
static void odd_edge_per_token(PackedModel *m) {
    edge(m)->grid = grid_odd(4);
    edge(m)->is_per_token = true;
}
static void odd_base(PackedModel *m) {
    scales(m)->grid.base = -3;
}
static void scale_format(PackedModel *m) {
    scales(m)->dtype = DTYPE_INT4;
}
static void long_rows(PackedModel *m) {
    scales(m)->row_length++;
}
static void long_runs(PackedModel *m) {
    scales(m)->run_length = 100;
}
static void no_runs(PackedModel *m) {
    scales(m)->run_length = 0;
}
static void fewer_scales(PackedModel *m) {
    scales(m)->count = 3;
}
static void other_shape(PackedModel *m) {
    weight(m, "wide")->codes.shape.dim[1] = 1;
    weight(m, "wide")->codes.shape.dim[2] = 9;
}
static void other_layer(PackedModel *m) {
    weight(m, "wide")->layer = "wider";
}
static void nan_bias(PackedModel *m) {
    NUMBER(&weight(m, "classes")->bias[1]) = NAN;
}
static void short_bias(PackedModel *m) {
    weight(m, "classes")->bias_count = 2;
}
static void no_bias(PackedModel *m) {
    weight(m, "classes")->bias = NULL;
}
static void infinite_param(PackedModel *m) {
    tensor_f32(&m->params[0].value)[1] = INFINITY;
}
static void param_shape(PackedModel *m) {
    m->params[0].value.shape = SHAPE(1);
}
static void missing_param(PackedModel *m) {
    m->param_count--;
}
static void spare_param(PackedModel *m) {
    m->params[m->param_count] = m->params[0];
    m->params[m->param_count++].name = "spare";
}
static void unknown_edge(PackedModel *m) {
    edge(m)->name = "renamed";
}
static void unknown_place(PackedModel *m) {
    ((PackedPlace *)m->graph.places.items)[0].module = "nowhere";
}
static void second_input(PackedModel *m) {
    ((PackedPlace *)m->graph.places.items)[0].input2 = edge(m)->name;
}
static void no_norm(PackedModel *m) {
    ((PackedFold *)m->graph.folds.items)[0].norm = "relu1";
}
static void fold_elsewhere(PackedModel *m) {
    ((PackedFold *)m->graph.folds.items)[0].layer = "norm";
}
static void fold_of_other_width(PackedModel *m) {
    ((PackedFold *)m->graph.folds.items)[0].layer = "classes";
    weight(m, "stem")->bias = NULL; /* which nothing is folded into then */
}
static void fold_without_bias(PackedModel *m) {
    weight(m, "stem")->bias = NULL;
}
static void spare_bias(PackedModel *m) {
    m->graph.folds.count = 0;
}
static void flat_deviation(PackedModel *m) {
    static const float flat[] = {1, 0};
    m->deviation = flat;
}
static void nan_mean(PackedModel *m) {
    static const float bad[] = {0, NAN};
    m->mean = bad;
}
static void no_width(PackedModel *m) {
    m->input.dim[1] = 0;
}
static void huge_width(PackedModel *m) {
    m->input.dim[1] = INT64_MAX / 32;
}
static void more_classes(PackedModel *m) {
    m->class_count = 4;
}
static void other_layers(PackedModel *m) {
    m->graph.layers.count--;
}

typedef struct Refusal {
    void (*damage)(PackedModel *m);
    const char *message;
} Refusal;

static void parts_that_do_not_fit_are_refused(void **state) {
    (void)state;
    static const Refusal refusals[] = {
        {infinite_scale, "weights/wide: scale 2 is inf, expected one above 0"},
        {negative_scale, "weights/wide: scale 1 is -1, expected one above 0"},
        {zero_scale, "weights/wide: scale 3 is 0, expected one above 0"},
        {nan_scale, "edges/input.out4: scale 0 is nan, expected one above 0"},
        {large_zero, "weights/wide: zero point 3 is 16, expected a whole one from 0 to 15"},
        {small_zero, "weights/wide: zero point 3 is -1, expected a whole one from 0 to 15"},
        {broken_zero, "edges/input.out4: zero point 0 is 0.5, expected a whole one from 0 to 15"},
        {many_bits, "edges/input.out4: 9 bits, expected 2 to 8"},
        {one_bit, "edges/input.out4: 1 bits, expected 2 to 8"},
        {one_bit_signed, "weights/wide: levels of base -1 and step 1 are of no grid of 1 bits"},
        {four_of_three, "weights/wide: levels of base -1 and step 1 are of no grid of 2 bits"},
        {byte_of_none, "weights/wide: byte 7 of its codes is 243, which no ternary codes make"},
        {wide_step, "weights/wide: levels of base 0 and step 2 are of no grid of 4 bits"},
        {odd_weight, "weights/wide: zero points on levels of step 2, expected step 1"},
        {odd_edge, "edges/input.out4: zero points on levels of step 2, expected step 1"},
        {odd_edge_per_token, "edges/input.out4: zero points on levels of step 2"},
        {odd_base, "weights/wide: levels of base -3 and step 1 are of no grid of 4 bits"},
        {scale_format, "weights/wide: its scales are stored as format"},
        {long_rows, "weights/wide: 4 scales for rows of 37 and runs of 36 do not fit [4, 3, 3, 4]"},
        {long_runs, "weights/wide: 4 scales for rows of 36 and runs of 100 do not fit"},
        {no_runs, "weights/wide: 4 scales for rows of 36 and runs of 0 do not fit"},
        {fewer_scales, "weights/wide: 3 scales for rows of 36 and runs of 36 do not fit"},
        {other_shape, "weights/wide: shape [4, 1, 9, 4], but the layer's weight is [4, 3, 3, 4]"},
        {other_layer, "weights/wider: the model has no layer with weights of that name"},
        {nan_bias, "weights/classes/bias: number 1 is nan"},
        {short_bias, "weights/classes: 2 biases for 3 outputs"},
        {no_bias, "weights/classes: lacks a bias, but the layer adds one"},
        {infinite_param, "params/loose.gamma: number 1 is inf"},
        {param_shape, "params/loose.gamma: shape [1], expected [4]"},
        {missing_param, "params/loose.beta is missing"},
        {spare_param, "params: 3 parameters, but the model reads 2"},
        {unknown_edge, "model: stem names the edge 'input.out4', of which nothing is stored"},
        {unknown_place, "model: a place names the layer 'nowhere', which does not exist"},
        {second_input, "model: stem has one input, not two"},
        {no_norm, "model: relu1 is folded into stem, but is no batch norm"},
        {fold_elsewhere, "model: norm is folded into norm, which is not packed"},
        {fold_of_other_width, "weights/classes: the bias does not fit the folded norm"},
        {fold_without_bias, "weights/stem: the bias does not fit the folded norm"},
        {spare_bias, "weights/stem: has a bias, but the layer has none"},
        {flat_deviation, "input/deviation: number 1 is 0, expected one above 0"},
        {nan_mean, "input/mean: number 1 is nan"},
        {no_width, "input: shape [4, 0, 2]: dimensions must be at least 1"},
        {huge_width, "input: shape [4, 288230376151711743, 2] is too large"},
        {more_classes, "model: gives [1, 3] for one image, but there are 4 classes"},
        {other_layers, "model: gives [1, 64] for one image, but there are 3 classes"},
    };
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        PackedModel m = small();
        refusals[i].damage(&m);
        Error err = {0};
        if (packed_model_build(&m, &err)) fail_msg("was accepted: %s", refusals[i].message);
        if (!strstr(err.message, refusals[i].message))
            fail_msg("\"%s\" instead of \"%s\"", err.message, refusals[i].message);
        assert_int_equal(err.code, ERROR_INPUT);
        packed_model_close(&m);
    }
}

/* Statistics are read as they lie. */
static void statistics_are_f32(void **state) {
    (void)state;
    PackedModel m = packed_from("model: {kind: sequential, layers: [batch_norm: {name: norm}, "
                                "flatten, linear: {units: 3}]}\nquant: {bits: 4}\n",
                                SHAPE(4, 4, 2), 3, arena);
    const Storage f16 = {.dtype = DTYPE_F16};
    Error err = {0};
    for (int i = 0; i < m.param_count; i++) {
        Tensor *value = &m.params[i].value;
        if (!strcmp(m.params[i].name, "norm.running_variance"))
            *value = storages_encode(arena, tensor_f32(value), value->shape, &f16);
    }
    assert_false(packed_model_build(&m, &err));
    assert_string_equal(err.message,
                        "params/norm.running_variance: stored as f16, but statistics are f32");
    packed_model_close(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(weights_stay_codes),
        TEST(any_count_gives_the_same_bits),
        TEST(stored_pixels_are_normalised),
        TEST(logits_that_are_not_finite_are_an_error),
        TEST(values_that_are_not_finite_are_an_error),
        TEST(parts_that_do_not_fit_are_refused),
        TEST(statistics_are_f32),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
