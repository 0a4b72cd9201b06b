/* Counts of a record against loops that count multiply-adds one by one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "autograd/flops.h"
#include "autograd/ops.h"

static Var *constant(Tape *t, Shape shape) {
    return tape_constant(t, tensor_zeros(t->arena, DTYPE_F32, shape));
}

/* Two per multiply-add of every output, one at a time. */
static double count_products(Shape y, int64_t inner) {
    double count = 0;
    for (int64_t i = 0; i < shape_count(y); i++)
        for (int64_t j = 0; j < inner; j++) count += 2;
    return count;
}

static void check(const Flops *flops, const Var *v, double forward, double input, double weight) {
    assert_true(flops[v->index].forward == forward);
    assert_true(flops[v->index].input_grad == input);
    assert_true(flops[v->index].weight_grad == weight);
}

static void test_convolutions_then_linear(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    Tape *t = tape_new(arena);
    for (int dry = 0; dry < 2; dry++) {
        tape_begin(t, (TapeMode){.needs_grad = true, .is_dry = dry});
        Var *x = constant(t, SHAPE(2, 6, 5, 3));
        Var *w1 = tape_sample_leaf(t, SHAPE(4, 3, 3, 3), -1, 1);
        Var *w2 = constant(t, SHAPE(4, 3, 3, 1)); /* depthwise, and does not learn */
        Var *w3 = tape_sample_leaf(t, SHAPE(7, 4), -1, 1);
        Conv2dAttr same = {1, 1, 1, 1, 1, 1, 1}, halving = {2, 1, 4, 1, 1, 1, 1};
        Var *first = op_conv2d(t, x, w1, NULL, same);
        Var *active = op_relu(t, first);
        Var *second = op_conv2d(t, active, w2, NULL, halving);
        Var *pooled = op_global_avg_pool(t, second);
        Var *third = op_linear(t, pooled, w3, NULL);
        assert_int_equal(t->error.code, ERROR_NONE);
        const Flops *flops = flops_by_var(t, arena);
        double of_first = count_products(SHAPE(2, 6, 5, 4), 3 * 3 * 3);
        double of_second = count_products(SHAPE(2, 3, 3, 4), 3 * 3);
        double of_third = count_products(SHAPE(2, 7), 4);
        check(flops, first, of_first, 0, of_first);
        check(flops, active, 0, 0, 0);
        check(flops, second, of_second, of_second, 0);
        check(flops, third, of_third, of_third, of_third);
        assert_true(flops_of_step(t) == 2 * of_first + 2 * of_second + 3 * of_third);
    }
    tape_free(t);
    arena_free(arena);
}

/* A quantizer's learned step on the input needs a gradient, but no product lies before. */
static void test_learned_input(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    Tape *t = tape_new(arena);
    tape_begin(t, TAPE_TRAINING);
    Var *x = tape_sample_leaf(t, SHAPE(4, 6), -1, 1), *w = tape_sample_leaf(t, SHAPE(5, 6), -1, 1);
    Var *scaled = op_relu(t, x);
    Var *y = op_linear(t, scaled, w, NULL);
    double each = count_products(SHAPE(4, 5), 6);
    check(flops_by_var(t, arena), y, each, 0, each);
    tape_free(t);
    arena_free(arena);
}

static void test_evaluation_has_no_gradients(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    Tape *t = tape_new(arena);
    tape_begin(t, TAPE_EVALUATION);
    Var *x = constant(t, SHAPE(4, 6)), *w = tape_sample_leaf(t, SHAPE(6, 6), -1, 1);
    Var *first = op_linear(t, x, w, NULL);
    op_linear(t, first, w, NULL);
    assert_true(flops_of_step(t) == 2 * count_products(SHAPE(4, 6), 6));
    tape_free(t);
    arena_free(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_convolutions_then_linear),
        cmocka_unit_test(test_learned_input),
        cmocka_unit_test(test_evaluation_has_no_gradients),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
