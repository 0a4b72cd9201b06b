/* Probes against counting by hand, and that everybody who writes what a layer is made of answers
 * them as a pass over the values would. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "autograd/ops.h"
#include "core/parallel.h"
#include "core/probe.h"
#include "tests/tape_fixture.h"

enum { COUNT = 10007, THREADS_MAX = 4 };

static float x[COUNT];
static uint32_t counts[PROBE_BINS], expected[PROBE_BINS];

static int set_up(void **state) {
    (void)state;
    tape_fixture();
    return 0;
}

static void count_by_hand(float limit) {
    memset(expected, 0, sizeof expected);
    for (int i = 0; i < COUNT; i++) {
        float place = x[i] * (PROBE_BINS / 2 / limit) + PROBE_BINS / 2;
        expected[(int)fmaxf(0, fminf(place, PROBE_BINS - 1))]++;
    }
}

static void test_answers(void **state) {
    (void)state;
    Error err = {0};
    random_fill_normal((RandomKey){.stream = RANDOM_TEST}, 1, COUNT, x);
    for (int i = 0; i < COUNT; i += 3) x[i] = 0;
    float low = 0, high = 0;
    for (int i = 0; i < COUNT; i++) low = fminf(low, x[i]), high = fmaxf(high, x[i]);
    count_by_hand(2);
    for (int threads = 1; threads <= THREADS_MAX; threads++) {
        assert_true(parallel_init(threads, &err));
        Probe probe = {.counts = counts, .limit = 2};
        probe_over(&probe, x, COUNT, arena);
        assert_true(probe.low == low && probe.high == high);
        assert_memory_equal(counts, expected, sizeof counts);
    }
    Probe extremes = {.limit = 2}, later = {.counts = counts};
    probe_over(&extremes, x, COUNT, arena);
    probe_over(&later, x, COUNT, arena); /* the limit is not known yet */
    assert_true(extremes.low == low && extremes.high == high);
    assert_true(later.low == low && later.high == high);
    assert_memory_equal(counts, expected, sizeof counts);
}

/* ---- Writers ---- */

typedef Var *Writer(Tape *t, Var *x, Var *w);

static Var *convolution(Tape *t, Var *in, Var *w) {
    return op_conv2d(t, in, w, NULL, (Conv2dAttr){1, 1, 1, 1, 1, 1, 1});
}
static Var *normed(Tape *t, Var *in, Var *w) {
    Var *y = convolution(t, in, w);
    return op_relu(t, y);
}
static Var *pooled(Tape *t, Var *in, Var *w) {
    Var *y = normed(t, in, w);
    return op_max_pool2d(t, y, (Pool2dAttr){2, 2, 0});
}
static Var *averaged(Tape *t, Var *in, Var *w) {
    Var *y = convolution(t, in, w);
    return op_avg_pool2d(t, y, (Pool2dAttr){2, 2, 0});
}
static Var *averaged_all(Tape *t, Var *in, Var *w) {
    Var *y = convolution(t, in, w);
    return op_global_avg_pool(t, y);
}
static Var *linear(Tape *t, Var *in, Var *w) {
    return op_linear(t, in, w, NULL);
}
static Var *fed(Tape *t, Var *in, Var *w) {
    Var *y = op_linear(t, in, w, NULL);
    return op_tanh(t, y);
}
static Var *renamed(Tape *t, Var *in, Var *w) {
    Var *y = op_linear(t, in, w, NULL);
    return op_reshape(t, y, SHAPE(var_count(y)));
}

static const struct {
    Writer *write;
    Shape x, w;
} writers[] = {
    {convolution, {4, {20, 8, 8, 3}}, {4, {10, 3, 3, 3}}},
    {convolution, {4, {2, 9, 7, 4}}, {4, {4, 3, 3, 4}}}, /* too few images for one each */
    {normed, {4, {20, 8, 8, 3}}, {4, {10, 3, 3, 3}}},
    {pooled, {4, {20, 8, 8, 3}}, {4, {10, 3, 3, 3}}},
    {pooled, {4, {20, 8, 8, 3}}, {4, {16, 3, 3, 3}}}, /* its windows fill blocks */
    {averaged, {4, {20, 8, 8, 3}}, {4, {10, 3, 3, 3}}},
    {averaged_all, {4, {20, 8, 8, 3}}, {4, {10, 3, 3, 3}}},
    {linear, {2, {70, 40}}, {2, {75, 40}}},
    {linear, {2, {35, 40}}, {2, {5, 40}}},
    {linear, {3, {2, 3, 40}}, {2, {33, 40}}},
    {linear, {2, {1, 40}}, {2, {100, 40}}},
    {fed, {2, {70, 40}}, {2, {75, 40}}},
    {renamed, {2, {70, 40}}, {2, {75, 40}}},
};

typedef struct Recorded {
    int which;
    Probe probe, other;
    bool is_answered;
} Recorded;

static Var *record(void *context, Tape *t) {
    Recorded *r = context;
    Var *in = tape_sample_leaf(t, writers[r->which].x, -1, 1);
    Var *w = tape_sample_leaf(t, writers[r->which].w, -1, 1);
    w->is_parameter = true;
    Var *y = writers[r->which].write(t, in, w);
    if (tape_probe(t, y, &r->probe)) {
        r->is_answered = y->is_seen && y->probe == &r->probe;
        static uint32_t passed[PROBE_BINS];
        Probe pass = {.counts = passed, .limit = r->probe.limit};
        probe_over(&pass, var_f32(y), var_count(y), t->arena);
        if (r->is_answered) {
            assert_true(r->probe.low == pass.low && r->probe.high == pass.high);
            assert_memory_equal(r->probe.counts, passed, sizeof passed);
        }
    }
    bool is_there = tape_probe(t, y, &r->other);
    if (is_there && t->plan) assert_true(y->probe == &r->probe); /* who asks first is told */
    return op_sum(t, y, -1);
}

static void test_writers_answer(void **state) {
    (void)state;
    static const Dtype halves[] = {DTYPE_F32, DTYPE_F16};
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < (int)(sizeof writers / sizeof *writers); i++) {
            Recorded r = {.which = i, .probe = {.counts = counts, .limit = 0.5f}};
            mode.half = halves[h];
            tape_begin(tape, mode);
            record(&r, tape); /* without a plan nobody knew */
            assert_false(r.is_answered);
            tape_run(tape, mode, record, &r);
            assert_int_equal(tape->error.code, ERROR_NONE);
            if (!r.is_answered) fail_msg("writer %d did not answer", i);
        }
}

/* Plans are kept from record to record, with what was asked. */
static void test_another_probe_is_another_plan(void **state) {
    (void)state;
    static uint32_t own[2][PROBE_BINS];
    Recorded r[2] = {{.probe = {.counts = own[0], .limit = 1}},
                     {.probe = {.counts = own[1], .limit = 2}}};
    for (int i = 0; i < 4; i++) {
        r[i % 2].is_answered = false;
        tape_run(tape, TAPE_TRAINING, record, &r[i % 2]);
        assert_true(r[i % 2].is_answered);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_answers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_writers_answer, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_another_probe_is_another_plan, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("probe", tests, NULL, NULL);
}
