/* Products that feed maps: which do, and that backward sees all that it would have seen without. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "autograd/ops.h"
#include "autograd/plan.h"
#include "core/parallel.h"
#include "tests/tape_fixture.h"

static int set_up(void **state) {
    (void)state;
    Error err = {0};
    tape_fixture();
    return parallel_init(2, &err) ? 0 : -1;
}

/* Graphs in which a linear layer seems to be the only reader of a group, but is not. */
typedef Var *Graph(Tape *t, Var *x, Var *other);

static Var *weight_is_of_the_group(Tape *t, Var *x, Var *other) {
    (void)other;
    Var *first = op_tanh(t, x), *second = op_gelu(t, first);
    return op_linear(t, second, first, NULL);
}

static Var *weight_is_made_of_the_group(Tape *t, Var *x, Var *other) {
    Var *first = op_tanh(t, x), *second = op_gelu(t, first);
    Var *weight = op_mul(t, other, first);
    return op_linear(t, second, weight, NULL);
}

static Var *input_is_read_twice(Tape *t, Var *x, Var *other) {
    Var *first = op_tanh(t, x), *y = op_linear(t, first, other, NULL);
    Var *again = op_linear(t, first, other, NULL);
    return op_add(t, y, again);
}

static Var *weight_is_the_input(Tape *t, Var *x, Var *other) {
    (void)other;
    Var *first = op_tanh(t, x);
    return op_linear(t, first, first, NULL);
}

typedef struct Recorded {
    Graph *graph;
    Var *x;
} Recorded;

static Var *record_graph(void *context, Tape *t) {
    Recorded *r = context;
    r->x = tape_sample_leaf(t, SHAPE(64, 64), -1, 1);
    Var *other = tape_sample_leaf(t, SHAPE(64, 64), -1, 1);
    other->is_parameter = true;
    Var *y = r->graph(t, r->x, other);
    return op_sum(t, y, -1);
}

static void test_other_readers_are_seen(void **state) {
    (void)state;
    Graph *const graphs[] = {weight_is_of_the_group, weight_is_made_of_the_group,
                             input_is_read_twice, weight_is_the_input};
    for (size_t i = 0; i < sizeof graphs / sizeof *graphs; i++) {
        float *grads[2];
        for (int planned = 0; planned < 2; planned++) {
            Recorded r = {.graph = graphs[i]};
            if (!planned) tape_begin(tape, TAPE_TRAINING);
            Var *loss =
                planned ? tape_run(tape, TAPE_TRAINING, record_graph, &r) : record_graph(&r, tape);
            tape_backward(tape, loss, 1);
            grads[planned] = arena_new_array(arena, float, var_count(r.x));
            memcpy(grads[planned], var_grad_f32(r.x), sizeof(float) * (size_t)var_count(r.x));
        }
        assert_memory_equal(grads[0], grads[1], sizeof(float) * 64 * 64);
    }
}

/* ---- Plans of single graphs ---- */

static bool feeds_back(const Plan *plan, const Var *v) {
    const PlanGroup *group = plan_group_of(plan, v->index, false);
    return group && group->feed == v->index;
}

static Var *parameter(Tape *t, Shape shape) {
    Var *w = tape_sample_leaf(t, shape, -1, 1);
    w->is_parameter = true;
    return w;
}

/* What a graph leaves for its test to look at. */
typedef struct Named {
    Var *first, *second, *product, *given;
} Named;

/* The gradient of `first` comes through the product and from elsewhere, where it overflows. */
static Var *record_overflow(void *context, Tape *t) {
    Named *n = context;
    Var *x = tape_sample_leaf(t, SHAPE(64, 64), -1, 1), *w = parameter(t, SHAPE(64, 64));
    Var *before = op_linear(t, x, w, NULL);
    n->first = op_tanh(t, before);
    n->second = op_gelu(t, n->first);
    n->product = op_linear(t, n->second, w, NULL);
    Var *large = op_scale(t, n->first, 1e30f);
    Var *larger = op_scale(t, large, 1e30f);
    Var *a = op_sum(t, n->product, -1), *b = op_sum(t, larger, -1);
    return op_add(t, a, b);
}

