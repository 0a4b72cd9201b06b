/* Fake becomes stored: a packed model gives the logits of the fake-quant network, bit for bit, for
 * every quantizer and format; as integers too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>

#include "core/kernels.h"
#include "qat/convert.h"
#include "tests/model_source.h"
#include "tests/storages.h"

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

enum { CLASSES = 3, BATCH = 4 };
#define INPUT SHAPE(6, 6, 2)

/* A convolution without and with a bias before a norm, a depthwise one, one without a norm, a norm
 * that is not folded, a residual add, linear layers with and without a norm. */
static const char network[] = "model:\n"
                              "  kind: sequential\n"
                              "  layers:\n"
                              "    - conv: {name: stem, filters: 4, bias: false}\n"
                              "    - batch_norm\n"
                              "    - relu\n"
                              "    - residual:\n"
                              "        name: block\n"
                              "        main:\n"
                              "          - conv: {name: deep, depthwise: true}\n"
                              "          - batch_norm\n"
                              "          - relu\n"
                              "          - conv: {name: point, filters: 4, kernel: 1}\n"
                              "          - relu\n"
                              "    - batch_norm: {name: loose}\n"
                              "    - relu\n"
                              "    - max_pool\n"
                              "    - conv: {name: grouped, filters: 6, groups: 2, stride: 2}\n"
                              "    - relu\n"
                              "    - flatten\n"
                              "    - linear: {name: hidden, units: 7}\n"
                              "    - batch_norm\n"
                              "    - relu\n"
                              "    - linear: {name: classes, units: 3}\n";

/* False: the quantizer does not support what is asked of it. */
static bool try_source(const char *quant, ModelSource *source) {
    *source = model_source(arena_format(arena, "%squant: %s\n", network, quant));
    Qat *qat;
    Error err = {0};
    return qat_prepare(model_of(source, INPUT, CLASSES, 1), &source->quant, arena, &qat, &err);
}

/* A bias before a norm gets no gradient. */
static void move_biases(Model *model) {
    for (int i = 0; i < model->param_count; i++) {
        const Param *p = model->params[i];
        RandomKey key = {.seed = 5, .stream = RANDOM_TEST, .step = (uint64_t)i};
        if (p->role == PARAM_BIAS)
            random_fill_normal(key, 0.5f, tensor_count(&p->value), p->value.data);
    }
}

/* Trained a little, so that norms, biases and scales are no longer what they started as. */
static Qat *trained_from(const ModelSource *source, Model *model) {
    Qat *qat = qat_of(source, model);
    Tensor x = batch_of(qat->model, BATCH, 1);
    qat_set_step(qat, 0, 10);
    for (int step = 0; step < 2; step++) train_step(qat->model, tape, x, 0.05f);
    qat_set_evaluation(qat);
    return qat;
}

static Qat *trained(const ModelSource *source) {
    Model *model = model_of(source, INPUT, CLASSES, 1);
    move_biases(model);
    return trained_from(source, model);
}

/* ---- What is shipped, in memory of its own. ---- */

static void *copy_of(const void *data, size_t bytes) {
    return data ? memcpy(arena_alloc(arena, bytes), data, bytes) : NULL;
}

static Scales *copy_scales(const Scales *s) {
    size_t bytes = sizeof(float) * (size_t)s->count;
    Scales *copy = copy_of(s, sizeof *s);
    copy->scale = copy_of(s->scale, bytes);
    copy->zero = copy_of(s->zero, bytes);
    return copy;
}

static Tensor copy_stored(Tensor value) {
    value.data = copy_of(value.data, dtype_bytes(value.dtype, tensor_count(&value)));
    if (!value.scales) return value;
    Scales *scales = copy_of(value.scales, sizeof *scales);
    Tensor stored = copy_stored(*scales->stored);
    scales->stored = copy_of(&stored, sizeof stored);
    scales->scale = stored.dtype == DTYPE_F32 ? stored.data : NULL;
    value.scales = scales;
    return value;
}

/* Images are fed as they are. */
static void normalize_nothing(PackedModel *m) {
    int64_t channels = m->input.dim[2];
    float *numbers = arena_new_array(arena, float, 2 * channels);
    for (int64_t c = 0; c < channels; c++) numbers[c] = 0, numbers[channels + c] = 1;
    m->mean = numbers;
    m->deviation = numbers + channels;
}

