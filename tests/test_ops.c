/* Every row of ops.def, without a test of its own: gradients, threads, non-finite values; then what
 * single ops promise. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "autograd/gradcheck.h"
#include "autograd/ops.h"
#include "core/parallel.h"
#include "tests/tape_fixture.h"

enum { SAMPLES_MAX = 100, THREADS_MAX = 4 };

static int set_up(void **state) {
    (void)state;
    tape_fixture();
    mode.keeps_residuals = true;
    tape->seed = 5;
    tape->step = 3;
    tape_begin(tape, mode);
    return 0;
}

/* Sample `which` of an op on a fresh record, or NULL. */
static Var *sample(const Op *op, int which) {
    tape_begin(tape, mode);
    Var *out = op->sample(tape, which);
    if (out && tape->error.code != ERROR_NONE)
        fail_msg("%s, sample %d: %s", op->name, which, tape->error.message);
    return out;
}

static void test_every_row_has_samples(void **state) {
    (void)state;
    for (int r = 0; r < op_row_count; r++) {
        int count = 0;
        while (count < SAMPLES_MAX && sample(op_rows[r], count)) count++;
        if (count == 0 || count == SAMPLES_MAX)
            fail_msg("%s has %d samples", op_rows[r]->name, count);
    }
}

static void test_gradients(void **state) {
    (void)state;
    for (int r = 0; r < op_row_count; r++) {
        Var *out;
        for (int which = 0; (out = sample(op_rows[r], which)); which++) {
            Error err = {0};
            if (!gradcheck(tape, out, &err))
                fail_msg("%s, sample %d: %s", op_rows[r]->name, which, err.message);
        }
    }
}

/* What is compared between runs: the bits of a step's every value and gradient. */
static uint64_t digest_bytes(uint64_t digest, const void *data, size_t bytes) {
    const uint8_t *byte = data;
    for (size_t i = 0; i < bytes; i++) digest = (digest ^ byte[i]) * 1099511628211u; /* FNV-1a */
    return digest;
}

static uint64_t digest_tape(const Tape *t) {
    uint64_t digest = 14695981039346656037u;
    for (int i = 0; i < t->count; i++) {
        const Var *v = t->vars[i];
        size_t bytes = sizeof(float) * (size_t)var_count(v);
        if (v->value.data) digest = digest_bytes(digest, v->value.data, bytes);
        if (v->grad.data && *v->has_grad) digest = digest_bytes(digest, var_grad_f32(v), bytes);
    }
    return digest;
}

static void run_backward(Var *out) {
    Var *squared = op_mul(tape, out, out);
    Var *loss = op_mean(tape, squared, -1);
    tape_backward(tape, loss, 1);
}

static void use_threads(int threads) {
    Error err = {0};
    assert_true(parallel_init(threads, &err));
    assert_int_equal(parallel_threads(), threads);
}

static void test_samples_on_threads(void **state) {
    (void)state;
    for (int r = 0; r < op_row_count; r++) {
        uint64_t digest[THREADS_MAX + 1];
        bool is_last = false;
        for (int which = 0; !is_last; which++)
            for (int threads = 1; threads <= THREADS_MAX && !is_last; threads++) {
                use_threads(threads);
                Var *out = sample(op_rows[r], which);
                is_last = !out;
                if (is_last) break;
                run_backward(out);
                digest[threads] = digest_tape(tape);
                if (digest[threads] != digest[1])
                    fail_msg("%s, sample %d: %d threads and 1 differ", op_rows[r]->name, which,
                             threads);
            }
    }
}

/* Large enough that every kernel really is shared between threads: x is [5000, 37]. */
static Var *large_plain(int which, Var *x) {
    static int32_t labels[5000];
    for (int i = 0; i < 5000; i++) labels[i] = i * 7 % 37;
    Var *row = tape_sample_leaf(tape, SHAPE(37), -1, 1);
    Var *twin = tape_sample_leaf(tape, SHAPE(5000, 37), -1, 1);
    switch (which) {
    case 0:
        return op_relu(tape, x);
    case 1:
        return op_gelu(tape, x);
    case 2:
        return op_add(tape, x, x);
    case 3:
        return op_add(tape, x, row);
    case 4:
        return op_mul(tape, x, row);
    case 5:
        return op_scale(tape, x, 0.3f);
    case 6:
        return op_softmax(tape, x);
    case 7:
        return op_dropout(tape, x, 0.4f, 2);
    case 8:
        return op_mean(tape, x, -1);
    case 9:
        return op_sum(tape, x, 0);
    case 10:
        return op_mean(tape, x, 1);
    case 11:
        return op_transpose(tape, x, 0, 1);
    case 12:
        return op_concat(tape, (Var *[]){x, x}, 2, 1);
    case 13:
        return op_slice(tape, x, 1, 3, 30);
    case 14:
        return op_cross_entropy(tape, x, labels, 0.1f);
    case 15:
        return op_mse(tape, x, twin);
    case 16:
        return op_max_normalize(tape, x);
    case 17:
        return op_distill(tape, x, var_f32(twin), 3);
    default:
        return NULL;
    }
}

