/* Post-training quantization: what methods are given, and what they may change. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>

#include "autograd/layers/batch_norm.h"
#include "core/log.h"
#include "qat/calibration.h"
#include "tests/ptq_cases.h"

/* ---- Levels ---- */

static const char *const level_cases[] = {
    "{bits: 2, weights: {quantizer: minmax}}",
    "{bits: 3, weights: {quantizer: mse, granularity: group, group_size: 5}}",
    "{bits: 4, weights: {quantizer: lsq}}",
    "{bits: 8, weights: {quantizer: lsq_plus, affine: true}}",
    "{bits: 8, weights: {quantizer: minmax, affine: true, granularity: tensor}}",
    "{bits: 8, weights: {quantizer: minmax, scale: bf16}}",
    "{bits: 8, weights: {quantizer: lsq, scale: f16}}",
    "{bits: 8, weights: {quantizer: paretoq, bits: 1}}",
    "{bits: 8, weights: {quantizer: paretoq, bits: 1.58}}",
    "{bits: 8, weights: {quantizer: paretoq, bits: 2}}",
    "{bits: 32, weights: {quantizer: percentile, bits: 5}}",
};

/* Any level of the grid. */
static void draw_levels(const WeightSite *site, uint64_t seed, float *levels) {
    Tensor now = ptq_levels(site, arena);
    Grid grid = now.scales->grid;
    int64_t count = tensor_count(&now);
    float *uniform = arena_new_array(arena, float, count);
    random_fill_uniform((RandomKey){.seed = seed, .stream = RANDOM_TEST}, 0, 1, count, uniform);
    for (int64_t i = 0; i < count; i++) {
        int64_t scale;
        scales_run(now.scales, i, &scale);
        float zero = now.scales->zero ? now.scales->zero[scale] : 0;
        float code = floorf(uniform[i] * (float)(grid_last_code(grid) + 1));
        levels[i] = (float)grid.step * code + (float)grid.base - zero;
    }
}

/* The levels that a method sets are those that are packed, whatever the scales. */
static void test_levels(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof level_cases / sizeof *level_cases; i++) {
        Ptq *p = ptq_of(level_cases[i]);
        apply(p, "[round]");
        for (int j = 0; j < p->qat->site_count; j++) {
            const WeightSite *site = &p->qat->sites[j];
            assert_true(ptq_takes_levels(site));
            int64_t count = tensor_count(&site->weight->value);
            float *levels = arena_new_array(arena, float, count);
            float *weight = arena_new_array(arena, float, count);
            draw_levels(site, i + 1, levels);
            ptq_set_levels(site, levels);
            Tensor found = ptq_levels(site, arena);
            for (int64_t k = 0; k < count; k++)
                if (tensor_f32(&found)[k] != levels[k])
                    fail_msg("%s %s: level %ld is %g, not %g", level_cases[i], site->name, (long)k,
                             (double)tensor_f32(&found)[k], (double)levels[k]);
            ptq_weight(site, weight);
            levels_decode(levels, found.scales, 0, count, levels);
            for (int64_t k = 0; k < count; k++)
                assert_true(fabsf(weight[k] - levels[k]) <= 1e-6f * fabsf(levels[k]));
        }
        ptq_free(p);
    }
}

static void test_what_takes_no_levels(void **state) {
    (void)state;
    Ptq *p = ptq_of("{bits: 4, weights: {quantizer: dorefa, granularity: tensor}, "
                    "rules: [{layers: c, bits: 32}]}");
    assert_false(ptq_takes_levels(&p->qat->sites[0]));
    assert_false(ptq_takes_levels(&p->qat->sites[2]));
    ptq_free(p);
}