/* Nothing that the training network holds is shared, but names and settings. */
static PackedModel ship(const Qat *qat) {
    PackedModel m = packed_model_of(qat, arena);
    for (int i = 0; i < m.weight_count; i++) {
        PackedWeight *w = &m.weights[i];
        w->codes.data =
            copy_of(w->codes.data, dtype_bytes(w->codes.dtype, tensor_count(&w->codes)));
        w->codes.scales = copy_scales(w->codes.scales);
        w->bias = copy_of(w->bias, sizeof(float) * (size_t)w->bias_count);
    }
    for (int i = 0; i < m.param_count; i++) m.params[i].value = copy_stored(m.params[i].value);
    normalize_nothing(&m);
    return m;
}

static Tensor packed_logits(const PackedModel *shipped, Tensor x) {
    PackedModel m = *shipped;
    Error err = {0};
    Tensor logits = tensor_new(arena, DTYPE_F32, SHAPE(x.shape.dim[0], m.class_count));
    if (!packed_model_build(&m, &err) ||
        !packed_model_run(&m, tensor_f32(&x), x.shape.dim[0], logits.data, &err))
        fail_msg("%s", err.message);
    packed_model_close(&m);
    return logits;
}

/* The masters are gone: whatever still reads them finds NaN, or the last entry. */
static void spoil(const Model *model) {
    for (int i = 0; i < model->param_count; i++) {
        const Tensor *value = &model->params[i]->value;
        memset(value->data, 0xff, dtype_bytes(value->dtype, tensor_count(value)));
    }
}

static Tensor integer_logits(Model *model, Tensor x) {
    kernels_use_reference(true);
    Tensor logits = logits_of(model, tape, x);
    kernels_use_reference(false);
    return logits;
}

static bool is_finite(Tensor x) {
    for (int64_t i = 0; i < tensor_count(&x); i++)
        if (!isfinite(tensor_f32(&x)[i])) return false;
    return true;
}

/* `is_integer`: whether the scales let products run on codes. */
static void assert_ships(const Qat *qat, bool is_integer) {
    PackedModel stored = ship(qat);
    Tensor x = batch_of(qat->model, 2 * BATCH, 7);
    Tensor faked = logits_of(qat->model, tape, x);
    assert_true(is_finite(faked));
    if (is_integer) assert_same_bits(integer_logits(qat->model, x), faked);
    spoil(qat->model);
    assert_same_bits(packed_logits(&stored, x), faked);
    if (!is_integer) return;
    kernels_use_reference(true);
    assert_same_bits(packed_logits(&stored, x), faked);
    kernels_use_reference(false);
}

static void assert_stored_is_faked(const ModelSource *source, bool is_integer) {
    assert_ships(trained(source), is_integer);
}

/* ---- Every quantizer, width, granularity, zero point, precision of scales. ---- */

static const char *const granularities[] = {"tensor", "channel", "group, group_size: 5"};
static const char *const scale_dtypes[] = {"f32", "f16", "bf16"};

static void run_weights(const char *kind, int bits, int granularity, int scale, bool is_affine,
                        int *run) {
    ModelSource source;
    const char *quant = arena_format(
        arena,
        "{bits: 8, weights: {bits: %d, quantizer: %s, granularity: %s, affine: %s, scale: %s}}",
        bits, kind, granularities[granularity], is_affine ? "true" : "false", scale_dtypes[scale]);
    if (!try_source(quant, &source)) return;
    assert_stored_is_faked(&source, granularity < 2);
    ++*run;
}

/* Of the combinations every fifth, with another start for each kind: all pairs occur somewhere. */
static void weights_of_every_quantizer(void **state) {
    (void)state;
    static const int widths[] = {2, 3, 4, 8};
    for (int k = 0; k < quantizer_kinds.count; k++) {
        const char *kind = quantizer_kinds.kinds[k]->name;
        int run = 0;
        for (int i = k % 5; i < 4 * 3 * 3 * 2; i += 5) {
            ArenaMark mark = arena_mark(arena);
            run_weights(kind, widths[i % 4], i / 4 % 3, (i / 12 + i) % 3, i / 36 % 2, &run);
            arena_rewind(arena, mark);
        }
        const Quantizer *row = (const Quantizer *)quantizer_kinds.kinds[k];
        assert_int_equal(run > 0, (row->flags & QUANTIZER_FOR_WEIGHTS) != 0);
    }
}

