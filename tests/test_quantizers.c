/* Every row of quantizers.def: what training computes is what is stored, gradients, threads; then
 * goldens (tests/golden/make_quantizers.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/gradcheck.h"
#include "core/parallel.h"
#include "qat/quantizer.h"
#include "tests/tape_fixture.h"

enum { ROWS = 6, COLUMNS = 20, COUNT = ROWS * COLUMNS, THREADS_MAX = 4 };

static Model *model;
static QuantPhase phase;

static int set_up(void **state) {
    (void)state;
    tape_fixture();
    model = arena_new_array(arena, Model, 1);
    model->arena = arena;
    mode.keeps_residuals = true;
    phase = (QuantPhase){.is_faking = true, .is_observing = true};
    return 0;
}

typedef struct Case {
    bool is_weight;
    QuantSpec spec;
} Case;

/* All combinations that a config could ask for, in a fixed order; false past the last. */
static bool case_find(const Kind *kind, int which, Case *out) {
    static const int64_t group_sizes[] = {0, 0, 7, 0};
    static const Dtype scale_dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    *out = (Case){.spec = {.quantizer = {.kind = kind}}};
    const int low_bits[] = {1, BITS_TERNARY};
    out->spec.bits = which % 9 < 7 ? 2 + which % 9 : low_bits[which % 9 - 7];
    which /= 9;
    out->spec.granularity = (Granularity)(which % 4);
    out->spec.group_size = group_sizes[which % 4];
    which /= 4;
    out->spec.scale_dtype = scale_dtypes[which % 3];
    which /= 3;
    out->spec.is_affine = which & 1;
    out->spec.is_signed = which & 2;
    out->is_weight = which & 4;
    return which < 8;
}

static Quant *new_quant(Case c, Shape shape, Error *err) {
    static int number;
    Quant *q = NULL;
    char name[32];
    snprintf(name, sizeof name, "edge%d", number++);
    quant_new(model, name, c.is_weight, shape, &c.spec, &phase, &q, err);
    return q;
}

/* Values as the case has them: never negative where it says unsigned. */
static Tensor values_for(Case c, Shape shape, uint64_t seed) {
    Tensor x = tensor_new(arena, DTYPE_F32, shape);
    float *v = x.data;
    random_fill_normal((RandomKey){.seed = seed, .stream = RANDOM_TEST}, 1, shape_count(shape), v);
    for (int64_t i = 0; i < shape_count(shape); i++)
        if (!c.is_weight && !c.spec.is_signed && v[i] < 0) v[i] = 0;
    return x;
}

static Var *train(Quant *q, Tensor x) {
    tape_begin(tape, mode);
    Var *leaf = tape_constant(tape, x);
    Var *faked = quant_apply(q, tape, leaf);
    assert_int_equal(tape->error.code, ERROR_NONE);
    return faked;
}

static void assert_same_scales(const Scales *a, const Scales *b) {
    assert_int_equal(a->count, b->count);
    assert_int_equal(a->row_length, b->row_length);
    assert_int_equal(a->run_length, b->run_length);
    assert_int_equal(a->dtype, b->dtype);
    assert_memory_equal(&a->grid, &b->grid, sizeof(Grid));
    assert_memory_equal(a->scale, b->scale, sizeof(float) * (size_t)a->count);
    assert_true(!a->zero == !b->zero);
    if (a->zero) assert_memory_equal(a->zero, b->zero, sizeof(float) * (size_t)a->count);
}

static void assert_sound(const Scales *scales) {
    for (int64_t i = 0; i < scales->count; i++) {
        assert_true(scales->scale[i] > 0 && isfinite(scales->scale[i]));
        assert_true(dtype_round(scales->dtype, scales->scale[i]) == scales->scale[i]);
        if (!scales->zero) continue;
        float zero = scales->zero[i];
        assert_true(zero == rintf(zero) && zero >= 0 && zero <= (float)grid_high(scales->grid));
    }
}

