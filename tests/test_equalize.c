/* Cross-layer equalization: what networks compute stays, ranges become equal, and what does not
 * apply is named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "autograd/layers.h"
#include "autograd/layers/batch_norm.h"
#include "qat/ptq/pairs.h"
#include "tests/ptq_source.h"

#define CHAIN                                                                                      \
    "conv: {name: a, filters: 6}, batch_norm, relu, "                                              \
    "conv: {name: b, depthwise: true, bias: false}, batch_norm, relu, max_pool, "                  \
    "conv: {name: c, filters: 8, groups: 2}, relu, avg_pool, "                                     \
    "conv: {name: d, filters: 4, kernel: 1}, batch_norm, relu, flatten, "                          \
    "linear: {name: e, units: 7}, relu, linear: {name: f, units: 3}"

/* Channels differ by factors up to a thousand, biases too, and gammas are of either sign. */
static void stir(Model *model) {
    for (int i = 0; i < model->param_count; i++) {
        Param *p = model->params[i];
        int64_t count = tensor_count(&p->value), rows = p->value.shape.dim[0];
        float *x = tensor_f32(&p->value);
        RandomKey key = {.seed = 5, .stream = RANDOM_TEST, .step = (uint64_t)i};
        if (!p->owner || p->value.dtype != DTYPE_F32) continue;
        if (p->role != PARAM_WEIGHT) random_fill_uniform(key, -1, 1, count, x);
        for (int64_t j = 0; j < count; j++) {
            float spread =
                exp2f(10 * random_uniform(key, (uint64_t)(1000000 + j / (count / rows))));
            if (p->role == PARAM_BUFFER) x[j] += 1.5f;
            if (p->role == PARAM_WEIGHT || p->role == PARAM_NORM) x[j] *= spread / 32;
        }
    }
}

static Tensor float_logits(Ptq *p) {
    TapeMode mode = TAPE_EVALUATION;
    mode.is_float = true;
    return logits_in(mode, p->qat->model, tape, batch_of(p->qat->model, 16, 9));
}

/* Relative to the largest of them. */
static double difference(Tensor a, Tensor b) {
    double largest = 0, most = 0;
    for (int64_t i = 0; i < tensor_count(&a); i++) {
        largest = fmax(largest, fabs((double)tensor_f32(&a)[i]));
        most = fmax(most, fabs((double)tensor_f32(&a)[i] - (double)tensor_f32(&b)[i]));
    }
    return most / largest;
}

/* The largest magnitude of the folded weight, in output channel `out` or of input channel `in` of
 * the first layer (-1: whichever). */
static double range_of(const Qat *qat, const WeightSite *site, const Pair *pair, int64_t out,
                       int64_t in) {
    const Tensor *w = &site->weight->value;
    int64_t row = tensor_count(w) / w->shape.dim[0];
    float *gains = arena_new_array(arena, float, w->shape.dim[0]);
    Module *norm = pair_norm(qat, site);
    if (norm) batch_norm_gains(norm, gains);
    double range = 0;
    for (int64_t i = 0; i < tensor_count(w); i++) {
        if (out >= 0 && i / row != out) continue;
        if (in >= 0 && pair_channel(pair, i) != in) continue;
        double gain = norm ? (double)gains[i / row] : 1;
        range = fmax(range, fabs((double)tensor_f32(w)[i]) * gain);
    }
    return range;
}

static double worst_ratio(Ptq *p) {
    Error err = {0};
    double worst = 1;
    assert_true(pairs_begin(p, &err));
    for (int i = 0; i < p->qat->site_count; i++) {
        Pair pair;
        PairReason reason;
        if (!pair_find(p->qat, &p->qat->sites[i], &pair, &reason)) continue;
        for (int64_t c = 0; c < pair.channels; c++) {
            double ratio = range_of(p->qat, pair.first, &pair, c, -1) /
                           range_of(p->qat, pair.second, &pair, -1, c);
            worst = fmax(worst, fmax(ratio, 1 / ratio));
        }
    }
    return worst;
}

static const char *const quants[] = {
    "{bits: 4}", "{bits: 32, weights: {bits: 8}}",
    "{bits: 4, rules: [{layers: a, weight_bits: 32}]}", /* its norm is not folded */
    "{bits: 8, weights: {quantizer: minmax, granularity: tensor, affine: true}}"};