/* A range is that of the values given, by the rule of the quantizer: minmax at 4 bits. */
static void test_refit(void **state) {
    (void)state;
    Ptq *p = ptq_of("{bits: 4, weights: {quantizer: minmax}}");
    apply(p, "[round]");
    Error err = {0};
    const WeightSite *site = &p->qat->sites[1];
    int64_t count = tensor_count(&site->weight->value), row = count / ptq_channels(site);
    float *values = arena_new_array(arena, float, count);
    for (int64_t i = 0; i < count; i++) values[i] = (i % row == 0 ? -3.0f : 1.0f);
    assert_true(ptq_refit(site, values, &err));
    const Scales *scales = quant_freeze(site->quant, arena);
    for (int64_t i = 0; i < scales->count; i++) assert_true(scales->scale[i] == 3 / 7.5f);
    ptq_free(p);
}

/* ---- Data ---- */

typedef struct Seen {
    const Qat *qat;
    int batches;
    double exact[3], quantized[3]; /* sums of each site's outputs */
    int64_t rows;
    bool has_levels;
} Seen;

static double sum_of(const Var *v) {
    double sum = 0;
    for (int64_t i = 0; i < var_count(v); i++) sum += (double)var_f32(v)[i];
    return sum;
}

static bool look(void *context, const PtqBatch *batch, Error *err) {
    (void)err;
    Seen *s = context;
    assert_int_equal(batch->index, s->batches++);
    s->rows += batch->rows;
    for (int i = 0; i < s->qat->site_count; i++) {
        s->exact[i] += sum_of(batch->exact[i].output);
        s->quantized[i] += sum_of(batch->quantized[i].output);
        assert_null(batch->exact[i].operand->value.scales);
        assert_ptr_equal(batch->exact[i].operand, batch->exact[i].input);
        s->has_levels = batch->quantized[i].operand->value.scales != NULL;
        assert_true(shape_equal(batch->exact[i].output->value.shape,
                                batch->quantized[i].output->value.shape));
    }
    return true;
}

/* Both networks, each batch once; the exact one stays, whatever becomes of the masters. */
static void test_stream(void **state) {
    (void)state;
    Ptq *p = ptq_of("{bits: 4, weights: {quantizer: minmax}}");
    Error err = {0};
    Seen before = {.qat = p->qat}, after = {.qat = p->qat};
    apply(p, "[round]");
    source.calls = 0;
    assert_true(ptq_stream(p, PTQ_EXACT | PTQ_QUANTIZED, look, &before, &err));
    assert_int_equal(source.calls, 2 * BATCHES);
    assert_int_equal(before.batches, BATCHES);
    assert_int_equal(before.rows, BATCHES * BATCH_ROWS);
    assert_true(before.has_levels);
    const WeightSite *site = &p->qat->sites[1];
    float *levels = arena_new_array(arena, float, tensor_count(&site->weight->value));
    ptq_set_levels(site, levels); /* zeros */
    assert_true(ptq_stream(p, PTQ_EXACT | PTQ_QUANTIZED, look, &after, &err));
    assert_memory_equal(before.exact, after.exact, sizeof before.exact);
    assert_true(before.exact[1] != before.quantized[1]);
    assert_true(after.quantized[1] == 0 && after.quantized[0] == before.quantized[0]);
    ptq_free(p);
}

static bool look_at_one(void *context, const PtqBatch *batch, Error *err) {
    assert_true((batch->exact != NULL) == *(const bool *)context);
    assert_true((batch->quantized != NULL) != *(const bool *)context);
    return FAIL(err, ERROR_INPUT, "enough");
}

static void test_a_visitor_may_end_it(void **state) {
    (void)state;
    Ptq *p = ptq_of("{bits: 4}");
    for (int is_exact = 0; is_exact < 2; is_exact++) {
        Error err = {0};
        bool wanted = is_exact;
        source.calls = 0;
        assert_false(
            ptq_stream(p, is_exact ? PTQ_EXACT : PTQ_QUANTIZED, look_at_one, &wanted, &err));
        assert_string_equal(err.message, "enough");
        assert_int_equal(source.calls, 1);
    }
    ptq_free(p);
}