/* The levels that training made, packed and unpacked, are the same, and so are their values. */
static void assert_stored_equals_faked(const Var *faked) {
    const Scales *scales = faked->value.scales;
    Shape shape = faked->value.shape;
    int64_t count = shape_count(shape);
    Tensor packed = tensor_zeros(arena, dtype_packed(scales->grid), shape);
    packed.scales = scales;
    dtype_codec(dtype_packed(scales->grid))
        ->write_levels(var_f32(faked), scales, 0, count, packed.data);
    float levels[COUNT], values[COUNT], faked_values[COUNT];
    dtype_codec(dtype_packed(scales->grid))->read_levels(packed.data, scales, 0, count, levels);
    assert_memory_equal(levels, var_f32(faked), sizeof(float) * (size_t)count);
    tensor_decode(&packed, values);
    tensor_decode(&faked->value, faked_values);
    assert_memory_equal(values, faked_values, sizeof(float) * (size_t)count);
}

/* What is packed at the end comes from quant_levels (weights) or quantize_levels (activations). */
static void assert_frozen_equals_faked(Quant *q, Tensor x, const Var *faked) {
    const Scales *frozen = quant_freeze(q, arena);
    if (q->spec.granularity == GRANULARITY_TOKEN) {
        assert_null(frozen);
        return;
    }
    assert_same_scales(frozen, faked->value.scales);
    float levels[COUNT];
    if (q->is_weight) {
        Tensor stored = quant_levels(q, x.data, arena);
        assert_same_scales(stored.scales, frozen);
        memcpy(levels, stored.data, sizeof levels);
    } else {
        quantize_levels(x.data, frozen, 0, COUNT, levels);
    }
    assert_memory_equal(levels, var_f32(faked), sizeof levels);
}

/* How many sorts of weights (3 granularities, 2 symmetries) and of activations (2 signs, 2
 * symmetries, per token too) a row takes; a row that is not listed may take any. */
static const struct {
    const char *name;
    int weights, activations;
} accepted_sorts[] = {
    {"minmax", 6, 4 + 4}, {"ema", 6, 4},  {"percentile", 6, 4}, {"mse", 6, 4},     {"lsq", 3, 2},
    {"lsq_plus", 6, 4},   {"pact", 0, 1}, {"dorefa", 1, 1},     {"paretoq", 3, 0}, {"kl", 6, 4},
};

/* How many of 1 and 1.58 bits a row takes, of symmetric weights. */
static int low_widths(const Kind *kind) {
    if (((const Quantizer *)kind)->flags & QUANTIZER_FOR_ONE_BIT) return 2;
    return strcmp(kind->name, "dorefa") != 0;
}

/* Each in 7 bit-widths and 3 formats of scales; a weight's sign, which has no meaning, is asked. */
static void assert_accepted(const Kind *kind, int count) {
    for (size_t i = 0; i < sizeof accepted_sorts / sizeof *accepted_sorts; i++) {
        int weights = 2 * accepted_sorts[i].weights, symmetric = weights < 6 ? weights : 6;
        if (!strcmp(accepted_sorts[i].name, kind->name))
            assert_int_equal(count, 21 * (weights + accepted_sorts[i].activations) +
                                        3 * low_widths(kind) * symmetric);
    }
}

static void test_stored_equals_faked(void **state) {
    (void)state;
    for (int k = 0; k < quantizer_kinds.count; k++) {
        Case c;
        int accepted_here = 0;
        for (int which = 0; case_find(quantizer_kinds.kinds[k], which, &c); which++) {
            Error err = {0};
            Quant *q = new_quant(c, SHAPE(ROWS, COLUMNS), &err);
            if (err.code != ERROR_NONE) {
                assert_int_equal(err.code, ERROR_INPUT);
                assert_non_null(strstr(err.message, "edge"));
                continue;
            }
            accepted_here++;
            Tensor x = values_for(c, q->shape, (uint64_t)which);
            Var *faked = train(q, x);
            assert_non_null(faked->value.scales);
            assert_sound(faked->value.scales);
            assert_stored_equals_faked(faked);
            assert_frozen_equals_faked(q, x, faked);
        }
        assert_true(accepted_here > 0);
        assert_accepted(quantizer_kinds.kinds[k], accepted_here);
    }
}

