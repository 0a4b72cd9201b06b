/* Batch norm, plain and folded: against double references, PyTorch's goldens, and each other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "autograd/channel.h"
#include "autograd/ops.h"
#include "core/parallel.h"
#include "tests/golden.h"
#include "tests/tape_fixture.h"

static int set_up(void **state) {
    (void)state;
    tape_fixture();
    tape_begin(tape, TAPE_TRAINING);
    return 0;
}

static void assert_close(const char *what, const float *got, const float *expected, int64_t count,
                         double tolerance) {
    double largest = 0;
    for (int64_t i = 0; i < count; i++) largest = fmax(largest, fabs((double)expected[i]));
    for (int64_t i = 0; i < count; i++)
        if (!(fabs((double)got[i] - (double)expected[i]) <= tolerance * fmax(1, largest)))
            fail_msg("%s[%d] is %.9g, expected %.9g", what, (int)i, (double)got[i],
                     (double)expected[i]);
}

static Tensor tensor_of(const GoldenTensor *golden) {
    return (Tensor){.dtype = DTYPE_F32, .shape = golden->shape, .data = golden->values};
}

/* A leaf with a gradient buffer. */
static Var *leaf(const GoldenTensor *golden) {
    int64_t count = shape_count(golden->shape);
    return tape_leaf(tape, tensor_of(golden), arena_new_array(tape->arena, float, count), NULL);
}

/* Running statistics of their own, from the golden inputs. */
static void set_running(BatchNormAttr *attr, const GoldenCase *given) {
    const GoldenTensor *mean = golden_tensor(given, "mean");
    const GoldenTensor *variance = golden_tensor(given, "variance");
    size_t bytes = sizeof(float) * (size_t)shape_count(mean->shape);
    memcpy(attr->running_mean, mean->values, bytes);
    memcpy(attr->running_variance, variance->values, bytes);
}

/* The inputs of the folded step; the results follow in `golden`. */
static const GoldenCase *read_given(Golden *golden) {
    GoldenCase *given = arena_new_array(arena, GoldenCase, 1);
    *golden = golden_open("tests/golden/batch_norm_folded.txt", arena);
    assert_true(golden_next(golden, given));
    return given;
}

/* Gradients of sum(y dy). */
static void backward(Var *y, Tensor dy) {
    Var *weight = tape_constant(tape, dy);
    Var *product = op_mul(tape, y, weight);
    Var *loss = op_sum(tape, product, -1);
    tape_backward(tape, loss, 1);
    assert_int_equal(tape->error.code, ERROR_NONE);
}

static BatchNormAttr attr_new(int64_t channels, bool uses_batch) {
    BatchNormAttr attr = {.epsilon = 1e-5f, .momentum = 0.1f, .uses_batch = uses_batch};
    attr.running_mean = arena_new_array(arena, float, channels);
    attr.running_variance = arena_new_array(arena, float, channels);
    for (int64_t c = 0; c < channels; c++) attr.running_variance[c] = 1;
    return attr;
}

/* Mean and sum of squared deviations of channel c, in double. */
static void moments_reference(const float *x, int64_t rows, int64_t channels, int64_t c,
                              double *mean, double *squares) {
    *mean = *squares = 0;
    for (int64_t r = 0; r < rows; r++) *mean += (double)x[r * channels + c] / (double)rows;
    for (int64_t r = 0; r < rows; r++) {
        double d = (double)x[r * channels + c] - *mean;
        *squares += d * d;
    }
}

/* Shapes with partial blocks, partial chunks and partial panels; means far from 0. */
static void test_moments(void **state) {
    (void)state;
    static const Shape shapes[] = {{2, {1, 3}},       {2, {63, 1}},       {2, {65, 10}},
                                   {2, {1000, 16}},   {2, {4097, 5}},     {2, {9000, 300}},
                                   {4, {7, 5, 9, 3}}, {4, {3, 1, 1, 20}}, {4, {40, 28, 28, 32}}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        int64_t rows = shape_rows(shapes[s]), channels = shape_last(shapes[s]);
        float *x = arena_new_array(arena, float, rows *channels);
        float *mean = arena_new_array(arena, float, channels);
        float *variance = arena_new_array(arena, float, channels);
        random_fill_normal((RandomKey){3, RANDOM_TEST, s}, 1, rows * channels, x);
        for (int64_t i = 0; i < rows * channels; i++) x[i] += 1000 * (float)(i % channels);
        Tensor tensor = {.dtype = DTYPE_F32, .shape = shapes[s], .data = x};
        channel_moments(&tensor, mean, variance, arena);
        for (int64_t c = 0; c < channels; c++) {
            double m, q;
            moments_reference(x, rows, channels, c, &m, &q);
            assert_true(fabs((double)mean[c] - m) <= 1e-7 * fmax(1, fabs(m)));
            assert_true(fabs((double)variance[c] - q / (double)rows) <= 1e-5 * q / (double)rows);
        }
    }
}