/* A NaN is met by a quantizer, which hides it in its codes, or shows in the output. */
static void test_nan(void **state) {
    (void)state;
    for (int is_exact = 0; is_exact < 2; is_exact++) {
        Error err = {0};
        Ptq *p = ptq_of("{bits: 4}");
        tensor_f32(&source.batches[1])[5] = NAN;
        assert_false(ptq_stream(p, is_exact ? PTQ_EXACT : PTQ_QUANTIZED, NULL, NULL, &err));
        assert_int_equal(err.code, ERROR_NUMERIC);
        assert_string_equal(err.message, "calibration batch 2: input (data) gives values that are "
                                         "not finite: the data hold some, or the training has "
                                         "diverged");
        ptq_free(p);
    }
}

/* Behind dead layers nothing has a range. */
static void test_zeros(void **state) {
    (void)state;
    Error err = {0};
    Ptq *p = ptq_of("{bits: 4}");
    Param *shift = model_find_param(p->qat->model, "batch_norm1.beta");
    for (int i = 0; i < 6; i++) tensor_f32(&shift->value)[i] = -1000;
    ptq_free(p);
    p = ptq_new(p->qat, p->data, arena);
    List methods = ptq_source_methods("[round]");
    assert_false(ptq_apply(p, &methods, 0, &err));
    assert_string_equal(err.message,
                        "quantize.0 (round): 'relu1.out4' saw nothing but zeros in 12 rows of "
                        "calibration data: raise calibration.rows, or leave that layer float with "
                        "a rule of quant.rules");
    ptq_free(p);
}

/* ---- Bias ---- */

static void test_bias(void **state) {
    (void)state;
    Ptq *p = ptq_of("{bits: 32, weights: {bits: 8, quantizer: minmax}}");
    apply(p, "[]");
    float before[6], after[6];
    const float correction[6] = {1, -2, 0.5f, 0, 3, 4};
    const WeightSite *sites = p->qat->sites;
    assert_true(ptq_has_bias(&sites[0]) && !ptq_has_bias(&sites[1]) && ptq_has_bias(&sites[2]));
    for (int i = 0; i < 3; i++) {
        ptq_bias(&sites[i], before);
        for (int c = 0; i == 1 && c < 4; c++) assert_true(before[c] == 0);
        if (i == 1) continue;
        ptq_add_bias(&sites[i], correction);
        ptq_bias(&sites[i], after);
        for (int c = 0; c < ptq_channels(&sites[i]); c++)
            assert_true(fabsf(after[c] - before[c] - correction[c]) < 1e-5f);
    }
    ptq_free(p);
}

/* ---- Notes ---- */

static void keep_message(void *context, LogLevel level, const char *message) {
    assert_int_equal(level, LOG_WARNING);
    snprintf(context, 256, "%s", message);
}

static void test_notes(void **state) {
    (void)state;
    char said[256] = "";
    Ptq *p = ptq_of("{bits: 4}");
    LogTarget outer = log_set_sink(keep_message, said);
    ptq_note(p, NULL, "iterations", 3);
    ptq_skip(p, "conv1", "it has %d rows", 7);
    log_set_sink(outer.sink, outer.context);
    assert_string_equal(said, "conv1: it has 7 rows");
    assert_int_equal(p->note_count, 2);
    assert_null(p->notes[0].layer);
    assert_true(p->notes[0].value == 3 && !p->notes[0].text);
    assert_string_equal(p->notes[1].name, "skipped");
    assert_string_equal(p->notes[1].text, "it has 7 rows");
    ptq_free(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_what_takes_no_levels),
        cmocka_unit_test(test_refit),
        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_a_visitor_may_end_it),
        cmocka_unit_test(test_nan),
        cmocka_unit_test(test_zeros),
        cmocka_unit_test(test_bias),
        cmocka_unit_test(test_notes),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
