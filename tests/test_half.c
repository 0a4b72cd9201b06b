/* Half precision on a tape: what is kept in it, and that ops which know only f32 see copies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>

#include "autograd/half.h"
#include "autograd/ops.h"
#include "autograd/plan.h"
#include "tests/tape_fixture.h"

static int set_up(void **state) {
    (void)state;
    tape_fixture();
    return 0;
}

/* What a graph leaves for its test to look at. */
typedef struct Named {
    Var *x, *weight, *before, *squared;
} Named;

/* `before` is read by ops that know only f32, one of which reads it twice. */
static Var *record(void *context, Tape *t) {
    Named *n = context;
    n->x = tape_sample_leaf(t, SHAPE(8, 40), -1, 1);
    Var *w = tape_sample_leaf(t, SHAPE(24, 40), -1, 1);
    w->is_parameter = true;
    n->weight = op_cast(t, w);
    n->before = op_linear(t, n->x, n->weight, NULL);
    n->squared = op_mul(t, n->before, n->before);
    Var *other = op_transpose(t, n->before, 0, 1);
    Var *back = op_transpose(t, other, 0, 1);
    Var *both = op_mul(t, n->squared, back);
    Var *all = op_mul(t, both, n->before);
    return op_mean(t, all, -1);
}

static void test_gradients_join_in_copies(void **state) {
    (void)state;
    static const Dtype halves[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    static const double tolerance[] = {0, 0.01, 0.05};
    float exact[8 * 40];
    for (int h = 0; h < 3; h++) {
        Named n;
        mode.half = halves[h];
        Var *loss = tape_run(tape, mode, record, &n);
        assert_int_equal(tape->error.code, ERROR_NONE);
        assert_int_equal(n.before->value.dtype, halves[h]);
        tape_backward(tape, loss, 1);
        assert_int_equal(n.before->grad.dtype, halves[h]);
        assert_int_equal(n.squared->grad.dtype, halves[h]);
        double difference = 0, size = 0;
        for (int i = 0; i < 8 * 40; i++) {
            float got = var_grad_f32(n.x)[i];
            if (!h) exact[i] = got;
            difference += pow((double)got - (double)exact[i], 2);
            size += pow((double)exact[i], 2);
        }
        assert_true(size > 0 && sqrt(difference / size) <= tolerance[h]);
    }
}

static void test_what_is_copied_is_put_back(void **state) {
    (void)state;
    Named n;
    mode.half = DTYPE_F16;
    Var *loss = tape_run(tape, mode, record, &n);
    const void *value = n.before->value.data;
    assert_true(value >= (void *)tape->planned &&
                value < (void *)(tape->planned + tape->plan->bytes));
    tape_backward(tape, loss, 1);
    assert_ptr_equal(n.before->value.data, value);
    assert_int_equal(n.before->value.dtype, DTYPE_F16);
    assert_int_equal(n.squared->value.dtype, DTYPE_F16);
    assert_null(tape->staged);
}

static void test_weights_that_products_read(void **state) {
    (void)state;
    for (int f32_grads = 0; f32_grads < 2; f32_grads++) {
        Named n;
        mode.half = DTYPE_BF16;
        mode.keeps_f32_grads = f32_grads;
        Var *loss = tape_run(tape, mode, record, &n);
        assert_int_equal(n.weight->value.dtype, DTYPE_BF16);
        assert_int_equal(n.weight->in[0]->value.dtype, DTYPE_F32);
        tape_backward(tape, loss, 1);
        assert_int_equal(n.weight->grad.dtype, f32_grads ? DTYPE_F32 : DTYPE_BF16);
    }
}

/* Of a record, not of the tape: the next one says for itself. */
static void test_the_next_record_is_f32(void **state) {
    (void)state;
    Named n;
    mode.half = DTYPE_F16;
    tape_run(tape, mode, record, &n);
    tape_run(tape, TAPE_EVALUATION, record, &n);
    assert_int_equal(n.before->value.dtype, DTYPE_F32);
    assert_false(n.before->needs_grad);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_gradients_join_in_copies, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_is_copied_is_put_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_weights_that_products_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_the_next_record_is_f32, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