/* Some quantizers take no negative values, such as the image has. */
static void run_activations(const char *kind, int bits, int scale, bool is_affine, int *run) {
    static const char *const rules[] = {"", ", rules: [{layers: first, activation_bits: 32}]"};
    for (int i = 0; i < 2; i++) {
        ModelSource source;
        const char *quant = arena_format(
            arena, "{bits: 8, activations: {bits: %d, quantizer: %s, affine: %s, scale: %s}%s}",
            bits, kind, is_affine ? "true" : "false", scale_dtypes[scale], rules[i]);
        if (!try_source(quant, &source)) continue;
        assert_stored_is_faked(&source, true);
        ++*run;
    }
}

static void activations_of_every_quantizer(void **state) {
    (void)state;
    for (int k = 0; k < quantizer_kinds.count; k++) {
        const char *kind = quantizer_kinds.kinds[k]->name;
        int run = 0;
        for (int i = 0; i < 7 * 2; i++) {
            ArenaMark mark = arena_mark(arena);
            run_activations(kind, 2 + i % 7, i % 3, i / 7, &run);
            arena_rewind(arena, mark);
        }
        const Quantizer *row = (const Quantizer *)quantizer_kinds.kinds[k];
        assert_int_equal(run > 0, (row->flags & QUANTIZER_FOR_ACTIVATIONS) != 0);
    }
}

static void mixed_rules(void **state) {
    (void)state;
    static const char *const quants[] = {
        "{bits: 4, rules: [{layers: last, bits: 8}, {layers: depthwise, weight_bits: 32}]}",
        "{bits: 2, residual_bits: inherit}",
        "{bits: 4, activations: {bits: 32}}",
        "{weights: {bits: 32}, bits: 4}",
        "{bits: 5, rules: [{layers: \"hidden, stem\", bits: 32}]}",
    };
    for (size_t i = 0; i < sizeof quants / sizeof *quants; i++) {
        ModelSource source;
        assert_true(try_source(quants[i], &source));
        assert_stored_is_faked(&source, true);
    }
}

static void scales_per_token_need_nothing_stored(void **state) {
    (void)state;
    ModelSource source = model_source(
        "model: {kind: mlp, widths: [6, 5]}\n"
        "quant: {bits: 6, activations: {quantizer: minmax, granularity: token, affine: true}}\n");
    const Qat *qat = trained(&source);
    PackedModel stored = ship(qat);
    assert_true(stored.edge_count > 0);
    for (int i = 0; i < stored.edge_count; i++) assert_true(stored.edges[i].is_per_token);
    Tensor x = batch_of(qat->model, 5, 3);
    assert_same_bits(packed_logits(&stored, x), logits_of(qat->model, tape, x));
}

/* Frozen parameters in every way that numbers are stored: a layer and a norm that travel as they
 * are, and a bias and a norm that are packed with weights. */
static void stored_params_travel_as_they_are(void **state) {
    (void)state;
    static const char *const frozen[] = {"grouped.weight",
                                         "grouped.bias",
                                         "loose.gamma",
                                         "loose.beta",
                                         "block.main.point.bias",
                                         "block.main.batch_norm1.gamma",
                                         "block.main.batch_norm1.beta"};
    enum { FROZEN = sizeof frozen / sizeof *frozen, AS_THEY_ARE = 4 };
    const Storages storages = storages_make();
    for (int s = 0; s < storages.count; s++) {
        ModelSource source;
        assert_true(try_source("{bits: 8, rules: [{layers: grouped, bits: 32}]}", &source));
        Model *model = model_of(&source, INPUT, CLASSES, 1);
        move_biases(model);
        for (int i = 0; i < FROZEN; i++) {
            Param *p = model_find_param(model, frozen[i]);
            param_store(
                p, storages_encode(arena, tensor_f32(&p->value), p->value.shape, &storages.all[s]));
        }
        const Qat *qat = trained_from(&source, model);
        const PackedModel packed = packed_model_of(qat, arena);
        Tensor kept[FROZEN];
        int travel = 0;
        int64_t bytes = 0, bytes_f32 = 0;
        for (int i = 0; i < packed.param_count; i++) {
            const Tensor *value = &packed.params[i].value;
            bytes += (int64_t)tensor_bytes(value);
            bytes_f32 += 4 * tensor_count(value);
            for (int j = 0; j < FROZEN; j++) {
                if (strcmp(packed.params[i].name, frozen[j])) continue;
                assert_int_equal(value->dtype, storages.all[s].dtype);
                travel++;
            }
        }
        assert_int_equal(travel, AS_THEY_ARE);
        ModelBytes size = convert_bytes(qat);
        for (int i = 0; i < FROZEN; i++) { /* the same in f32, for the difference */
            Param *p = model_find_param(model, frozen[i]);
            kept[i] = p->value;
            param_store(p, storages_plain(arena, &kept[i]));
        }
        assert_int_equal(size.quantized - bytes, convert_bytes(qat).quantized - bytes_f32);
        for (int i = 0; i < FROZEN; i++) param_store(model_find_param(model, frozen[i]), kept[i]);
        assert_ships(qat, false);
    }
}