static BatchNormAttr large_norm(void) {
    BatchNormAttr attr = {.epsilon = 1e-5f, .momentum = 0.1f, .uses_batch = true};
    attr.running_mean = arena_new_array(tape->arena, float, 37);
    attr.running_variance = arena_new_array(tape->arena, float, 37);
    for (int i = 0; i < 37; i++) attr.running_variance[i] = 1;
    return attr;
}

static Var *large_layer(int which, Var *x) {
    Var *gamma = tape_sample_leaf(tape, SHAPE(37), 0.5f, 1);
    Var *beta = tape_sample_leaf(tape, SHAPE(37), -1, 1);
    Var *w = tape_sample_leaf(tape, SHAPE(70, 37), -1, 1);
    Var *kernel = tape_sample_leaf(tape, SHAPE(20, 3, 3, 37), -1, 1);
    Var *depthwise = tape_sample_leaf(tape, SHAPE(37, 3, 3, 1), -1, 1);
    Var *scale = tape_sample_leaf(tape, SHAPE_SCALAR, 0.1f, 0.2f);
    Var *images = op_reshape(tape, x, SHAPE(5, 100, 10, 37));
    Pool2dAttr pool = {.kernel = 3, .stride = 2, .padding = 1};
    Conv2dAttr conv = {.stride = 1, .dilation = 1, .groups = 1, .pad_top = 1, .pad_left = 1};
    conv.pad_bottom = conv.pad_right = 1;
    FakeQuantAttr lsq = {.grid = grid_signed(4),
                         .row_length = 5000 * 37,
                         .run_length = 5000 * 37,
                         .scale_dtype = DTYPE_F32,
                         .range_gradient = RANGE_LSQ,
                         .grad_scale = 1};
    switch (which) {
    case 0:
        return op_linear(tape, x, w, NULL);
    case 1:
        return op_conv2d(tape, images, kernel, NULL, conv);
    case 2:
        conv.groups = 37;
        return op_conv2d(tape, images, depthwise, beta, conv);
    case 3:
        return op_batch_norm(tape, x, gamma, beta, large_norm());
    case 4:
        return op_batch_norm_folded(tape, x, gamma, beta, NULL, large_norm());
    case 5:
        return op_layer_norm(tape, x, gamma, beta, 1e-5f);
    case 6:
        return op_max_pool2d(tape, images, pool);
    case 7:
        return op_avg_pool2d(tape, images, pool);
    case 8:
        return op_global_avg_pool(tape, images);
    case 9:
        return op_fake_quant(tape, x, scale, NULL, lsq);
    case 10:
        return op_rms_norm(tape, x, gamma, 1e-5f);
    case 11: {
        AttentionAttr attr = {.heads = 37, .kv_heads = 37, .scale = 0.3f};
        Var *sequences = op_reshape(tape, op_slice(tape, x, 0, 0, 200), SHAPE(2, 100, 37));
        return op_attention(tape, sequences, sequences, sequences, NULL, attr);
    }
    default:
        return NULL;
    }
}

static uint64_t large_digest(Var *(*build)(int which, Var *x), int which, int threads) {
    use_threads(threads);
    tape_begin(tape, mode);
    Var *x = tape_sample_leaf(tape, SHAPE(5000, 37), -1, 1);
    Var *out = build(which, x);
    if (!out) return 0;
    assert_int_equal(tape->error.code, ERROR_NONE);
    run_backward(out);
    return digest_tape(tape);
}

static void test_large_on_threads(void **state) {
    (void)state;
    Var *(*const builders[])(int, Var *) = {large_plain, large_layer};
    for (int b = 0; b < 2; b++) {
        uint64_t first;
        for (int which = 0; (first = large_digest(builders[b], which, 1)); which++)
            for (int threads = 2; threads <= THREADS_MAX; threads++)
                if (large_digest(builders[b], which, threads) != first)
                    fail_msg("large %s %d: %d threads and 1 differ", b ? "layer" : "op", which,
                             threads);
    }
}

static bool is_finite(const Var *v) {
    float *values = arena_alloc(tape->arena, sizeof(float) * (size_t)var_count(v));
    tensor_decode(&v->value, values);
    for (int64_t i = 0; i < var_count(v); i++)
        if (!isfinite(values[i])) return false;
    return true;
}