static void test_channel_sum(void **state) {
    (void)state;
    enum { ROWS = 5001, CHANNELS = 13 };
    float *x = arena_new_array(arena, float, ROWS *CHANNELS), out[CHANNELS], added[CHANNELS];
    random_fill_uniform((RandomKey){4, RANDOM_TEST, 0}, -1, 3, ROWS * CHANNELS, x);
    for (int c = 0; c < CHANNELS; c++) {
        out[c] = NAN; /* what beta 0 must not read */
        added[c] = 5;
    }
    channel_sum(x, ROWS, CHANNELS, 0, out, arena);
    channel_sum(x, ROWS, CHANNELS, 1, added, arena);
    for (int c = 0; c < CHANNELS; c++) {
        double sum = 0;
        for (int r = 0; r < ROWS; r++) sum += (double)x[r * CHANNELS + c];
        assert_true(fabs((double)out[c] - sum) <= 1e-6 * fabs(sum));
        assert_true(fabs((double)added[c] - sum - 5) <= 1e-6 * fabs(sum));
    }
}

static void test_normalizes(void **state) {
    (void)state;
    BatchNormAttr attr = attr_new(6, true);
    Var *x = tape_sample_leaf(tape, SHAPE(40, 5, 6), -3, 9);
    Var *gamma = tape_sample_leaf(tape, SHAPE(6), 0.5f, 2);
    Var *beta = tape_sample_leaf(tape, SHAPE(6), -1, 1);
    Var *y = op_batch_norm(tape, x, gamma, beta, attr);
    for (int c = 0; c < 6; c++) {
        double m, q, mean_y, q_y;
        moments_reference(var_f32(x), 200, 6, c, &m, &q);
        moments_reference(var_f32(y), 200, 6, c, &mean_y, &q_y);
        assert_true(fabs(mean_y - (double)var_f32(beta)[c]) < 1e-5);
        assert_true(fabs(sqrt(q_y / 200) - (double)var_f32(gamma)[c]) < 1e-5);
        assert_true(fabs((double)attr.running_mean[c] - 0.1 * m) < 1e-6);
        assert_true(fabs((double)attr.running_variance[c] - (0.9 + 0.1 * q / 199)) < 1e-5);
    }
}

/* Evaluation, a frozen batch norm and a replay leave the running statistics alone. */
static void test_running_statistics_change_in_training_only(void **state) {
    (void)state;
    for (int which = 0; which < 6; which++) {
        bool is_training = which % 3 == 0, is_folded = which >= 3;
        BatchNormAttr attr = attr_new(2, which % 3 != 1);
        mode.keeps_residuals = true;
        mode.is_training = is_training;
        tape_begin(tape, mode);
        Var *x = tape_sample_leaf(tape, SHAPE(9, 2), 1, 2);
        Var *gamma = tape_sample_leaf(tape, SHAPE(2), 0.5f, 1);
        Var *beta = tape_sample_leaf(tape, SHAPE(2), 0, 1);
        Var *y = is_folded ? op_batch_norm_folded(tape, x, gamma, beta, NULL, attr)
                           : op_batch_norm(tape, x, gamma, beta, attr);
        bool changed = attr.running_mean[0] != 0 || attr.running_variance[0] != 1;
        assert_int_equal(changed, is_training);
        float mean = attr.running_mean[1], variance = attr.running_variance[1], first = *var_f32(y);
        tape_replay(tape);
        assert_true(attr.running_mean[1] == mean && attr.running_variance[1] == variance);
        assert_true(*var_f32(y) == first);
    }
}

/* The quantization-aware step: fold, (quantize,) convolve, normalise. */
typedef struct Step {
    Var *x, *w, *gamma, *beta, *bias, *y;
    BatchNormAttr attr;
} Step;

