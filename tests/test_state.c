/* Optimizer state in 8 bits: nearest entries, whatever part is written, and AdamW as published and
 * as bitsandbytes has it (golden/make_state.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>

#include "core/random.h"
#include "core/settings/yaml.h"
#include "optim/optimizer.h"
#include "optim/state.h"
#include "tests/golden.h"

enum { COUNT = 4500, BLOCK = 256 };

static Arena *arena;

static int set_up(void **state) {
    (void)state;
    arena = arena_new("test");
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    arena_free(arena);
    return 0;
}

/* Blocks of different size, one of them zeros. */
static float *drawn(bool is_unsigned) {
    float *x = arena_new_array(arena, float, COUNT);
    random_fill_normal((RandomKey){.seed = 1, .stream = RANDOM_TEST}, 1, COUNT, x);
    for (int i = 0; i < COUNT; i++) {
        x[i] = ldexpf(is_unsigned ? x[i] * x[i] : x[i], -9 * (i / BLOCK % 4));
        if (i / BLOCK == 2) x[i] = 0;
    }
    return x;
}

static Tensor written(const StateMap *map, const float *x) {
    Tensor state = state_new(arena, SHAPE(COUNT), map);
    state_write(&state, map, 0, COUNT, x);
    return state;
}

static float largest_near(const float *x, int i) {
    float largest = 0;
    int first = i / BLOCK * BLOCK;
    for (int k = first; k < first + BLOCK && k < COUNT; k++) largest = fmaxf(largest, fabsf(x[k]));
    return largest;
}

/* Of all entries none is nearer, in double. */
static void an_element_becomes_its_nearest_entry(void **state) {
    (void)state;
    for (int is_unsigned = 0; is_unsigned < 2; is_unsigned++) {
        const StateMap *map = state_map_new(arena, is_unsigned);
        const float *x = drawn(is_unsigned), one = 1;
        Tensor t = written(map, x);
        float entries[256], read[COUNT];
        uint8_t codes[256];
        for (int i = 0; i < 256; i++) codes[i] = (uint8_t)i;
        dtype_decode(t.dtype, codes, &(Scales){256, 256, 1, .scale = &one}, 0, 256, entries);
        assert_ptr_equal(state_read(&t, 0, COUNT, read), read);
        for (int i = 0; i < COUNT; i++) {
            float scale = largest_near(x, i);
            double best = INFINITY;
            assert_true(t.scales->scale[i / BLOCK] == scale);
            for (int e = 0; e < 256; e++)
                best = fmin(best, fabs((double)x[i] - (double)scale * entries[e]));
            double error = fabs((double)x[i] - read[i]);
            if (!(error <= best + (is_unsigned ? 4e-7 : 2e-7) * scale))
                fail_msg("%d: %g became %g", i, x[i], read[i]);
            if (is_unsigned && x[i] > 0) assert_true(read[i] > 0);
        }
    }
}

/* The paper's nearest entry would be 0 below 1.6e-7 of the scale, and what is divided by its root
 * would explode. */
static void what_is_above_zero_stays_so(void **state) {
    (void)state;
    for (int is_unsigned = 0; is_unsigned < 2; is_unsigned++) {
        const StateMap *map = state_map_new(arena, is_unsigned);
        float x[4] = {1, 1e-9f, 0, 1e-37f}, read[4];
        Tensor t = state_new(arena, SHAPE(4), map);
        state_write(&t, map, 0, 4, x);
        state_read(&t, 0, 4, read);
        assert_true(read[0] == 1 && read[2] == 0);
        assert_true((read[1] > 0) == is_unsigned && (read[3] > 0) == is_unsigned);
    }
}

/* Scales below the smallest normal number have no reciprocal. */
static void the_smallest_numbers_are_kept(void **state) {
    (void)state;
    const StateMap *map = state_map_new(arena, false);
    float x[3] = {1e-40f, -1e-40f, 0}, read[3];
    Tensor t = state_new(arena, SHAPE(3), map);
    state_write(&t, map, 0, 3, x);
    state_read(&t, 0, 3, read);
    assert_true(read[0] == 1e-40f && read[1] < -0.99e-40f && read[2] == 0);
}