static void the_function_stays_and_ranges_balance(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof quants / sizeof *quants; i++) {
        Ptq *p = ptq_source(CHAIN, quants[i], stir);
        Tensor before = float_logits(p);
        assert_true(worst_ratio(p) > 30);
        ptq_source_apply(p, "[equalize]");
        Tensor after = float_logits(p);
        if (!(difference(before, after) < 1e-5)) fail_msg("%g", difference(before, after));
        if (!(worst_ratio(p) < 1.01)) fail_msg("%g", worst_ratio(p));
        assert_string_equal(ptq_said, "");
        assert_true(ptq_source_note(p, NULL, "pairs")->value == 5);
        assert_true(ptq_source_note(p, NULL, "iterations")->value > 1);
        static const char *const seconds[] = {"b", "c", "d", "e", "f"};
        for (int j = 0; j < 5; j++) {
            double smallest = ptq_source_note(p, seconds[j], "smallest_factor")->value;
            double largest = ptq_source_note(p, seconds[j], "largest_factor")->value;
            assert_true(smallest > 0 && smallest < largest && largest < INFINITY);
        }
        ptq_free(p);
    }
}

/* What the factors of a pair are, by the formula. */
static void a_single_pair(void **state) {
    (void)state;
    Ptq *p = ptq_source("flatten, linear: {name: a, units: 5}, relu, linear: {name: b, units: 3}",
                        "{bits: 4}", stir);
    Error err = {0};
    assert_true(pairs_begin(p, &err)); /* range_of asks for norms, which a record shows */
    Pair pair = {
        .first = &p->qat->sites[0], .second = &p->qat->sites[1], .channels = 5, .depth = 5};
    double least = INFINITY, most = 0;
    for (int64_t c = 0; c < 5; c++) {
        double s = sqrt(range_of(p->qat, pair.first, &pair, c, -1) /
                        range_of(p->qat, pair.second, &pair, -1, c));
        least = fmin(least, s);
        most = fmax(most, s);
    }
    ptq_source_apply(p, "[equalize]");
    assert_true(fabs(ptq_source_note(p, "b", "smallest_factor")->value / least - 1) < 1e-6);
    assert_true(fabs(ptq_source_note(p, "b", "largest_factor")->value / most - 1) < 1e-6);
    ptq_free(p);
}

/* A flatten's inputs repeat the channels over positions; those of a group are its own. */
static void channels_of_inputs(void **state) {
    (void)state;
    Error err = {0};
    PairReason reason;
    Pair pair;
    Ptq *p = ptq_source(CHAIN, "{bits: 4}", stir);
    assert_true(pairs_begin(p, &err));
    const WeightSite *sites = p->qat->sites;
    assert_true(pair_find(p->qat, &sites[1], &pair, &reason)); /* b: [6, 3, 3, 1] */
    assert_ptr_equal(pair.first, &sites[0]);
    assert_string_equal(pair.norm->name, "batch_norm1");
    for (int64_t i = 0; i < 54; i++) assert_int_equal(pair_channel(&pair, i), i / 9);
    assert_true(pair_find(p->qat, &sites[2], &pair, &reason)); /* c: [8, 3, 3, 3], of 6 */
    for (int64_t i = 0; i < 8 * 27; i++)
        assert_int_equal(pair_channel(&pair, i), i / 27 / 4 * 3 + i % 3);
    assert_true(pair_find(p->qat, &sites[4], &pair, &reason)); /* e: of d's 4 */
    assert_int_equal(pair.channels, 4);
    for (int64_t i = 0; i < tensor_count(&sites[4].weight->value); i++)
        assert_int_equal(pair_channel(&pair, i), i % 4);
    assert_false(pair_find(p->qat, &sites[0], &pair, &reason));
    assert_string_equal(reason.text, "");
    ptq_free(p);
}

static void stir_and_kill(Model *model) {
    stir(model);
    float *b = tensor_f32(&model_find_param(model, "b.weight")->value);
    float *e = tensor_f32(&model_find_param(model, "e.weight")->value);
    float *f = tensor_f32(&model_find_param(model, "f.weight")->value);
    float *gamma = tensor_f32(&model_find_param(model, "batch_norm3.gamma")->value);
    for (int i = 0; i < 9; i++) b[9 + i] = 0;       /* channel 1, unread */
    for (int i = 0; i < 16; i++) e[2 * 16 + i] = 0; /* unit 2, constant */
    for (int i = 0; i < 3; i++) f[7 * i + 4] *= 1e-12f;
    gamma[2] = -3e-6f;
    gamma[1] = 2e-4f;
}

/* Channels that nothing feeds or reads, and a gamma near 0, keep their factors. */
static void dead_channels(void **state) {
    (void)state;
    Ptq *p = ptq_source(CHAIN, "{bits: 4}", stir_and_kill);
    Tensor before = float_logits(p);
    ptq_source_apply(p, "[equalize]");
    Tensor after = float_logits(p);
    const Param *gamma = model_find_param(p->qat->model, "batch_norm3.gamma");
    if (!(difference(before, after) < 1e-5)) fail_msg("%g", difference(before, after));
    assert_true(tensor_f32(&gamma->value)[2] == -3e-6f);
    assert_true(tensor_f32(&gamma->value)[1] >= 0.99e-4f);
    ptq_free(p);
}