/* ---- What a packed weight is. ---- */

static void codes_and_bias_are_the_folded_ones(void **state) {
    (void)state;
    ModelSource source;
    assert_true(try_source("{bits: 8, weights: {granularity: tensor}}", &source));
    const Qat *qat = trained(&source);
    const WeightSite *site = qat_find_site(qat, model_find_module(qat->model, "block.main.deep"));
    PackedWeight packed = packed_weight(site, arena);
    assert_string_equal(packed.layer, "block.main.deep");
    assert_int_equal(packed.bias_count, 4);
    const float *gamma = tensor_f32(&module_find_param(site->norm, "gamma")->value);
    const float *beta = tensor_f32(&module_find_param(site->norm, "beta")->value);
    const float *mean = tensor_f32(&module_find_param(site->norm, "running_mean")->value);
    const float *variance = tensor_f32(&module_find_param(site->norm, "running_variance")->value);
    const float *bias = tensor_f32(&module_find_param(site->module, "bias")->value);
    const float *w = tensor_f32(&site->weight->value);
    float values[4 * 9];
    tensor_decode(&packed.codes, values);
    float scale = packed.codes.scales->scale[0];
    for (int c = 0; c < 4; c++) {
        double factor = (double)gamma[c] / sqrt((double)variance[c] + 1e-5);
        double expected = (double)beta[c] + ((double)bias[c] - (double)mean[c]) * factor;
        assert_true(fabs((double)packed.bias[c] - expected) < 1e-5);
        for (int i = 0; i < 9; i++) { /* half a step off at most, or clipped */
            double folded = (double)w[9 * c + i] * factor, step = (double)scale;
            double clipped = fmax(-128 * step, fmin(127 * step, folded));
            assert_true(fabs((double)values[9 * c + i] - clipped) <= 0.51 * step);
        }
    }
}

/* ---- Damage shows. ---- */

/* The network as shipped, or with something in it damaged. */
static bool differs(const PackedModel *shipped, Tensor x, Tensor sound) {
    Tensor logits = packed_logits(shipped, x);
    return memcmp(logits.data, sound.data, sizeof(float) * (size_t)tensor_count(&sound)) != 0;
}

/* Flips a bit of one code after another, across rows and columns, until one shows: what a code
 * multiplies or adds to may be dead behind its relu. */
static bool some_code_shows(const PackedModel *shipped, int weight, int bit, Tensor x,
                            Tensor sound) {
    enum { TRIES = 12 };
    const Tensor *codes = &shipped->weights[weight].codes;
    int64_t count = tensor_count(codes), row = count / codes->shape.dim[0];
    bool shows = false;
    for (int64_t i = 0; !shows && i < TRIES; i++) {
        unsigned char *code = (unsigned char *)codes->data + i * (row + 1) % count;
        *code ^= (unsigned char)(1u << bit);
        shows = differs(shipped, x, sound);
        *code ^= (unsigned char)(1u << bit);
    }
    return shows;
}

static bool scale_shows(const PackedModel *shipped, const float *scale, Tensor x, Tensor sound) {
    uint32_t *bits = (uint32_t *)(uintptr_t)scale;
    *bits ^= 1u << 15;
    bool shows = differs(shipped, x, sound);
    *bits ^= 1u << 15;
    return shows;
}

/* The highest bit of codes, and one bit of each scale, 0.4 % of it or less; of the last layer,
 * where nothing rounds afterwards, every bit. */
static void a_flipped_bit_changes_the_logits(void **state) {
    (void)state;
    ModelSource source;
    assert_true(try_source("{bits: 8, weights: {granularity: tensor}}", &source));
    const Qat *qat = trained(&source);
    PackedModel shipped = ship(qat);
    Tensor x = batch_of(qat->model, 4 * BATCH, 7);
    Tensor sound = logits_of(qat->model, tape, x);
    int last = shipped.weight_count - 1;
    for (int i = 0; i <= last; i++) {
        assert_true(some_code_shows(&shipped, i, 7, x, sound));
        assert_true(scale_shows(&shipped, shipped.weights[i].codes.scales->scale, x, sound));
    }
    for (int bit = 0; bit < 7; bit++) assert_true(some_code_shows(&shipped, last, bit, x, sound));
    for (int i = 0; i < shipped.edge_count; i++)
        assert_true(scale_shows(&shipped, &shipped.edges[i].scale, x, sound));
    assert_false(differs(&shipped, x, sound));
}

