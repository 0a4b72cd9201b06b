/* The loss over the logits x w^T that are never stored at once: beside plain sums, in several
 * chunks, with weights stored in other formats, the same bits on any threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "autograd/ops.h"
#include "core/storage.h"
#include "tests/tape_fixture.h"

/* Two chunks and a rest of one row: 2^23 logits at a time are 32 rows. */
enum { ROWS = 65, IN = 3, CLASSES = (1 << 18) - 5 };

static int set_up(void **state) {
    (void)state;
    tape_fixture();
    tape_begin(tape, mode);
    return 0;
}

static Tensor drawn(Shape shape, uint64_t seed) {
    Tensor x = tensor_new(arena, DTYPE_F32, shape);
    RandomKey key = {.seed = seed, .stream = RANDOM_TEST};
    random_fill_normal(key, 1, shape_count(shape), x.data);
    return x;
}

static int32_t *some_labels(int64_t rows, int64_t classes) {
    int32_t *labels = arena_new_array(arena, int32_t, rows);
    for (int64_t r = 0; r < rows; r++) labels[r] = r % 3 == 1 ? -1 : (int32_t)(r * 7919 % classes);
    return labels;
}

typedef struct Result {
    float loss, *dx, *dw;
} Result;

static Result run(Tensor x, Tensor w, bool learns, const int32_t *labels, float seed_grad) {
    Result r = {.dx = arena_new_array(arena, float, tensor_count(&x))};
    if (learns) r.dw = arena_new_array(arena, float, tensor_count(&w));
    tape_begin(tape, mode);
    Var *input = tape_leaf(tape, x, r.dx, NULL);
    Var *weight = learns ? tape_leaf(tape, w, r.dw, NULL) : tape_constant(tape, w);
    Var *loss = op_linear_cross_entropy(tape, input, weight, labels);
    tape_backward(tape, loss, seed_grad);
    if (tape->error.code != ERROR_NONE) fail_msg("%s", tape->error.message);
    r.loss = *var_f32(loss);
    return r;
}

/* Of one row, in double; its gradients added. */
static double plain_row(const float *x, const float *w, int64_t in, int64_t classes, int32_t label,
                        double dy, double *dx, double *dw) {
    double *z = arena_new_array(arena, double, classes), sum = 0;
    for (int64_t c = 0; c < classes; c++) {
        for (int64_t k = 0; k < in; k++) z[c] += (double)x[k] * (double)w[c * in + k];
        sum += exp(z[c]);
    }
    for (int64_t c = 0; c < classes; c++) {
        double dz = dy * (exp(z[c]) / sum - (c == label));
        for (int64_t k = 0; k < in; k++) dx[k] += dz * (double)w[c * in + k];
        for (int64_t k = 0; k < in; k++) dw[c * in + k] += dz * (double)x[k];
    }
    return log(sum) - z[label];
}

static void assert_near(const float *values, const double *expected, int64_t count,
                        double tolerance) {
    double most = 0;
    for (int64_t i = 0; i < count; i++) most = fmax(most, fabs(expected[i]));
    assert_true(most > 0);
    for (int64_t i = 0; i < count; i++)
        if (!(fabs((double)values[i] - expected[i]) <= tolerance * most))
            fail_msg("element %lld is %g, not %g", (long long)i, (double)values[i], expected[i]);
}

/* `tolerance`: of sums over the classes in f32. */
static void check(int64_t rows, int64_t in, int64_t classes, double tolerance) {
    Tensor x = drawn(SHAPE(rows, in), 1), w = drawn(SHAPE(classes, in), 2);
    const int32_t *labels = some_labels(rows, classes);
    double *dx = arena_new_array(arena, double, rows *in), loss = 0;
    double *dw = arena_new_array(arena, double, classes *in), scored = 0;
    for (int64_t r = 0; r < rows; r++) scored += labels[r] >= 0;
    for (int64_t r = 0; r < rows; r++)
        if (labels[r] >= 0)
            loss += plain_row(tensor_f32(&x) + r * in, tensor_f32(&w), in, classes, labels[r],
                              0.5 / scored, dx + r * in, dw);
    Result learning = run(x, w, true, labels, 0.5f), fixed = run(x, w, false, labels, 0.5f);
    assert_true(fabs((double)learning.loss - loss / scored) < 2e-6 * loss / scored);
    assert_true(learning.loss == fixed.loss);
    assert_near(learning.dx, dx, rows * in, tolerance);
    assert_near(fixed.dx, dx, rows * in, tolerance);
    assert_near(learning.dw, dw, classes * in, 1e-6);
}

static void as_plain_sums(void **state) {
    (void)state;
    check(7, 5, 11, 1e-6);
    check(40, 9, 33, 1e-6);
}