/* Most of a range is used, and the error is what its steps allow: catches scales off by a factor.
 */
static void test_error_is_small(void **state) {
    (void)state;
    for (int k = 0; k < quantizer_kinds.count; k++) {
        Case c;
        const char *name = quantizer_kinds.kinds[k]->name;
        if (!strcmp(name, "dorefa") || !strcmp(name, "pact"))
            continue; /* ranges not from the data */
        for (int which = 0; case_find(quantizer_kinds.kinds[k], which, &c); which++) {
            Error err = {0};
            if (c.spec.bits != 8) continue;
            Quant *q = new_quant(c, SHAPE(ROWS, COLUMNS), &err);
            if (err.code != ERROR_NONE) continue;
            Tensor x = values_for(c, q->shape, (uint64_t)which);
            float values[COUNT];
            double error = 0, power = 0;
            tensor_decode(&train(q, x)->value, values);
            for (int i = 0; i < COUNT; i++) {
                error += pow((double)values[i] - (double)tensor_f32(&x)[i], 2);
                power += pow((double)tensor_f32(&x)[i], 2);
            }
            /* 6 dB a bit, less what the range leaves unused: LSQ's first ones are wide at 8 bits.
             */
            double decibels = 10 * log10(power / error);
            if (!(decibels > (strncmp(name, "lsq", 3) ? 34 : 22)))
                fail_msg("%s, case %d: %.1f dB", name, which, decibels);
        }
    }
}

static void test_gradients(void **state) {
    (void)state;
    Error unused = {0};
    assert_true(parallel_init(1, &unused)); /* thousands of replays, each too small for threads */
    for (int k = 0; k < quantizer_kinds.count; k++) {
        Case c;
        for (int which = 0; case_find(quantizer_kinds.kinds[k], which, &c); which++) {
            Error err = {0};
            if ((c.spec.bits % 2 && c.spec.bits != 1) || c.spec.bits == 6 ||
                c.spec.scale_dtype == DTYPE_BF16)
                continue;
            Quant *q = new_quant(c, SHAPE(ROWS, COLUMNS), &err);
            if (err.code != ERROR_NONE) continue;
            q->grad_scale = 1; /* differences know nothing of it; goldens check its value */
            phase.is_faking = true;
            Tensor x = values_for(c, q->shape, (uint64_t)which + 1000);
            if (c.is_weight) tensor_f32(&x)[17] = 4; /* DoReFa's maximum, alone at the top */
            train(q, x);                             /* initialises */
            if (q->scale && q->row->learns)
                for (int64_t i = 0; i < q->scale_count; i++)
                    tensor_f32(&q->scale->value)[i] *= 0.8f;
            tape_begin(tape, mode);
            float *grad = tape_alloc(tape, sizeof(float) * COUNT);
            Var *leaf = tape_leaf(tape, x, grad, NULL);
            Var *faked = quant_apply(q, tape, leaf);
            bool ok = gradcheck(tape, faked, &err);
            if (!ok)
                fail_msg("%s: %d bits, case %d: %s", quantizer_kinds.kinds[k]->name, c.spec.bits,
                         which, err.message);
            assert_true(!q->row->learns || q->scale->grad);
        }
    }
}

/* The state and the levels after three batches, for any number of threads. */
static void test_threads(void **state) {
    (void)state;
    enum { LARGE = 90000 };
    Error err = {0};
    for (int k = 0; k < quantizer_kinds.count; k++)
        for (int is_weight = 0; is_weight < 2; is_weight++) {
            Case c = {.is_weight = is_weight,
                      .spec = {.quantizer = {.kind = quantizer_kinds.kinds[k]}, .bits = 4}};
            float *levels_one = arena_alloc(arena, LARGE * sizeof(float)), scale_one = 0;
            for (int threads = 1; threads <= THREADS_MAX; threads++) {
                Error refused = {0};
                assert_true(parallel_init(threads, &err));
                Quant *q = new_quant(c, SHAPE(300, 300), &refused);
                if (refused.code != ERROR_NONE) continue;
                Var *faked = NULL;
                for (uint64_t batch = 0; batch < 3; batch++)
                    faked = train(q, values_for(c, q->shape, batch));
                if (threads == 1) {
                    memcpy(levels_one, var_f32(faked), LARGE * sizeof(float));
                    scale_one = *tensor_f32(&q->scale->value);
                }
                assert_memory_equal(levels_one, var_f32(faked), LARGE * sizeof(float));
                assert_true(scale_one == *tensor_f32(&q->scale->value));
            }
        }
}

