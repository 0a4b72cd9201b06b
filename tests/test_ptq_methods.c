/* Methods of post-training quantization against what they promise, in closed form. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>

#include "autograd/layers/batch_norm.h"
#include "qat/calibration.h"
#include "tests/ptq_cases.h"

enum { CHANNELS_MAX = 8, SITES_MAX = 4 };

/* ---- What a pipeline is ---- */

static const char *order_error(const char *text) {
    Error *err = arena_new_array(arena, Error, 1);
    List methods = ptq_source_methods(text);
    return ptq_check(&methods, err) ? "" : err->message;
}

/* Those that change the float network come before those that quantize it. */
static void test_order(void **state) {
    (void)state;
    for (int i = 0; i < ptq_kinds.count; i++) {
        const PtqMethod *method = (const PtqMethod *)ptq_kinds.kinds[i];
        const char *name = method->kind.name;
        assert_string_equal(order_error(arena_format(arena, "[%s, round]", name)), "");
        const char *message = order_error(arena_format(arena, "[round, %s]", name));
        const char *expected =
            arena_format(arena,
                         "quantize.1: '%s' changes the float network, so it stands before 'round', "
                         "which quantizes it",
                         name);
        assert_string_equal(message, method->flags & PTQ_KEEPS_FUNCTION ? expected : "");
    }
}

/* ---- The float network ---- */

static bool halve(Ptq *p, const void *config, Error *err) {
    (void)config;
    (void)err;
    Param *weight = model_find_param(p->qat->model, "c.weight");
    for (int64_t i = 0; i < tensor_count(&weight->value); i++) tensor_f32(&weight->value)[i] /= 2;
    assert_null(p->is_calibrated ? p : NULL);
    return true;
}

static bool breaks(Ptq *p, const void *config, Error *err) {
    (void)config;
    (void)err;
    tensor_f32(&model_find_param(p->qat->model, "b.weight")->value)[3] = NAN;
    return true;
}

static const PtqMethod halving = {
    .kind = {.name = "halve"}, .flags = PTQ_KEEPS_FUNCTION, .apply = halve};
static const PtqMethod breaking = {.kind = {.name = "break"}, .apply = breaks};

/* ---- Means of a site's outputs, or of what a norm reads ---- */

typedef struct Means {
    const Qat *qat;
    double exact[SITES_MAX][CHANNELS_MAX], quantized[SITES_MAX][CHANNELS_MAX];
    double square[SITES_MAX][CHANNELS_MAX]; /* of the quantized network */
    double count[SITES_MAX];
} Means;

static void add(const Var *v, double *sum, double *square) {
    int64_t channels = shape_last(v->value.shape);
    for (int64_t i = 0; i < var_count(v); i++) {
        double x = (double)var_f32(v)[i];
        sum[i % channels] += x;
        if (square) square[i % channels] += x * x;
    }
}

static bool look(void *context, const PtqBatch *batch, Error *err) {
    (void)err;
    Means *m = context;
    for (int i = 0; i < m->qat->site_count; i++) {
        add(batch->exact[i].output, m->exact[i], NULL);
        add(batch->quantized[i].output, m->quantized[i], m->square[i]);
        m->count[i] += (double)shape_rows(batch->exact[i].output->value.shape);
    }
    return true;
}

static Means means_of(Ptq *p) {
    Means m = {.qat = p->qat};
    Error err = {0};
    if (!ptq_stream(p, PTQ_EXACT | PTQ_QUANTIZED, look, &m, &err)) fail_msg("%s", err.message);
    for (int i = 0; i < p->qat->site_count; i++)
        for (int c = 0; c < CHANNELS_MAX; c++) {
            m.exact[i][c] /= m.count[i];
            m.quantized[i][c] /= m.count[i];
            m.square[i][c] /= m.count[i];
        }
    return m;
}

static double shift_of(const Means *m, int site, int64_t channels) {
    double largest = 0;
    for (int64_t c = 0; c < channels; c++)
        largest = fmax(largest, fabs(m->exact[site][c] - m->quantized[site][c]));
    return largest;
}

static double note_of(const Ptq *p, const char *layer, const char *name) {
    for (int i = 0; i < p->note_count; i++) {
        const PtqNote *note = &p->notes[i];
        if (note->layer && !strcmp(note->layer, layer) && !strcmp(note->name, name))
            return note->text ? 1 : note->value;
    }
    return NAN;
}