static Step folded_step(const GoldenCase *given, bool is_quantized, bool uses_batch) {
    static const char *const names[] = {"x", "w", "gamma", "beta", "bias"};
    Var *in[5];
    for (int i = 0; i < 5; i++) in[i] = leaf(golden_tensor(given, names[i]));
    Step step = {.x = in[0], .w = in[1], .gamma = in[2], .beta = in[3], .bias = in[4]};
    int64_t out = var_count(step.gamma), row = var_count(step.w) / out;
    step.attr = attr_new(out, uses_batch);
    step.attr.epsilon = 0x1p-6f;
    step.attr.momentum = 0.125f;
    set_running(&step.attr, given);
    Var *folded = op_batch_norm_fold(tape, step.w, step.gamma, step.attr);
    if (is_quantized) {
        FakeQuantAttr quant = {.grid = grid_signed(4),
                               .row_length = row,
                               .run_length = row,
                               .scale_dtype = DTYPE_F32,
                               .range_gradient = RANGE_FIXED,
                               .grad_scale = 1};
        Var *scale = tape_constant(tape, tensor_of(golden_tensor(given, "scale")));
        folded = op_fake_quant(tape, folded, scale, NULL, quant);
    }
    Conv2dAttr conv = {1, 1, 1, 1, 1, 1, 1};
    Var *c = op_conv2d(tape, step.x, folded, NULL, conv);
    step.y = op_batch_norm_folded(tape, c, step.gamma, step.beta, step.bias, step.attr);
    return step;
}

static void test_folded_step_is_pytorchs(void **state) {
    (void)state;
    static const char *const cases[] = {"float_batch", "float_running", "int4_batch",
                                        "int4_running"};
    Golden golden;
    const GoldenCase *given = read_given(&golden);
    GoldenCase results_of;
    for (int i = 0; i < 4; i++) {
        assert_true(golden_next(&golden, &results_of));
        assert_string_equal(results_of.name, cases[i]);
        tape_begin(tape, TAPE_TRAINING);
        Step step = folded_step(given, i >= 2, i % 2 == 0);
        backward(step.y, tensor_of(golden_tensor(given, "dy")));
        const struct {
            const char *name;
            const float *got;
        } results[] = {
            {"y", var_f32(step.y)},
            {"dx", var_grad_f32(step.x)},
            {"dw", var_grad_f32(step.w)},
            {"dgamma", var_grad_f32(step.gamma)},
            {"dbeta", var_grad_f32(step.beta)},
            {"dbias", var_grad_f32(step.bias)},
            {"mean", step.attr.running_mean},
            {"variance", step.attr.running_variance},
        };
        for (size_t r = 0; r < sizeof results / sizeof *results; r++)
            golden_compare(&results_of, results[r].name, results[r].got, 2e-6f);
    }
    golden_close(&golden);
}

/* Folding changes the order of the arithmetic, not the function: y and the running statistics are
 * those of the convolution followed by plain batch norm. */
static void test_folding_changes_nothing(void **state) {
    (void)state;
    Golden golden;
    const GoldenCase *given = read_given(&golden);
    golden_close(&golden);
    for (int uses_batch = 0; uses_batch < 2; uses_batch++) {
        tape_begin(tape, TAPE_TRAINING);
        Step step = folded_step(given, false, uses_batch);
        BatchNormAttr attr = attr_new(var_count(step.gamma), uses_batch);
        attr.epsilon = step.attr.epsilon;
        attr.momentum = step.attr.momentum;
        set_running(&attr, given);
        Conv2dAttr conv = {1, 1, 1, 1, 1, 1, 1};
        Var *c = op_conv2d(tape, step.x, step.w, step.bias, conv);
        Var *size = step.gamma;
        Var *y = op_batch_norm(tape, c, size, step.beta, attr);
        assert_close("y", var_f32(step.y), var_f32(y), var_count(y), 2e-6);
        assert_close("mean", step.attr.running_mean, attr.running_mean, var_count(size), 1e-6);
        assert_close("variance", step.attr.running_variance, attr.running_variance, var_count(size),
                     1e-6);
    }
}

/* In evaluation y is c plus the deployed bias, bit for bit what convert writes. */
static void test_deployed_bias(void **state) {
    (void)state;
    Golden golden;
    const GoldenCase *given = read_given(&golden);
    golden_close(&golden);
    tape_begin(tape, TAPE_EVALUATION);
    Step step = folded_step(given, true, false);
    const Var *c = step.y->in[0];
    int64_t channels = var_count(step.gamma);
    for (int64_t i = 0; i < var_count(step.y); i++) {
        int64_t k = i % channels;
        float bias = batch_norm_bias(var_f32(step.gamma)[k], var_f32(step.beta)[k],
                                     var_f32(step.bias)[k], step.attr.running_mean[k],
                                     step.attr.running_variance[k], step.attr.epsilon);
        assert_true(var_f32(step.y)[i] == var_f32(c)[i] + bias);
    }
}