static void parts_are_written_alike(void **state) {
    (void)state;
    for (int is_unsigned = 0; is_unsigned < 2; is_unsigned++) {
        const StateMap *map = state_map_new(arena, is_unsigned);
        const float *x = drawn(is_unsigned);
        Tensor whole = written(map, x), parts = state_new(arena, SHAPE(COUNT), map);
        float all[COUNT], some[COUNT];
        for (int64_t end = COUNT, first = 4096; first >= 0; end = first, first -= 1024)
            state_write(&parts, map, first, end - first, x + first);
        assert_memory_equal(parts.data, whole.data, COUNT);
        assert_memory_equal(parts.scales->scale, whole.scales->scale,
                            sizeof(float) * (size_t)whole.scales->count);
        state_read(&whole, 0, COUNT, all);
        state_read(&whole, 512, COUNT - 512, some);
        assert_memory_equal(all + 512, some, sizeof(float) * (COUNT - 512));
    }
}

static void a_new_state_is_zeros(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        Tensor t = state_new(arena, SHAPE(20, 225), i ? state_map_new(arena, i == 2) : NULL);
        float buffer[COUNT];
        const float *read = state_read(&t, 0, COUNT, buffer);
        for (int k = 0; k < COUNT; k++) assert_true(read[k] == 0);
        size_t expected = i ? COUNT + 4 * ((COUNT + BLOCK - 1) / BLOCK) : 4 * COUNT;
        assert_int_equal(tensor_bytes(&t), expected);
        if (i) assert_true(fabs(state_coded_bytes_each() * COUNT - (double)expected) < 4);
    }
}

/* ---- Which Params ---- */

typedef struct Holder {
    Variant optimizer;
} Holder;

static const Field holder_fields[] = {
    FIELD_VARIANT(Holder, optimizer, REQUIRED, &optimizer_kinds, "under test"),
    FIELD_END,
};

static Optimizer *optimizer_of(Model *model, const char *yaml) {
    Faults faults = {.arena = arena};
    Holder *holder = arena_new_array(arena, Holder, 1);
    Mark mark = {"test", 1, 1};
    Node *map = yaml_read_own(arena_format(arena, "{optimizer: %s}", yaml), mark, arena);
    fields_read(holder_fields, map, mark, holder, arena, &faults);
    assert_int_equal(faults.count, 0);
    Optimizer *optimizer = NULL;
    Error err = {0};
    assert_true(optimizer_new(&holder->optimizer, model, arena, &optimizer, &err));
    return optimizer;
}

static Model *model_empty(void) {
    Model *model = arena_new_array(arena, Model, 1);
    *model = (Model){.arena = arena, .seed = 7};
    return model;
}

typedef struct Found {
    const char *name; /* asked for */
    Tensor value;
} Found;

static bool find(void *context, const char *name, Tensor value) {
    Found *found = context;
    if (!strcmp(name, found->name)) found->value = value;
    return true;
}

static Tensor state_named(Optimizer *optimizer, const char *name) {
    Found found = {.name = name};
    assert_true(optimizer_visit(optimizer, find, &found));
    assert_non_null(found.value.data);
    return found.value;
}

/* Large ones, but not what quantizers learn, nor averages. */
static void large_params_have_codes(void **state) {
    (void)state;
    Model *model = model_empty();
    const Init init = {INIT_NORMAL, 1};
    model_param(model, "large", SHAPE(STATE_CODED_MIN / 2, 2), PARAM_WEIGHT, init);
    model_param(model, "small", SHAPE(STATE_CODED_MIN - 1), PARAM_WEIGHT, init);
    model_param(model, "scale", SHAPE(STATE_CODED_MIN), PARAM_SCALE, init);
    Param *positive = model_param(model, "positive", SHAPE(STATE_CODED_MIN), PARAM_WEIGHT, init);
    positive->is_positive = true;
    Optimizer *o = optimizer_of(model, "{kind: adamw, state_bits: 8, ema: 0.9}");
    assert_int_equal(state_named(o, "mean/large").dtype, DTYPE_DYNAMIC8);
    assert_int_equal(state_named(o, "mean_square/large").dtype, DTYPE_UDYNAMIC8);
    static const char *const plain[] = {"ema/large",     "mean/small",          "mean_square/small",
                                        "mean/scale",    "mean_square/scale",   "ema/small",
                                        "mean/positive", "mean_square/positive"};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        assert_int_equal(state_named(o, plain[i]).dtype, DTYPE_F32);
    o = optimizer_of(model, "{kind: sgd, state_bits: 8}");
    assert_int_equal(state_named(o, "momentum/large").dtype, DTYPE_DYNAMIC8);
    o = optimizer_of(model, "adamw");
    assert_int_equal(state_named(o, "mean/large").dtype, DTYPE_F32);
}