static Tensor shadow_of(const Ptq *p) {
    TapeMode way = TAPE_EVALUATION;
    way.is_float = true;
    return logits_in(way, p->qat->model, tape, source.batches[0]);
}

/* The shadow is the exact network. */
static void test_shadow(void **state) {
    (void)state;
    Ptq *p = ptq_of("{bits: 4, weights: {quantizer: minmax}}");
    Tensor before = shadow_of(p);
    apply(p, "[batch_norm, bias_correct]");
    assert_same_bits(before, shadow_of(p));
    ptq_free(p);
}

/* Behind a method that changes it, the float network is the one that it left; and ranges are those
 * of what it left. */
static void test_exact_is_taken_anew(void **state) {
    (void)state;
    Error err = {0};
    Ptq *p = ptq_of("{bits: 8, weights: {quantizer: minmax}}");
    const Variant variant = {.kind = &halving.kind};
    List methods = {1, (void *)(uintptr_t)&variant};
    model_find_param(p->qat->model, "c.bias")->value.data = arena_new_array(arena, float, 3);
    ptq_free(p);
    p = ptq_new(p->qat, p->data, arena);
    Means before = means_of(p);
    assert_true(ptq_apply(p, &methods, 0, &err) && ptq_finish(p, &err));
    Means after = means_of(p);
    for (int c = 0; c < 3; c++) {
        assert_true(fabs(after.exact[2][c] - before.exact[2][c] / 2) < 1e-6);
        assert_true(fabs(after.quantized[2][c] - before.exact[2][c] / 2) < 0.05);
    }
    ptq_free(p);
}

static void test_what_is_not_finite(void **state) {
    (void)state;
    Error err = {0};
    Ptq *p = ptq_of("{bits: 8}");
    const Variant variant = {.kind = &breaking.kind};
    List methods = {1, (void *)(uintptr_t)&variant};
    assert_false(ptq_apply(p, &methods, 0, &err));
    assert_int_equal(err.code, ERROR_NUMERIC);
    assert_string_equal(err.message,
                        "quantize.0 (break): it left 'b.weight' with values that are not finite");
    ptq_free(p);
}

/* ---- bias_correct ---- */

/* Behind it, the mean of every corrected layer's output is that of the float network. */
static void test_bias_correct(void **state) {
    (void)state;
    static const char *const cases[] = {"{bits: 3, weights: {quantizer: minmax}}",
                                        "{bits: 32, weights: {bits: 2, quantizer: minmax}}"};
    for (int i = 0; i < 2; i++) {
        Ptq *p = ptq_of(cases[i]);
        apply(p, "[round]");
        Means before = means_of(p);
        assert_true(shift_of(&before, 0, 6) > 0.01 && shift_of(&before, 2, 3) > 0.01);
        apply(p, "[bias_correct]");
        Means after = means_of(p);
        assert_true(shift_of(&after, 0, 6) < 1e-5);
        assert_true(shift_of(&after, 1, 4) > 0.01); /* it has no bias */
        assert_true(shift_of(&after, 2, 3) < 1e-5);
        assert_true(note_of(p, "b", "skipped") == 1);
        double largest = note_of(p, "a", "largest_correction");
        assert_true(fabs(largest - shift_of(&before, 0, 6)) < 1e-5);
        ptq_free(p);
    }
}

/* ---- batch_norm ---- */

#define NORMS                                                                                      \
    "{kind: sequential, layers: [conv: {name: a, filters: 6}, batch_norm, relu, "                  \
    "conv: {name: b, filters: 4, bias: false}, batch_norm, relu, batch_norm, flatten, "            \
    "linear: {name: c, units: 3}]}"

static float number(const Ptq *p, const char *param, int64_t i) {
    return tensor_f32(&model_find_param(p->qat->model, param)->value)[i];
}

/* What leaves a norm has the mean beta, and the variance gamma^2 v / (v + epsilon) (n - 1) / n. */
static void check_norm(const Ptq *p, const Means *m, int site, const char *norm, int64_t channels,
                       bool has_variance) {
    for (int64_t c = 0; c < channels; c++) {
        double mean = m->quantized[site][c], n = m->count[site];
        double variance = m->square[site][c] - mean * mean;
        double beta = (double)number(p, arena_format(arena, "%s.beta", norm), c);
        double gamma = (double)number(p, arena_format(arena, "%s.gamma", norm), c);
        double v = (double)number(p, arena_format(arena, "%s.running_variance", norm), c);
        double expected = gamma * gamma * v / (v + 1e-5) * (n - 1) / n;
        assert_true(fabs(mean - beta) < 1e-4);
        bool is_met = fabs(variance - expected) < 1e-3 * expected;
        assert_true(is_met == has_variance);
    }
}