/* NaN in the main input must reach the output: a silent repair would hide where training broke. */
static void test_nan_propagates(void **state) {
    (void)state;
    for (int r = 0; r < op_row_count; r++) {
        Var *out;
        for (int which = 0; (out = sample(op_rows[r], which)); which++) {
            assert_null(tape_find_nonfinite(tape));
            Var *leaf = tape->vars[0];
            assert_null(leaf->op);
            for (int64_t i = 0; i < var_count(leaf); i++) var_f32(leaf)[i] = NAN;
            tape_replay(tape);
            assert_ptr_equal(tape_find_nonfinite(tape), leaf);
            if (is_finite(out))
                fail_msg("%s, sample %d turns NaN into numbers", op_rows[r]->name, which);
        }
    }
}

/* A second reader's gradient is added, the first one's overwrites what the buffer held before. */
static void test_gradients_join(void **state) {
    (void)state;
    for (int r = 0; r < op_row_count; r++) {
        Var *out = sample(op_rows[r], 0);
        Var *leaf = tape->vars[0];
        if (!leaf->needs_grad) continue;
        size_t count = (size_t)var_count(leaf);
        float *once = arena_alloc(tape->arena, sizeof(float) * count);
        for (size_t i = 0; i < count; i++) var_grad_f32(leaf)[i] = NAN;
        Var *loss = op_sum(tape, out, -1);
        tape_backward(tape, loss, 1);
        memcpy(once, var_grad_f32(leaf), sizeof(float) * count);
        for (int i = 0; i < tape->count; i++)
            if (tape->vars[i] != leaf) *tape->vars[i]->has_grad = false;
        tape_backward(tape, loss, 1);
        for (size_t i = 0; i < count; i++)
            if (!(fabsf(var_grad_f32(leaf)[i] - 2 * once[i]) <= 1e-5f * (1 + fabsf(once[i]))))
                fail_msg("%s: element %zu has %g once and %g twice", op_rows[r]->name, i,
                         (double)once[i], (double)var_grad_f32(leaf)[i]);
    }
}

static void test_nonnegative_flags_hold(void **state) {
    (void)state;
    for (int r = 0; r < op_row_count; r++) {
        const Op *op = op_rows[r];
        Var *out;
        for (int which = 0; (out = sample(op, which)); which++) {
            bool is_negative = false, has_negative_input = false;
            float *values = arena_alloc(tape->arena, sizeof(float) * (size_t)var_count(out));
            tensor_decode(&out->value, values);
            for (int64_t i = 0; i < var_count(out); i++) is_negative |= values[i] < 0;
            for (int k = 0; k < out->in_count; k++)
                for (int64_t i = 0; out->in[k] && i < var_count(out->in[k]); i++)
                    has_negative_input |= var_f32(out->in[k])[i] < 0;
            if (op->flags & OP_IS_NONNEGATIVE) assert_false(is_negative);
            if ((op->flags & OP_KEEPS_SIGN) && !has_negative_input) assert_false(is_negative);
        }
    }
}

static void test_keeps_sign_on_positive_inputs(void **state) {
    (void)state;
    for (int r = 0; r < op_row_count; r++) {
        if (!(op_rows[r]->flags & OP_KEEPS_SIGN)) continue;
        Var *out;
        for (int which = 0; (out = sample(op_rows[r], which)); which++) {
            for (int k = 0; k < tape->count; k++) {
                Var *v = tape->vars[k];
                for (int64_t i = 0; !v->op && i < var_count(v); i++)
                    var_f32(v)[i] = fabsf(var_f32(v)[i]);
            }
            tape_replay(tape);
            float *values = arena_alloc(tape->arena, sizeof(float) * (size_t)var_count(out));
            tensor_decode(&out->value, values);
            for (int64_t i = 0; i < var_count(out); i++)
                if (values[i] < 0) fail_msg("%s does not keep the sign", op_rows[r]->name);
        }
    }
}