/* ---- Goldens ---- */

enum { STEPS = 20, SHOWN_EVERY = 11, SHOWN = (COUNT + SHOWN_EVERY - 1) / SHOWN_EVERY };

/* As make_state.py's. */
static void noise(int step, float *u) {
    for (int i = 0; i < COUNT; i++) {
        uint32_t x = (uint32_t)i + (uint32_t)step * 1000003u;
        x = (x ^ x >> 16) * 0x85EBCA6Bu;
        x = (x ^ x >> 13) * 0xC2B2AE35u;
        x ^= x >> 16;
        u[i] = i % 97 ? ldexpf((float)(x >> 8) / 16777216 - 0.5f, -(i / BLOCK % 5)) : 0;
    }
}

static void compare_codes(const GoldenCase *c, const char *name, Optimizer *optimizer) {
    Tensor state = state_named(optimizer, arena_format(arena, "%s/weight", name));
    const GoldenTensor *expected = golden_tensor(c, name);
    const uint8_t *codes = state.data;
    int differ = 0;
    for (int i = 0; i < SHOWN; i++) {
        int by = abs(codes[i * SHOWN_EVERY] - (int)expected->values[i]);
        assert_true(by <= 1); /* a last bit may lie on the other side of a middle */
        differ += by;
    }
    assert_true(differ <= 1);
    golden_compare(c, arena_format(arena, "%s_scales", name), state.scales->scale, 1e-5f);
}

/* bitsandbytes' table of places takes a neighbouring entry now and then, and does not know 0: what
 * has no gradient drifts there. */
static void compare_values(const GoldenCase *c, const float *value) {
    const GoldenTensor *expected = golden_tensor(c, "value");
    bool is_theirs = !strcmp(c->name, "bitsandbytes");
    int differ = 0;
    assert_int_equal(shape_count(expected->shape), SHOWN);
    for (int i = 0; i < SHOWN; i++) {
        float got = value[i * SHOWN_EVERY], by = fabsf(got - expected->values[i]);
        if (!(by <= 0.002f)) /* a fifth of a step */
            fail_msg("%s: value %d is %g, expected %g", c->name, i, got, expected->values[i]);
        differ += by > 2e-6f;
    }
    print_message("%s: %d values differ\n", c->name, differ);
    assert_true(differ <= (is_theirs ? SHOWN / 7 : 1));
}

static void adamw_is_as_published(void **state) {
    (void)state;
    Model *model = model_empty();
    Param *p = model_param(model, "weight", SHAPE(COUNT), PARAM_WEIGHT, (Init){INIT_NORMAL, 1});
    noise(0, tensor_f32(&p->value));
    Optimizer *optimizer = optimizer_of(
        model, "{kind: adamw, lr: 0.01, beta2: 0.99, weight_decay: 0.1, state_bits: 8}");
    Golden golden = golden_open("tests/golden/state.txt", arena);
    GoldenCase c;
    Error err = {0};
    for (int step = 0; golden_next(&golden, &c);) {
        bool is_theirs = !strcmp(c.name, "bitsandbytes");
        for (int end = is_theirs ? STEPS : (int)golden_number(&c, "step"); step < end;) {
            noise(++step, p->grad);
            p->has_grad = true;
            assert_true(optimizer_step(optimizer, 1, &err));
        }
        compare_values(&c, tensor_f32(&p->value));
        if (is_theirs) continue;
        compare_codes(&c, "mean", optimizer);
        compare_codes(&c, "mean_square", optimizer);
    }
    assert_int_equal(golden.cases, 4);
    golden_close(&golden);
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_element_becomes_its_nearest_entry, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_above_zero_stays_so, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_smallest_numbers_are_kept, set_up, tear_down),
        cmocka_unit_test_setup_teardown(parts_are_written_alike, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_new_state_is_zeros, set_up, tear_down),
        cmocka_unit_test_setup_teardown(large_params_have_codes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(adamw_is_as_published, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