static void test_overflow_within_a_fed_group_is_found(void **state) {
    (void)state;
    Named n;
    mode.is_watching = true;
    Var *loss = tape_run(tape, mode, record_overflow, &n);
    assert_true(feeds_back(tape->plan, n.product));
    tape_backward(tape, loss, 1);
    assert_ptr_equal(tape->overflowed, n.first);
}

/* A scale that is computed, of what a product reads and of its weight: its gradient begins when the
 * product is met, before the weight's. */
static Var *record_shared_scale(void *context, Tape *t) {
    Named *n = context;
    Var *x = tape_sample_leaf(t, SHAPE(64, 64), -1, 1), *w = parameter(t, SHAPE(64, 64));
    Var *given = n->given = tape_sample_leaf(t, SHAPE(1), 0.1f, 0.2f);
    given->is_parameter = true;
    FakeQuantAttr attr = {.grid = grid_signed(4),
                          .row_length = 64 * 64,
                          .run_length = 64 * 64,
                          .scale_dtype = DTYPE_F32,
                          .range_gradient = RANGE_LSQ,
                          .grad_scale = 1};
    n->first = op_scale(t, given, 0.5f);
    Var *bent = op_tanh(t, x);
    n->second = op_fake_quant(t, bent, n->first, NULL, attr);
    Var *weight = op_fake_quant(t, w, n->first, NULL, attr);
    n->product = op_linear(t, n->second, weight, NULL);
    return op_sum(t, n->product, -1);
}

static void test_a_shared_gradient_begins_with_the_feed(void **state) {
    (void)state;
    Named n;
    Var *loss = tape_run(tape, TAPE_TRAINING, record_shared_scale, &n);
    const Plan *plan = tape->plan;
    assert_true(feeds_back(plan, n.product));
    int met = 2 * plan->count - 1 - n.product->index;
    assert_int_equal(plan->slots[n.first->index].grad.begin, met);
    tape_backward(tape, loss, 1);
    float planned = *var_grad_f32(n.given);
    tape_begin(tape, TAPE_TRAINING);
    loss = record_shared_scale(&n, tape);
    tape_backward(tape, loss, 1);
    float apart = *var_grad_f32(n.given); /* its sums are cut otherwise */
    assert_true(planned != 0 && fabsf(planned - apart) <= 1e-5f * fabsf(apart));
}

/* Sums by channel would be needed of every block. */
static Var *record_normed(void *context, Tape *t) {
    Named *n = context;
    static float mean[64], variance[64];
    BatchNormAttr attr = {.epsilon = 1e-5f,
                          .momentum = 0.1f,
                          .uses_batch = true,
                          .running_mean = mean,
                          .running_variance = variance};
    Var *x = tape_sample_leaf(t, SHAPE(64, 64), -1, 1), *w = parameter(t, SHAPE(64, 64));
    Var *gamma = tape_sample_leaf(t, SHAPE(64), 1, 2), *beta = tape_sample_leaf(t, SHAPE(64), 1, 2);
    Var *normed = n->first ? op_batch_norm(t, x, gamma, beta, attr) : x;
    Var *bent = op_tanh(t, normed);
    n->product = op_linear(t, bent, w, NULL);
    return op_sum(t, n->product, -1);
}

static void test_sums_by_channel_are_not_fed(void **state) {
    (void)state;
    for (int has_norm = 0; has_norm < 2; has_norm++) {
        Var dummy;
        Named n = {.first = has_norm ? &dummy : NULL};
        tape_run(tape, TAPE_TRAINING, record_normed, &n);
        assert_int_equal(tape->error.code, ERROR_NONE);
        assert_int_equal(feeds_back(tape->plan, n.product), !has_norm);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_other_readers_are_seen, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_overflow_within_a_fed_group_is_found, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_a_shared_gradient_begins_with_the_feed, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_sums_by_channel_are_not_fed, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("feed", tests, NULL, NULL);
}