/* gamma 0, a constant channel and epsilon 0 leave everything finite. */
static void test_degenerate_channels_stay_finite(void **state) {
    (void)state;
    BatchNormAttr attr = attr_new(3, true);
    attr.epsilon = 0;
    mode.is_watching = true;
    tape_begin(tape, mode);
    Var *w = tape_sample_leaf(tape, SHAPE(3, 4), -1, 1);
    Var *x = tape_sample_leaf(tape, SHAPE(8, 4), -1, 1);
    Var *gamma = tape_sample_leaf(tape, SHAPE(3), 0.5f, 1);
    Var *beta = tape_sample_leaf(tape, SHAPE(3), -1, 1);
    var_f32(gamma)[0] = 0;
    for (int k = 0; k < 4; k++) var_f32(w)[4 + k] = 0;
    Var *folded = op_batch_norm_fold(tape, w, gamma, attr);
    Var *c = op_linear(tape, x, folded, NULL);
    Var *y = op_batch_norm_folded(tape, c, gamma, beta, NULL, attr);
    Tensor dy = tensor_new(arena, DTYPE_F32, y->value.shape);
    random_fill_uniform((RandomKey){5, RANDOM_TEST, 0}, -1, 1, var_count(y), dy.data);
    backward(y, dy);
    assert_null(tape_find_nonfinite(tape));
    assert_null(tape->overflowed);
    assert_true(batch_norm_factor(0, 1, 0) == 1e-5f);
    for (int r = 0; r < 8; r++) assert_true(var_f32(y)[3 * r + 1] == var_f32(beta)[1]);
    for (int i = 0; i < 3; i++) assert_true(isfinite(attr.running_variance[i]));
}

static uint64_t digest(uint64_t start, const float *x, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        start = (start ^ bits) * 1099511628211u; /* FNV-1a */
    }
    return start;
}

static void test_same_bits_on_any_number_of_threads(void **state) {
    (void)state;
    for (int is_folded = 0; is_folded < 2; is_folded++) {
        uint64_t expected = 0;
        for (int threads = 1; threads <= 4; threads++) {
            Error err = {0};
            assert_true(parallel_init(threads, &err));
            tape_begin(tape, TAPE_TRAINING);
            BatchNormAttr attr = attr_new(33, true);
            Var *x = tape_sample_leaf(tape, SHAPE(7, 29, 31, 33), -1, 4);
            Var *gamma = tape_sample_leaf(tape, SHAPE(33), 0.5f, 1);
            Var *beta = tape_sample_leaf(tape, SHAPE(33), -1, 1);
            Var *y = is_folded ? op_batch_norm_folded(tape, x, gamma, beta, NULL, attr)
                               : op_batch_norm(tape, x, gamma, beta, attr);
            backward(y, x->value);
            uint64_t found = digest(14695981039346656037u, var_f32(y), var_count(y));
            found = digest(found, var_grad_f32(x), var_count(x));
            found = digest(found, var_grad_f32(gamma), 33);
            found = digest(found, attr.running_variance, 33);
            if (threads == 1) expected = found;
            assert_true(found == expected);
        }
    }
}

static void test_bad_shapes(void **state) {
    (void)state;
    static const char *const expected[] = {"gamma [4] does not fit input [2, 3]",
                                           "[1, 3] has one value per channel",
                                           "gamma [4] does not fit weight [3, 2]"};
    for (int which = 0; which < 3; which++) {
        tape_begin(tape, TAPE_TRAINING);
        BatchNormAttr attr = attr_new(4, true);
        Var *x = tape_sample_leaf(tape, SHAPE(which == 1 ? 1 : 2, 3), -1, 1);
        Var *w = tape_sample_leaf(tape, SHAPE(3, 2), -1, 1);
        Var *gamma = tape_sample_leaf(tape, which == 1 ? SHAPE(3) : SHAPE(4), 0.5f, 1);
        Var *beta = tape_sample_leaf(tape, SHAPE(3), -1, 1);
        if (which < 2)
            op_batch_norm(tape, x, gamma, beta, attr);
        else
            op_batch_norm_fold(tape, w, gamma, attr);
        assert_int_equal(tape->error.code, ERROR_INPUT);
        if (!strstr(tape->error.message, expected[which])) fail_msg("%s", tape->error.message);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_moments, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_channel_sum, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_normalizes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_running_statistics_change_in_training_only, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_folded_step_is_pytorchs, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_folding_changes_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_deployed_bias, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_degenerate_channels_stay_finite, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_same_bits_on_any_number_of_threads, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bad_shapes, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