static const char *const norm_cases[] = {
    "{bits: 4, weights: {quantizer: minmax}}",
    "{bits: 4, weights: {quantizer: lsq}}",
    "{bits: 3, weights: {quantizer: mse, granularity: group, group_size: 4}}",
    "{bits: 8, weights: {quantizer: minmax, affine: true, bits: 3}}",
    "{bits: 32, weights: {quantizer: lsq_plus, affine: true, bits: 3}}",
};

static void test_batch_norm(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof norm_cases / sizeof *norm_cases; i++) {
        Ptq *p = ptq_of_model(NORMS, norm_cases[i]);
        apply(p, "[round]");
        Tensor levels = ptq_levels(&p->qat->sites[1], arena);
        apply(p, "[batch_norm]");
        Means m = means_of(p);
        check_norm(p, &m, 0, "batch_norm1", 6, true);
        check_norm(p, &m, 1, "batch_norm2", 4, true);
        Tensor now = ptq_levels(&p->qat->sites[1], arena);
        assert_memory_equal(levels.data, now.data, sizeof(float) * (size_t)tensor_count(&now));
        assert_true(note_of(p, "batch_norm1", "levels_changed") == 0);
        assert_true(note_of(p, "batch_norm3", "channels_kept") == 0); /* not joined */
        ptq_free(p);
    }
}

/* A scale for all channels cannot follow each channel's factor: the mean alone is taken. */
static void test_batch_norm_of_one_scale(void **state) {
    (void)state;
    Ptq *p = ptq_of_model(NORMS, "{bits: 3, weights: {quantizer: minmax, granularity: tensor}}");
    apply(p, "[round]");
    Tensor levels = ptq_levels(&p->qat->sites[0], arena);
    float variance = number(p, "batch_norm1.running_variance", 0);
    apply(p, "[batch_norm]");
    Means m = means_of(p);
    check_norm(p, &m, 0, "batch_norm1", 6, false);
    Tensor now = ptq_levels(&p->qat->sites[0], arena);
    assert_memory_equal(levels.data, now.data, sizeof(float) * (size_t)tensor_count(&now));
    assert_true(number(p, "batch_norm1.running_variance", 0) == variance);
    assert_true(note_of(p, "batch_norm1", "skipped") == 1);
    ptq_free(p);
}

/* A channel of which nothing is seen but one value keeps what it had. */
static void test_batch_norm_of_a_constant(void **state) {
    (void)state;
    Ptq *p = ptq_of_model(NORMS, "{bits: 4, weights: {quantizer: minmax}}");
    Param *weight = model_find_param(p->qat->model, "b.weight");
    int64_t row = tensor_count(&weight->value) / 4;
    for (int64_t i = 0; i < row; i++) tensor_f32(&weight->value)[2 * row + i] = 0;
    ptq_free(p);
    p = ptq_new(p->qat, p->data, arena);
    float mean = number(p, "batch_norm2.running_mean", 2);
    float variance = number(p, "batch_norm2.running_variance", 2);
    apply(p, "[batch_norm]");
    assert_true(number(p, "batch_norm2.running_mean", 2) == mean);
    assert_true(number(p, "batch_norm2.running_variance", 2) == variance);
    assert_true(number(p, "batch_norm2.running_mean", 1) != mean);
    assert_true(note_of(p, "batch_norm2", "channels_kept") == 1);
    ptq_free(p);
}

static void test_batch_norm_without_norms(void **state) {
    (void)state;
    Ptq *p = ptq_of_model(LAYERS("relu"), "{bits: 8}");
    apply(p, "[batch_norm]");
    assert_true(note_of(p, "network", "skipped") == 1);
    ptq_free(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_shadow),
        cmocka_unit_test(test_exact_is_taken_anew),
        cmocka_unit_test(test_what_is_not_finite),
        cmocka_unit_test(test_bias_correct),
        cmocka_unit_test(test_batch_norm),
        cmocka_unit_test(test_batch_norm_of_one_scale),
        cmocka_unit_test(test_batch_norm_of_a_constant),
        cmocka_unit_test(test_batch_norm_without_norms),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