/* Factors of channels, powers of two that change nothing else, come out where the flag says. */
static void test_homogeneous_flags_hold(void **state) {
    (void)state;
    for (int r = 0; r < op_row_count; r++) {
        if (!(op_rows[r]->flags & OP_IS_HOMOGENEOUS)) continue;
        int checked = 0;
        Var *out;
        for (int which = 0; (out = sample(op_rows[r], which)); which++) {
            Var *in = out->in[0];
            int64_t channels = shape_last(in->value.shape), count = var_count(out);
            assert_int_equal(out->in_count, 1);
            if (in->op || shape_last(out->value.shape) % channels) continue;
            float *once = arena_alloc(tape->arena, sizeof(float) * (size_t)count);
            memcpy(once, var_f32(out), sizeof(float) * (size_t)count);
            for (int64_t i = 0; i < var_count(in); i++)
                var_f32(in)[i] *= exp2f((float)(i % channels) - 1);
            tape_replay(tape);
            for (int64_t i = 0; i < count; i++)
                if (var_f32(out)[i] != once[i] * exp2f((float)(i % channels) - 1))
                    fail_msg("%s does not pass on factors of channels", op_rows[r]->name);
            checked++;
        }
        assert_true(checked > 0);
    }
}

/* ---- What single ops promise. ---- */

static float *leaf_values(Var **x, Shape shape, float low, float high) {
    *x = tape_sample_leaf(tape, shape, low, high);
    return var_f32(*x);
}

static void test_shape_errors(void **state) {
    (void)state;
    for (int which = 0; which < 8; which++) {
        tape_begin(tape, mode);
        Var *x = tape_sample_leaf(tape, SHAPE(2, 3), 0, 1);
        Var *y = tape_sample_leaf(tape, SHAPE(2), 0, 1);
        switch (which) {
        case 0:
            op_add(tape, x, y);
            break;
        case 1:
            op_reshape(tape, x, SHAPE(4, -1));
            break;
        case 2:
            op_reshape(tape, x, SHAPE(-1, -1));
            break;
        case 3:
            op_slice(tape, x, 1, 2, 2);
            break;
        case 4:
            op_mean(tape, x, 2);
            break;
        case 5:
            op_concat(tape, (Var *[]){x, y}, 2, 0);
            break;
        case 6:
            op_transpose(tape, x, 0, 2);
            break;
        case 7:
            op_mse(tape, x, y);
            break;
        }
        assert_int_equal(tape->error.code, ERROR_INPUT);
        assert_non_null(strstr(tape->error.message, "[2, 3]"));
    }
}

static void test_bad_settings(void **state) {
    (void)state;
    for (int which = 0; which < 6; which++) {
        tape_begin(tape, mode);
        Var *x = tape_sample_leaf(tape, SHAPE(2, 3), 0, 1);
        static const int32_t labels[2] = {0, 2};
        Var *many[OP_INPUTS_MAX + 1];
        for (int i = 0; i <= OP_INPUTS_MAX; i++) many[i] = x;
        switch (which) {
        case 0:
            op_dropout(tape, x, 1, 0);
            break;
        case 1:
            op_cross_entropy(tape, x, labels, 1.5f);
            break;
        case 2:
            op_dropout(tape, x, NAN, 0);
            break;
        case 3:
            op_concat(tape, many, OP_INPUTS_MAX + 1, 0);
            break;
        case 4:
            op_distill(tape, x, var_f32(x), 0);
            break;
        case 5:
            op_distill(tape, x, var_f32(x), NAN);
            break;
        }
        assert_int_equal(tape->error.code, ERROR_INPUT);
    }
}

static void test_dropout(void **state) {
    (void)state;
    enum { COUNT = 40001 };
    Var *x = tape_sample_leaf(tape, SHAPE(COUNT), 1, 2);
    Var *y = op_dropout(tape, x, 0.25f, 9);
    float *first = arena_alloc(tape->arena, sizeof(float) * COUNT);
    memcpy(first, var_f32(y), sizeof(float) * COUNT);
    int dropped = 0;
    for (int i = 0; i < COUNT; i++) {
        float expected = first[i] == 0 ? 0 : var_f32(x)[i] * (1 / 0.75f);
        assert_true(first[i] == expected);
        dropped += first[i] == 0;
    }
    /* Binomial: 6 standard deviations around the mean. */
    assert_true(fabs(dropped - 0.25 * COUNT) < 6 * sqrt(0.25 * 0.75 * COUNT));
    tape_replay(tape);
    assert_memory_equal(var_f32(y), first, sizeof(float) * COUNT);

    Var *other_layer = op_dropout(tape, x, 0.25f, 10);
    assert_memory_not_equal(var_f32(other_layer), first, sizeof(float) * COUNT);
    tape->step++;
    Var *other_step = op_dropout(tape, x, 0.25f, 9);
    assert_memory_not_equal(var_f32(other_step), first, sizeof(float) * COUNT);
    tape->step--;
    tape->seed++;
    Var *other_seed = op_dropout(tape, x, 0.25f, 9);
    assert_memory_not_equal(var_f32(other_seed), first, sizeof(float) * COUNT);
    tape->seed--;
    Var *again = op_dropout(tape, x, 0.25f, 9);
    assert_memory_equal(var_f32(again), first, sizeof(float) * COUNT);

    assert_ptr_equal(op_dropout(tape, x, 0, 9), x);
    tape_begin(tape, TAPE_EVALUATION);
    x = tape_sample_leaf(tape, SHAPE(3), -1, 1);
    assert_ptr_equal(op_dropout(tape, x, 0.25f, 9), x);
}