/* After warm-up neither a step nor an observer asks the system for memory. */
static void test_no_allocation(void **state) {
    (void)state;
    for (int k = 0; k < quantizer_kinds.count; k++)
        for (int is_weight = 0; is_weight < 2; is_weight++) {
            Case c = {.is_weight = is_weight,
                      .spec = {.quantizer = {.kind = quantizer_kinds.kinds[k]}, .bits = 4}};
            Error refused = {0};
            Quant *q = new_quant(c, SHAPE(ROWS, COLUMNS), &refused);
            if (refused.code != ERROR_NONE) continue;
            Tensor x = values_for(c, q->shape, 5);
            for (int i = 0; i < 3; i++) train(q, x);
            size_t step = arena_system_calls(tape->arena), used = arena_used(arena);
            for (int i = 0; i < 5; i++) train(q, x);
            assert_int_equal(arena_system_calls(tape->arena), step);
            assert_int_equal(arena_used(arena), used);
        }
}

/* ---- Goldens. ---- */

enum { LINE_BYTES = 1 << 16, VALUES_MAX = 512 };

typedef struct Golden {
    Quant *q;
    Shape shape;
    Tensor batch; /* the latest */
    const Var *faked;
    float dx[VALUES_MAX];
    bool has_gradient;
    int scales, levels, gradients; /* lines checked */
} Golden;

static int read_numbers(const char *text, float values[VALUES_MAX]) {
    int count = 0;
    for (char *end;; text = end) {
        float value = strtof(text, &end);
        if (end == text) return count;
        assert_true(count < VALUES_MAX);
        values[count++] = value;
    }
}

/* Within `tolerance` of the larger of the two, or `smallest`, which is for sums that cancel. */
static void assert_near(const float *a, const float *b, int64_t count, float tolerance,
                        float smallest) {
    for (int64_t i = 0; i < count; i++)
        if (!(fabsf(a[i] - b[i]) <= fmaxf(tolerance * fmaxf(fabsf(a[i]), fabsf(b[i])), smallest)))
            fail_msg("number %d: %.9g is not %.9g", (int)i, (double)a[i], (double)b[i]);
}

static void golden_case(Golden *g, const char *line) {
    char kind[32], role[32], symmetry[32], sign[32], granularity[32];
    int rows, columns, batches;
    double bits;
    assert_int_equal(sscanf(line, "%31s %31s %lf %31s %31s %31s %d %d %d", kind, role, &bits,
                            symmetry, sign, granularity, &rows, &columns, &batches),
                     9);
    Case c = {.is_weight = !strcmp(role, "weight")};
    c.spec = (QuantSpec){.quantizer = {.kind = kind_find(&quantizer_kinds, kind)},
                         .bits = bits == bits_number(BITS_TERNARY) ? BITS_TERNARY : (int)bits,
                         .is_affine = !strcmp(symmetry, "affine"),
                         .is_signed = !strcmp(sign, "signed"),
                         .granularity = !strcmp(granularity, "channel") ? GRANULARITY_CHANNEL
                                                                        : GRANULARITY_TENSOR};
    Error err = {0};
    g->shape = SHAPE(rows, columns);
    g->q = new_quant(c, c.is_weight ? g->shape : SHAPE(1, columns), &err);
    assert_int_equal(err.code, ERROR_NONE);
    g->has_gradient = false;
}

static void golden_batch(Golden *g, const float *x) {
    g->batch = tensor_new(arena, DTYPE_F32, g->shape);
    memcpy(g->batch.data, x, sizeof(float) * (size_t)shape_count(g->shape));
    g->faked = train(g->q, g->batch);
}