static void assert_said(const char *layers, const char *quant, void (*stir_model)(Model *),
                        const char *said, double pairs) {
    Ptq *p = ptq_source(layers, quant, stir_model);
    Tensor before = float_logits(p);
    ptq_source_apply(p, "[equalize]");
    Tensor after = float_logits(p);
    assert_string_equal(ptq_said, said);
    assert_true(ptq_source_note(p, NULL, "pairs")->value == pairs);
    if (pairs == 0) assert_memory_equal(before.data, after.data, tensor_bytes(&before));
    ptq_free(p);
}

#define NONE                                                                                       \
    "equalize changes nothing: no two layers are joined by ops that pass a channel's factor on, "  \
    "such as relu, pooling and flatten\n"

static void what_does_not_apply_is_named(void **state) {
    (void)state;
    assert_said("flatten, linear: {units: 3}", "{bits: 4}", stir, NONE, 0);
    assert_said("conv, relu6, flatten, linear: {name: b, units: 3}", "{bits: 4}", stir,
                "b: its input channels are not equalized: relu61 (relu6), before "
                "it, does not pass a channel's factor on\n" NONE,
                0);
    assert_said("relu, batch_norm, relu, flatten, linear: {name: b, units: 3}", "{bits: 4}", stir,
                "b: its input channels are not equalized: no layer with weights is "
                "alone before batch_norm1\n" NONE,
                0);
    assert_said("conv: {name: a, filters: 4}, residual: {name: r, main: [conv: {filters: 4}, relu, "
                "conv: {filters: 4}]}, relu, flatten, linear: {name: b, units: 3}",
                "{bits: 4}", stir,
                "r.main.conv1: its input channels are not equalized: what it reads "
                "has 2 readers\n"
                "b: its input channels are not equalized: r.add (add), before it, "
                "does not pass a channel's factor on\n",
                1);
}

/* A frozen, stored weight (QLoRA's base) stays. */
static void store_first(Model *model) {
    Param *weight = model_find_param(model, "a.weight");
    int64_t count = tensor_count(&weight->value);
    Tensor stored = tensor_zeros(arena, DTYPE_F16, weight->value.shape);
    dtype_encode(DTYPE_F16, tensor_f32(&weight->value), count, NULL, stored.data);
    param_store(weight, stored);
}

static void stored_weights_stay(void **state) {
    (void)state;
    assert_said("flatten, linear: {name: a, units: 4}, relu, linear: {name: b, units: 3}",
                "{bits: 4, rules: [{layers: a, bits: 32}]}", store_first,
                "b: its input channels are not equalized: a is stored, and cannot "
                "change\n" NONE,
                0);
}

static void other_layers_stay(void **state) {
    (void)state;
    static PlainConfig flatten = {.layer = {"flatten"}}, relu = {.layer = {"relu"}};
    static PlainConfig gain = {.layer = {"gain"}};
    static LinearConfig linear = {.layer = {"a"}, .units = 4, .bias = true};
    static Variant layers[] = {{&layer_flatten.kind, &flatten},
                               {&layer_linear.kind, &linear},
                               {&layer_relu.kind, &relu},
                               {&layer_gain.kind, &gain}};
    Error err = {0};
    Model *model = NULL;
    assert_true(model_new(&(List){4, layers}, SHAPE(1, 1, 5), 1, arena, &model, &err));
    ModelSource source = model_source("model: {kind: mlp}\nquant: {}\n");
    Ptq *p = ptq_source_of(qat_of(&source, model));
    ptq_source_apply(p, "[equalize]");
    assert_string_equal(ptq_said, "gain: its input channels are not equalized: gain "
                                  "is not a product with one weight\n" NONE);
    ptq_free(p);
}

static void too_few_iterations(void **state) {
    (void)state;
    Ptq *p = ptq_source(CHAIN, "{bits: 4}", stir);
    Tensor before = float_logits(p);
    ptq_source_apply(p, "[equalize: {iterations: 1}]");
    Tensor after = float_logits(p);
    assert_non_null(strstr(ptq_said, "after 1 iterations: raise iterations"));
    assert_true(difference(before, after) < 1e-5);
    ptq_free(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_function_stays_and_ranges_balance),
        cmocka_unit_test(a_single_pair),
        cmocka_unit_test(channels_of_inputs),
        cmocka_unit_test(dead_channels),
        cmocka_unit_test(what_does_not_apply_is_named),
        cmocka_unit_test(stored_weights_stay),
        cmocka_unit_test(other_layers_stay),
        cmocka_unit_test(too_few_iterations),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