/* ---- Sizes. ---- */

typedef struct BytesCase {
    const char *quant;
    int64_t quantized;
    double weights; /* bytes of their codes, scales and zero points */
} BytesCase;

/* Weights: conv1 [4, 3, 3, 2] = 72, hidden [5, 64] = 320, classes [3, 5] = 15 elements; biases 4,
 * 5, 3; edges: the image, flatten, relu_hidden. */
static void bytes_are_the_sum_of_the_parts(void **state) {
    (void)state;
    enum { BIASES = 4 * (4 + 5 + 3), NORM = 4 * 4 * 4 };
    static const BytesCase cases[] = {
        {"{bits: 8}", 72 + 320 + 15 + 4 * (4 + 5 + 3) + BIASES + 3 * 4, 72 + 320 + 15 + 4 * 12},
        /* 15 codes of 3 bits are 45 bits: 6 bytes */
        {"{bits: 3}", 27 + 120 + 6 + 4 * (4 + 5 + 3) + BIASES + 3 * 4, 27 + 120 + 6 + 4 * 12},
        /* 72 codes of three levels, five in a byte: 15 bytes */
        {"{bits: 8, weights: {bits: 1.58}}", 15 + 64 + 3 + 4 * (4 + 5 + 3) + BIASES + 3 * 4,
         15 + 64 + 3 + 4 * 12},
        {"{bits: 8, weights: {bits: 1, quantizer: paretoq, granularity: tensor}}",
         9 + 40 + 2 + 4 * 3 + BIASES + 3 * 4, 9 + 40 + 2 + 4 * 3},
        {"{bits: 4, weights: {granularity: tensor, scale: f16}}",
         36 + 160 + 8 + 2 * 3 + BIASES + 3 * 4},
        /* Rows of 18, 64 and 5 in groups of 10: 2, 7 and 1 scales a row. */
        {"{bits: 4, weights: {granularity: group, group_size: 10}}",
         36 + 160 + 8 + 4 * (2 * 4 + 7 * 5 + 1 * 3) + BIASES + 3 * 4},
        {"{bits: 4, weights: {quantizer: lsq_plus, affine: true, scale: bf16}}",
         36 + 160 + 8 + (2 + 4) * (4 + 5 + 3) + BIASES + 3 * 4, 36 + 160 + 8 + (2 + 4) * 12},
        {"{bits: 4, activations: {quantizer: lsq_plus, affine: true}}",
         36 + 160 + 8 + 4 * (4 + 5 + 3) + BIASES + 3 * (4 + 4)},
        {"{bits: 4, activations: {bits: 32}}", 36 + 160 + 8 + 4 * (4 + 5 + 3) + BIASES},
        /* Float weights travel in f32, the norm beside them with its four numbers per channel. */
        {"{bits: 8, rules: [{layers: conv1, weight_bits: 32}]}",
         4 * 72 + NORM + 320 + 15 + 4 * (5 + 3) + BIASES - 4 * 4 + 3 * 4,
         4 * 72 + 320 + 15 + 4 * 8},
        {"{}", 4 * (72 + 320 + 15) + BIASES - 4 * 4 + NORM, 4 * (72 + 320 + 15)},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ModelSource source = model_source(arena_format(
            arena, "model: {kind: cnn, widths: [4], hidden: 5}\nquant: %s\n", cases[i].quant));
        const Qat *qat = qat_of(&source, model_of(&source, SHAPE(8, 8, 2), CLASSES, 1));
        ModelBytes bytes = convert_bytes(qat);
        assert_int_equal(bytes.quantized, cases[i].quantized);
        if (cases[i].weights > 0)
            assert_true(bytes.bits_per_weight == 8 * cases[i].weights / (72 + 320 + 15));
        assert_int_equal(bytes.f32, 4 * (72 + 320 + 15) + BIASES - 4 * 4 + NORM);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(weights_of_every_quantizer),
        TEST(activations_of_every_quantizer),
        TEST(mixed_rules),
        TEST(scales_per_token_need_nothing_stored),
        TEST(stored_params_travel_as_they_are),
        TEST(codes_and_bias_are_the_folded_ones),
        TEST(a_flipped_bit_changes_the_logits),
        TEST(bytes_are_the_sum_of_the_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