/* The gradient of the output as given, against those of the input and the scale. */
static void golden_backward(Golden *g, const float *dy) {
    int64_t count = shape_count(g->shape);
    Tensor weight = tensor_new(arena, DTYPE_F32, g->shape);
    memcpy(weight.data, dy, sizeof(float) * (size_t)count);
    TapeMode evaluation = mode;
    evaluation.is_training = false; /* PACT's decay is added in training only */
    tape_begin(tape, evaluation);
    if (g->q->scale) g->q->scale->has_grad = false;
    Var *x = tape_leaf(tape, g->batch, g->dx, NULL);
    Var *faked = quant_apply(g->q, tape, x);
    Var *w = tape_constant(tape, weight);
    g->faked = faked;
    Var *product = op_mul(tape, faked, w);
    Var *loss = op_sum(tape, product, -1);
    tape_backward(tape, loss, 1);
    assert_int_equal(tape->error.code, ERROR_NONE);
    g->has_gradient = true;
}

static void golden_line(Golden *g, const char *word, const char *rest) {
    float values[VALUES_MAX];
    if (!strcmp(word, "case")) {
        golden_case(g, rest);
        return;
    }
    int count = read_numbers(rest, values);
    const Scales *scales = g->faked ? g->faked->value.scales : NULL;
    if (!strcmp(word, "x")) {
        golden_batch(g, values);
    } else if (!strcmp(word, "scale")) {
        assert_int_equal(count, scales->count);
        assert_near(scales->scale, values, count, 0x1p-22f, 0);
        g->scales++;
    } else if (!strcmp(word, "zero")) {
        for (int i = 0; i < count; i++)
            assert_true((scales->zero ? scales->zero[i] : 0) == values[i]);
    } else if (!strcmp(word, "levels")) {
        assert_near(var_f32(g->faked), values, count, 0, 0);
        g->levels++;
    } else if (!strcmp(word, "at")) {
        assert_near(tensor_f32(&g->q->scale->value), values, count, 0x1p-22f, 0);
        *tensor_f32(&g->q->scale->value) = values[0];
    } else if (!strcmp(word, "moved")) {
        assert_int_equal(count, tensor_count(&g->q->scale->value));
        memcpy(g->q->scale->value.data, values, sizeof(float) * (size_t)count);
    } else if (!strcmp(word, "dy")) {
        golden_backward(g, values);
    } else if (!strcmp(word, "dx")) {
        assert_true(g->has_gradient);
        assert_near(g->dx, values, count, 2e-5f, 2e-6f);
        g->gradients++;
    } else if (!strcmp(word, "dscale")) {
        assert_true(g->has_gradient && g->q->scale->has_grad);
        assert_int_equal(count, tensor_count(&g->q->scale->value));
        assert_near(g->q->scale->grad, values, count, 2e-5f, 2e-6f);
        g->gradients++;
    } else {
        fail_msg("golden: unknown line '%s'", word);
    }
}

static void test_goldens(void **state) {
    (void)state;
    FILE *file = fopen("tests/golden/quantizers.txt", "r");
    assert_non_null(file);
    char *line = arena_alloc(arena, LINE_BYTES);
    Golden golden = {0};
    int number = 0;
    while (fgets(line, LINE_BYTES, file)) {
        number++;
        char word[16];
        int used;
        if (line[0] == '#' || sscanf(line, "%15s%n", word, &used) != 1) continue;
        golden_line(&golden, word, line + used);
    }
    fclose(file);
    assert_int_equal(golden.scales, 133); /* as many as the file has cases */
    assert_int_equal(golden.levels, 31);
    assert_int_equal(golden.gradients, 10 * 2 + 3 * 2 + 4 + 10 * 2);
}

int main(void) {
    Error err = {0};
    if (!parallel_init(0, &err)) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_stored_equals_faked, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_error_is_small, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_gradients, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_threads, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_allocation, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_goldens, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("quantizers", tests, NULL, NULL);
}