static void test_cross_entropy_is_stable(void **state) {
    (void)state;
    static const int32_t labels[3] = {0, 1, 2};
    Var *x;
    float *z = leaf_values(&x, SHAPE(3, 3), 0, 1);
    float logits[9] = {1e4f, 0, -1e4f, 3e38f, 3e38f, -3e38f, -1e-8f, 0, 1e-8f};
    memcpy(z, logits, sizeof logits);
    Var *loss = op_cross_entropy(tape, x, labels, 0);
    /* Rows: 0, log 2, log 3 (to far below an ulp). */
    assert_true(fabs((double)*var_f32(loss) - (log(2) + log(3)) / 3) < 1e-7);
    tape_backward(tape, loss, 1);
    float expected[9] = {0, 0, 0, 1 / 6.f, -1 / 6.f, 0, 1 / 9.f, 1 / 9.f, -2 / 9.f};
    for (int i = 0; i < 9; i++) assert_true(fabsf(var_grad_f32(x)[i] - expected[i]) < 1e-7f);
}

/* p = (0.75, 0.25) against q = (0.5, 0.5) in closed form, at two temperatures; a student that is
 * its teacher; and logits as large as they come. */
static void test_distill(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        float temperature = k ? 4 : 1;
        Var *x;
        float *z = leaf_values(&x, SHAPE(2, 2), 0, 1);
        float teacher[4] = {temperature * logf(3), 0, 1e4f, -3e38f};
        float student[4] = {5, 5, 1e4f, -3e38f};
        memcpy(z, student, sizeof student);
        Var *loss = op_distill(tape, x, teacher, temperature);
        double divergence = 0.75 * log(0.75 / 0.5) + 0.25 * log(0.25 / 0.5);
        double expected = (double)(temperature * temperature) * divergence / 2;
        assert_true(fabs((double)*var_f32(loss) - expected) < 1e-6 * expected);
        tape_backward(tape, loss, 1);
        float gradient[4] = {-0.25f * temperature / 2, 0.25f * temperature / 2, 0, 0};
        for (int i = 0; i < 4; i++) assert_true(fabsf(var_grad_f32(x)[i] - gradient[i]) < 1e-6f);
    }
}

static void test_reshape_shares(void **state) {
    (void)state;
    Var *x = tape_sample_leaf(tape, SHAPE(2, 3, 4), -1, 1);
    Var *flat = op_reshape(tape, x, SHAPE(-1));
    Var *image = op_reshape(tape, flat, SHAPE(2, -1, 2));
    assert_ptr_equal(image->value.data, x->value.data);
    assert_true(shape_equal(image->value.shape, SHAPE(2, 6, 2)));
    Var *sum = op_sum(tape, image, -1);
    tape_backward(tape, sum, 1);
    assert_ptr_not_equal(var_grad_f32(x), var_grad_f32(image));
}

static void test_large_sums(void **state) {
    (void)state;
    /* Ten million times 0.1f: a sum in f32 would be off in the second digit. */
    enum { COUNT = 10000000 };
    Var *x;
    float *values = leaf_values(&x, SHAPE(COUNT), 0, 1);
    for (int i = 0; i < COUNT; i++) values[i] = 0.1f;
    Var *sum = op_sum(tape, x, -1);
    Var *mean = op_mean(tape, x, -1);
    assert_true(fabs((double)*var_f32(sum) - COUNT * (double)0.1f) < 0.1);
    assert_true(*var_f32(mean) == 0.1f);
}

int main(void) {
    Error err = {0};
    if (!parallel_init(0, &err)) return 1;
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(test_every_row_has_samples),
        TEST(test_gradients),
        TEST(test_samples_on_threads),
        TEST(test_large_on_threads),
        TEST(test_nan_propagates),
        TEST(test_gradients_join),
        TEST(test_nonnegative_flags_hold),
        TEST(test_keeps_sign_on_positive_inputs),
        TEST(test_homogeneous_flags_hold),
        TEST(test_shape_errors),
        TEST(test_bad_settings),
        TEST(test_dropout),
        TEST(test_cross_entropy_is_stable),
        TEST(test_distill),
        TEST(test_reshape_shares),
        TEST(test_large_sums),
#undef TEST
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