static void in_chunks_as_plain_sums(void **state) {
    (void)state;
    check(ROWS, IN, CLASSES, 2e-3);
}

static void a_batch_without_labels_costs_nothing(void **state) {
    (void)state;
    Tensor x = drawn(SHAPE(2, 3, 4), 1), w = drawn(SHAPE(6, 4), 2);
    const int32_t none[] = {-1, -1, -1, -1, -1, -1};
    for (int learns = 0; learns < 2; learns++) {
        Result r = run(x, w, learns, none, 1);
        assert_true(r.loss == 0);
        for (int i = 0; i < 24; i++) assert_true(r.dx[i] == 0 && (!learns || r.dw[i] == 0));
    }
}

static void same_bits_on_any_threads(void **state) {
    (void)state;
    Tensor x = drawn(SHAPE(ROWS, 70), 1), w = drawn(SHAPE(5000, 70), 2);
    const int32_t *labels = some_labels(ROWS, 5000);
    for (int learns = 0; learns < 2; learns++) {
        Result first = {0};
        for (int threads = 1; threads <= 4; threads++) {
            Error err = {0};
            assert_true(parallel_init(threads, &err));
            Result r = run(x, w, learns, labels, 1);
            if (threads == 1) first = r;
            assert_true(r.loss == first.loss);
            assert_memory_equal(r.dx, first.dx, tensor_bytes(&x));
            if (learns) assert_memory_equal(r.dw, first.dw, tensor_bytes(&w));
        }
    }
}

/* A weight in another format is its values. */
static void a_stored_weight_is_its_values(void **state) {
    (void)state;
    static const Dtype dtypes[] = {DTYPE_F16, DTYPE_BF16, DTYPE_NF4};
    Tensor x = drawn(SHAPE(9, 64), 1), w = drawn(SHAPE(50, 64), 2);
    const int32_t *labels = some_labels(9, 50);
    for (int i = 0; i < 3; i++) {
        Tensor stored, plain = tensor_new(arena, DTYPE_F32, w.shape);
        Storage storage = {.dtype = dtypes[i], .scale_dtype = DTYPE_F32};
        Error err = {0};
        if (!tensor_encode(arena, w.data, w.shape, &storage, &stored, &err))
            fail_msg("%s", err.message);
        tensor_decode(&stored, plain.data);
        Result a = run(x, stored, false, labels, 1), b = run(x, plain, false, labels, 1);
        assert_true(a.loss == b.loss);
        assert_memory_equal(a.dx, b.dx, tensor_bytes(&x));
    }
}

/* Levels, under a scale per tensor or per row: the integer products of op_linear. */
static void levels_are_multiplied_as_levels(void **state) {
    (void)state;
    for (int by_row = 0; by_row < 2; by_row++) {
        float scale[ROWS];
        for (int r = 0; r < ROWS; r++) scale[r] = 0.01f * (float)(1 + by_row * r);
        Scales scales = {.row_length = by_row ? 4 : ROWS * 4, .count = by_row ? ROWS : 1};
        scales.run_length = scales.row_length;
        scales.grid = grid_signed(8);
        scales.scale = scale;
        Tensor x = drawn(SHAPE(ROWS, 4), 1), w = drawn(SHAPE(CLASSES, 4), 2);
        quantize_levels(x.data, &scales, 0, ROWS * 4, x.data);
        x.scales = &scales;
        const int32_t *labels = some_labels(ROWS, CLASSES);
        Result r = run(x, w, false, labels, 1);
        Tensor plain = tensor_new(arena, DTYPE_F32, x.shape);
        tensor_decode(&x, plain.data);
        Result expected = run(plain, w, false, labels, 1);
        assert_true(fabsf(r.loss - expected.loss) < 1e-6f * expected.loss);
        for (int i = 0; i < ROWS * 4; i++) assert_true(fabsf(r.dx[i] - expected.dx[i]) < 1e-6f);
    }
}

static void shapes_that_do_not_fit_are_named(void **state) {
    (void)state;
    Tensor x = drawn(SHAPE(2, 3), 1), w = drawn(SHAPE(5, 4), 2);
    Var *input = tape_constant(tape, x), *weight = tape_constant(tape, w);
    op_linear_cross_entropy(tape, input, weight, (const int32_t[]){0, 1});
    assert_string_equal(tape->error.message,
                        "linear_cross_entropy: input [2, 3] does not fit weight [5, 4]: the "
                        "input's last dimension must equal the weight's");
}

int main(void) {
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(as_plain_sums),
        TEST(in_chunks_as_plain_sums),
        TEST(a_batch_without_labels_costs_nothing),
        TEST(same_bits_on_any_threads),
        TEST(a_stored_weight_is_its_values),
        TEST(levels_are_multiplied_as_levels),
        TEST(shapes_that_do_not_fit_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
