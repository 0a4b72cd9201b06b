#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/parallel.h"
#include "core/settings/yaml.h"
#include "optim/optimizer.h"

/* ---- Settings and models to test with ---- */

typedef struct Holder {
    Variant optimizer;
} Holder;

static const Field holder_fields[] = {
    FIELD_VARIANT(Holder, optimizer, REQUIRED, &optimizer_kinds, "under test"),
    FIELD_END,
};

static int read_settings(Arena *arena, const char *yaml, Variant *out) {
    Faults faults = {.arena = arena};
    Holder holder = {0};
    Mark mark = {"test", 1, 1};
    Node *map = yaml_read_own(arena_format(arena, "{optimizer: %s}", yaml), mark, arena);
    fields_read(holder_fields, map, mark, &holder, arena, &faults);
    *out = holder.optimizer;
    return faults.count;
}

static Variant settings_of(Arena *arena, const char *yaml) {
    Variant settings;
    assert_int_equal(read_settings(arena, yaml, &settings), 0);
    return settings;
}

static Optimizer *make(Arena *arena, Model *model, const char *yaml) {
    Variant *settings = arena_new_array(arena, Variant, 1);
    *settings = settings_of(arena, yaml);
    Optimizer *optimizer = NULL;
    Error err = {0};
    assert_true(optimizer_new(settings, model, arena, &optimizer, &err));
    return optimizer;
}

static Model *model_empty(Arena *arena) {
    Model *model = arena_new_array(arena, Model, 1);
    *model = (Model){.arena = arena, .seed = 7};
    return model;
}

static const Init unit_normal = {INIT_NORMAL, 1};

/* One Param of each role; the weight has `size` elements and spans several chunks when large. */
static Model *model_of_roles(Arena *arena, int64_t size) {
    Model *model = model_empty(arena);
    model_param(model, "conv1.weight", SHAPE(size), PARAM_WEIGHT, unit_normal);
    model_param(model, "conv1.bias", SHAPE(5), PARAM_BIAS, unit_normal);
    model_param(model, "norm1.gamma", SHAPE(3), PARAM_NORM, unit_normal);
    model_param(model, "conv1.weight.scale", SHAPE_SCALAR, PARAM_SCALE, unit_normal);
    model_param(model, "norm1.mean", SHAPE(3), PARAM_BUFFER, unit_normal);
    return model;
}

enum { WEIGHT, BIAS, NORM, SCALE, BUFFER };

static float *values(const Model *model, int param) {
    return tensor_f32(&model->params[param]->value);
}

/* Gradients that depend on the step and the element only. */
static void fill_grads(Model *model, int step) {
    for (int i = 0; i < model->param_count; i++) {
        Param *p = model->params[i];
        if (!p->grad) continue;
        RandomKey key = {.seed = 3, .stream = RANDOM_TEST, .step = (uint64_t)(100 * step + i)};
        random_fill_normal(key, 1, tensor_count(&p->value), p->grad);
        p->has_grad = true;
    }
}

static void take_steps(Optimizer *optimizer, Model *model, int first, int end) {
    Error err = {0};
    for (int step = first; step < end; step++) {
        fill_grads(model, step);
        assert_true(optimizer_step(optimizer, 1 - 0.01 * step, &err));
    }
}

/* ---- Everything that training changes, as one run of bytes ---- */

typedef struct Snapshot {
    char *bytes;
    size_t size, capacity;
    bool is_loading;
    char names[4096];
} Snapshot;

static bool copy_tensor(void *context, const char *name, Tensor value) {
    Snapshot *s = context;
    size_t bytes = dtype_bytes(value.dtype, tensor_count(&value));
    if (value.scales) copy_tensor(s, "", *value.scales->stored);
    assert_true(s->size + bytes <= s->capacity);
    if (s->is_loading) {
        memcpy(value.data, s->bytes + s->size, bytes);
    } else {
        memcpy(s->bytes + s->size, value.data, bytes);
        assert_true(strlen(s->names) + strlen(name) + 2 < sizeof s->names);
        if (*name) strcat(strcat(s->names, name), " ");
    }
    s->size += bytes;
    return true;
}

static void copy_all(Snapshot *s, Optimizer *optimizer, const Model *model) {
    s->size = 0;
    assert_true(optimizer_visit(optimizer, copy_tensor, s));
    for (int i = 0; i < model->param_count; i++)
        copy_tensor(s, model->params[i]->name, model->params[i]->value);
}

static Snapshot *snapshot(Arena *arena, Optimizer *optimizer, const Model *model) {
    Snapshot *s = arena_new_array(arena, Snapshot, 1);
    s->capacity = (size_t)4 << 20;
    s->bytes = arena_alloc(arena, s->capacity);
    copy_all(s, optimizer, model);
    return s;
}

static void assert_same(const Snapshot *a, const Snapshot *b) {
    assert_string_equal(a->names, b->names);
    assert_int_equal(a->size, b->size);
    assert_memory_equal(a->bytes, b->bytes, a->size);
}

/* ---- Goldens from torch (tests/golden/make_optim.py) ---- */

enum { GOLDEN_STEPS = 20, GOLDEN_PARAMS = 4, GOLDEN_SIZE = 12 };

typedef struct Golden {
    char name[GOLDEN_PARAMS][32];
    ParamRole role[GOLDEN_PARAMS];
    int size[GOLDEN_PARAMS], count;
    float start[GOLDEN_PARAMS][GOLDEN_SIZE];
    bool has_grad[GOLDEN_STEPS + 1][GOLDEN_PARAMS];
    float grad[GOLDEN_STEPS + 1][GOLDEN_PARAMS][GOLDEN_SIZE];
    float value[GOLDEN_STEPS + 1][GOLDEN_PARAMS][GOLDEN_SIZE]; /* ours, after each step */
    float average[GOLDEN_PARAMS][GOLDEN_SIZE];
    char settings[200];
    int compared;
    double worst;
} Golden;

static int golden_find(const Golden *g, const char *name) {
    int i = 0;
    while (i < g->count && strcmp(g->name[i], name)) i++;
    assert_true(i < g->count);
    return i;
}

static void read_numbers(const char *text, int count, float *out) {
    char *end;
    for (int i = 0; i < count; i++, text = end) {
        out[i] = strtof(text, &end);
        assert_ptr_not_equal(text, end);
    }
}

static void golden_param(Golden *g, const char *line) {
    static const char *const roles[] = {"weight", "bias", "norm", "scale"};
    char role[16];
    int i = g->count++, at = 0;
    assert_true(i < GOLDEN_PARAMS);
    assert_int_equal(sscanf(line, "param %31s %15s %d %n", g->name[i], role, &g->size[i], &at), 3);
    for (int r = 0; r < 4; r++)
        if (!strcmp(role, roles[r])) g->role[i] = (ParamRole)r;
    read_numbers(line + at, g->size[i], g->start[i]);
}

static Model *golden_model(const Golden *g, Arena *arena) {
    Model *model = model_empty(arena);
    for (int i = 0; i < g->count; i++) {
        Param *p = model_param(model, g->name[i], SHAPE(g->size[i]), g->role[i], unit_normal);
        memcpy(p->value.data, g->start[i], sizeof(float) * (size_t)g->size[i]);
    }
    return model;
}

static void golden_run(Golden *g) {
    Arena *arena = arena_new("golden");
    Model *model = golden_model(g, arena);
    Optimizer *optimizer = make(arena, model, g->settings);
    Error err = {0};
    for (int step = 1; step <= GOLDEN_STEPS; step++) {
        for (int i = 0; i < g->count; i++) {
            size_t bytes = sizeof(float) * (size_t)g->size[i];
            model->params[i]->has_grad = g->has_grad[step][i];
            memcpy(model->params[i]->grad, g->grad[step][i], bytes);
        }
        assert_true(optimizer_step(optimizer, 1, &err));
        for (int i = 0; i < g->count; i++)
            memcpy(g->value[step][i], values(model, i), sizeof(float) * (size_t)g->size[i]);
    }
    optimizer_swap_ema(optimizer);
    for (int i = 0; i < g->count; i++)
        memcpy(g->average[i], values(model, i), sizeof(float) * (size_t)g->size[i]);
    arena_free(arena);
}

/* Relative to the Param's largest element: that is the size at which roundings happened on the way.
 */
static void golden_compare(Golden *g, const char *line) {
    char name[32], what[16];
    int step, at = 0;
    assert_int_equal(sscanf(line, "%15s %d %31s %n", what, &step, name, &at), 3);
    int param = golden_find(g, name);
    float expected[GOLDEN_SIZE];
    read_numbers(line + at, g->size[param], expected);
    double largest = 0;
    for (int i = 0; i < g->size[param]; i++) largest = fmax(largest, fabs(expected[i]));
    const float *got = *what == 'a' ? g->average[param] : g->value[step][param];
    for (int i = 0; i < g->size[param]; i++) {
        double error = fabs((double)got[i] - expected[i]) / largest;
        if (!(error <= 1e-6))
            fail_msg("%s: %s[%d] after step %d is %.9g, torch has %.9g", g->settings, name, i, step,
                     got[i], expected[i]);
        g->worst = fmax(g->worst, error);
    }
    g->compared++;
}

static void test_agrees_with_torch(void **state) {
    (void)state;
    static Golden golden;
    char line[1000], name[32];
    int runs = 0;
    FILE *file = fopen("tests/golden/optim.txt", "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file)) {
        int step, at = 0;
        if (!strncmp(line, "param ", 6)) {
            golden_param(&golden, line);
        } else if (sscanf(line, "grad %d %31s %n", &step, name, &at) == 2) {
            int param = golden_find(&golden, name);
            golden.has_grad[step][param] = true;
            read_numbers(line + at, golden.size[param], golden.grad[step][param]);
        } else if (sscanf(line, "optimizer %199[^\n]", golden.settings) == 1) {
            golden_run(&golden);
            runs++;
        } else if (!strncmp(line, "value ", 6) || !strncmp(line, "average ", 8)) {
            golden_compare(&golden, line);
        }
    }
    fclose(file);
    assert_int_equal(runs, 9);
    assert_int_equal(golden.compared, 9 * 4 * 4 + 2 * 4);
    print_message("%d rows compared, largest relative difference %.2g\n", golden.compared,
                  golden.worst);
}

/* ---- Settings ---- */

static void test_settings(void **state) {
    (void)state;
    Arena *arena = arena_new("settings");
    Variant v;
    assert_int_equal(read_settings(arena, "{kind: sgd, lr: 0.1, beta1: 0.9}", &v), 1);
    assert_int_equal(read_settings(arena, "{kind: sgd, momentum: 1, lr: -1}", &v), 2);
    assert_int_equal(read_settings(arena, "{kind: lion}", &v), 1);
    Error err = {0};
    v = settings_of(arena, "{kind: sgd, momentum: 0, nesterov: true}");
    Optimizer *optimizer;
    assert_false(optimizer_new(&v, model_of_roles(arena, 4), arena, &optimizer, &err));
    assert_int_equal(err.code, ERROR_INPUT);
    assert_non_null(strstr(err.message, "optimizer.momentum"));
    for (int i = 0; i < optimizer_kinds.count; i++) {
        v = settings_of(arena, optimizer_kinds.kinds[i]->name);
        assert_true(optimizer_check(&v, &err));
    }
    arena_free(arena);
}

static void test_decay_exclusions(void **state) {
    (void)state;
    static const struct {
        const char *yaml;
        bool decays[4]; /* weight, bias, norm, scale */
    } cases[] = {
        {"{kind: sgd, lr: 1, weight_decay: 0.5}", {true, false, false, false}},
        {"{kind: sgd, lr: 1, weight_decay: 0.5, decay_norms: true}", {true, false, true, false}},
        {"{kind: adamw, lr: 1, weight_decay: 0.5, decay_biases: true}", {true, true, false, false}},
        {"{kind: adam, weight_decay: 0}", {false, false, false, false}},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        Arena *arena = arena_new("decay");
        Model *model = model_of_roles(arena, 20);
        Optimizer *optimizer = make(arena, model, cases[k].yaml);
        fill_grads(model, 0);
        for (int i = WEIGHT; i <= SCALE; i++) {
            values(model, i)[0] = 2;
            model->params[i]->grad[0] = 0;
        }
        Error err = {0};
        assert_true(optimizer_step(optimizer, 1, &err));
        for (int i = WEIGHT; i <= SCALE; i++)
            assert_float_equal(values(model, i)[0], cases[k].decays[i] ? 1 : 2, 0);
        arena_free(arena);
    }
}

static void test_scale_lr(void **state) {
    (void)state;
    Arena *arena = arena_new("scale lr");
    Model *model = model_of_roles(arena, 4);
    Optimizer *optimizer = make(arena, model, "{kind: sgd, lr: 1, momentum: 0, scale_lr: 0.25}");
    Error err = {0};
    for (int i = WEIGHT; i <= SCALE; i++) {
        values(model, i)[0] = 2;
        model->params[i]->grad[0] = 1;
        model->params[i]->has_grad = true;
    }
    assert_true(optimizer_step(optimizer, 0.5, &err));
    for (int i = WEIGHT; i <= SCALE; i++)
        assert_float_equal(values(model, i)[0], i == SCALE ? 2 - 0.125 : 1.5, 0);
    arena_free(arena);
}

/* ---- Steps ---- */

/* With lr 1 and nothing else a step takes the gradients, clipped, from the values. */
static void test_clipping(void **state) {
    (void)state;
    for (int limit = 1; limit < 1000; limit *= 30) { /* 900 is above the norm */
        for (int factor = 1; factor <= 4; factor *= 4) {
            Arena *arena = arena_new("clip");
            Model *model = model_of_roles(arena, 40000);
            const char *text = "{kind: sgd, lr: 1, momentum: 0, scale_lr: 1, clip_norm: %d}";
            Optimizer *optimizer = make(arena, model, arena_format(arena, text, limit));
            fill_grads(model, 0);
            double sum = 0, taken = 0;
            for (int i = WEIGHT; i <= SCALE; i++)
                for (int64_t k = 0; k < tensor_count(&model->params[i]->value); k++) {
                    sum += pow(factor * (double)model->params[i]->grad[k], 2);
                    values(model, i)[k] = 0;
                }
            Error err = {0};
            if (factor > 1) assert_true(optimizer_unscale(optimizer, factor));
            assert_true(optimizer_step(optimizer, 1, &err));
            assert_float_equal(optimizer_norm(optimizer) / sqrt(sum), 1, 1e-9);
            for (int i = WEIGHT; i <= SCALE; i++)
                for (int64_t k = 0; k < tensor_count(&model->params[i]->value); k++)
                    taken += pow(values(model, i)[k], 2);
            assert_float_equal(sqrt(taken) / fmin(limit, sqrt(sum)), 1, 1e-5);
            arena_free(arena);
        }
    }
}

/* What cannot be used is told before anything changes, and is forgotten. */
static void test_unscaling(void **state) {
    (void)state;
    Arena *arena = arena_new("unscale");
    Model *model = model_of_roles(arena, 40);
    Optimizer *optimizer = make(arena, model, "{kind: sgd, lr: 1, momentum: 0}");
    Error err = {0};
    fill_grads(model, 0);
    float before = values(model, WEIGHT)[1], grad = model->params[WEIGHT]->grad[1];
    model->params[WEIGHT]->grad[0] = INFINITY;
    assert_false(optimizer_unscale(optimizer, 0.5));
    assert_float_equal(values(model, WEIGHT)[1], before, 0);
    model->params[WEIGHT]->grad[0] = 0;
    assert_true(optimizer_unscale(optimizer, 0.25));
    assert_true(optimizer_step(optimizer, 1, &err));
    assert_float_equal(values(model, WEIGHT)[1], before - 0.25f * grad, 0);
    before = values(model, WEIGHT)[1];
    assert_true(optimizer_step(optimizer, 1, &err)); /* the factor was for one step */
    assert_float_equal(values(model, WEIGHT)[1], before - grad, 0);
    arena_free(arena);
}

static void test_params_without_gradient_stay(void **state) {
    (void)state;
    Arena *arena = arena_new("stay");
    Model *model = model_of_roles(arena, 30);
    Optimizer *optimizer = make(arena, model, "{kind: adamw, ema: 0.9}");
    model->params[BIAS]->is_frozen = true;
    Error err = {0};
    fill_grads(model, 0);
    model->params[NORM]->has_grad = false;
    model->params[NORM]->grad[0] = NAN; /* left over: not read */
    model->params[BIAS]->grad[0] = INFINITY;
    float before[BUFFER + 1], weight = values(model, WEIGHT)[0];
    for (int i = BIAS; i <= BUFFER; i++) before[i] = values(model, i)[0];
    assert_true(optimizer_step(optimizer, 1, &err));
    assert_true(values(model, WEIGHT)[0] != weight);
    assert_true(values(model, SCALE)[0] != before[SCALE]);
    before[SCALE] = values(model, SCALE)[0];
    optimizer_swap_ema(optimizer); /* the average of one value is that value */
    for (int i = BIAS; i <= BUFFER; i++) assert_float_equal(values(model, i)[0], before[i], 0);
    arena_free(arena);
}

static void test_step_without_gradients(void **state) {
    (void)state;
    Arena *arena = arena_new("none");
    Model *model = model_of_roles(arena, 30);
    Optimizer *optimizer = make(arena, model, "{kind: adam, ema: 0.9, clip_norm: 1}");
    Snapshot *before = snapshot(arena, optimizer, model);
    Error err = {0};
    assert_true(optimizer_step(optimizer, 1, &err));
    assert_float_equal(optimizer_norm(optimizer), 0, 0);
    assert_same(before, snapshot(arena, optimizer, model));
    arena_free(arena);
}

static void test_refuses_gradients_that_are_not_finite(void **state) {
    (void)state;
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int k = 0; k < 3; k++) {
        Arena *arena = arena_new("not finite");
        Model *model = model_of_roles(arena, 40000);
        Optimizer *optimizer = make(arena, model, "{kind: adam, ema: 0.9, clip_norm: 1}");
        take_steps(optimizer, model, 0, 2);
        Snapshot *before = snapshot(arena, optimizer, model);
        fill_grads(model, 2);
        model->params[BIAS]->grad[4] = bad[k];
        model->params[SCALE]->grad[0] = NAN;
        Error err = {0};
        assert_false(optimizer_step(optimizer, 1, &err));
        assert_int_equal(err.code, ERROR_NUMERIC);
        assert_non_null(strstr(err.message, "'conv1.bias'"));
        assert_same(before, snapshot(arena, optimizer, model));
        model->params[WEIGHT]->grad[39999] = bad[k];
        err = (Error){0};
        assert_false(optimizer_step(optimizer, 1, &err));
        assert_non_null(strstr(err.message, "'conv1.weight'"));
        arena_free(arena);
    }
}

static void test_reports_updates_that_overflow(void **state) {
    (void)state;
    static const struct {
        const char *yaml, *what;
        float grad;
    } cases[] = {
        {"{kind: sgd, lr: 1000, momentum: 0}", "value", 1e37f},
        {"{kind: sgd, lr: 1e-9}", "momentum", 3e38f}, /* the second step overflows it */
        {"{kind: adam}", "mean_square", 1e25f},       /* would stop the Param without a word */
        {"{kind: adamw}", "mean_square", 1e25f},
        {"{kind: adamw, state_bits: 8}", "mean_square", 1e25f},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        Arena *arena = arena_new("overflow");
        Model *model = model_of_roles(arena, 20000);
        Optimizer *optimizer = make(arena, model, cases[k].yaml);
        Error err = {0};
        bool ok = true;
        for (int step = 0; ok && step < 2; step++) {
            fill_grads(model, step);
            model->params[WEIGHT]->grad[19999] = cases[k].grad;
            ok = optimizer_step(optimizer, 1, &err);
        }
        assert_false(ok);
        assert_int_equal(err.code, ERROR_NUMERIC);
        assert_non_null(strstr(err.message, "'conv1.weight'"));
        assert_non_null(strstr(err.message, cases[k].what));
        arena_free(arena);
    }
}

/* Learned scales are held above 0; that an update left the numbers shows all the same. */
static void test_reports_scales_that_overflow(void **state) {
    (void)state;
    for (int sign = -1; sign <= 1; sign += 2) {
        Arena *arena = arena_new("overflow");
        Model *model = model_of_roles(arena, 20000);
        Optimizer *optimizer = make(arena, model, "{kind: sgd, lr: 1000, momentum: 0}");
        Error err = {0};
        fill_grads(model, 0);
        model->params[SCALE]->grad[0] = (float)sign * 1e37f;
        assert_false(optimizer_step(optimizer, 1, &err));
        assert_int_equal(err.code, ERROR_NUMERIC);
        assert_non_null(strstr(err.message, model->params[SCALE]->name));
        arena_free(arena);
    }
}

/* ---- Averages ---- */

static void test_averages(void **state) {
    (void)state;
    Arena *arena = arena_new("averages");
    Model *model = model_of_roles(arena, 20000);
    Optimizer *optimizer = make(arena, model, "{kind: sgd, lr: 0.1, ema: 0.75}");
    assert_true(optimizer_has_ema(optimizer));
    double average[2] = {0};
    for (int step = 0; step < 6; step++) {
        take_steps(optimizer, model, step, step + 1);
        const double now[2] = {values(model, WEIGHT)[19999], values(model, SCALE)[0]};
        for (int i = 0; i < 2; i++) average[i] = step ? 0.75 * average[i] + 0.25 * now[i] : now[i];
    }
    Snapshot *before = snapshot(arena, optimizer, model);
    optimizer_swap_ema(optimizer);
    assert_float_equal(values(model, WEIGHT)[19999], average[0], 1e-6);
    assert_float_equal(values(model, SCALE)[0], average[1], 1e-6);
    optimizer_swap_ema(optimizer);
    assert_same(before, snapshot(arena, optimizer, model));
    arena_free(arena);
}

static void test_no_averages(void **state) {
    (void)state;
    Arena *arena = arena_new("no averages");
    Model *model = model_of_roles(arena, 10);
    Optimizer *optimizer = make(arena, model, "sgd");
    take_steps(optimizer, model, 0, 3);
    Snapshot *before = snapshot(arena, optimizer, model);
    assert_null(strstr(before->names, "ema/"));
    assert_false(optimizer_has_ema(optimizer));
    optimizer_swap_ema(optimizer);
    assert_same(before, snapshot(arena, optimizer, model));
    arena_free(arena);
}

/* ---- State, threads, memory: every row, with state in 32 and in 8 bits ---- */

static const char *row_settings(Arena *arena, int row) {
    return arena_format(arena,
                        "{kind: %s, weight_decay: 0.01, clip_norm: 50, ema: 0.9, state_bits: %s}",
                        optimizer_kinds.kinds[row / 2]->name, optimizer_state_bits[row % 2]);
}

static void test_state_round_trip(void **state) {
    (void)state;
    for (int row = 0; row < 2 * optimizer_kinds.count; row++) {
        Arena *arena = arena_new("round trip");
        const char *yaml = row_settings(arena, row);
        Model *model = model_of_roles(arena, 30000);
        Optimizer *whole = make(arena, model, yaml);
        take_steps(whole, model, 0, 4);
        Snapshot *saved = snapshot(arena, whole, model);
        take_steps(whole, model, 4, 8);

        Model *second = model_of_roles(arena, 30000);
        Optimizer *resumed = make(arena, second, yaml);
        saved->is_loading = true;
        copy_all(saved, resumed, second);
        take_steps(resumed, second, 4, 8);
        assert_same(snapshot(arena, whole, model), snapshot(arena, resumed, second));
        arena_free(arena);
    }
}

static void test_state_names(void **state) {
    (void)state;
    Arena *arena = arena_new("names");
    Model *model = model_empty(arena);
    model_param(model, "fc.weight", SHAPE(2, 3), PARAM_WEIGHT, unit_normal);
    model_param(model, "fc.seen", SHAPE(1), PARAM_BUFFER, unit_normal);
    Snapshot *s = snapshot(arena, make(arena, model, "{kind: adam, ema: 0.9}"), model);
    assert_string_equal(
        s->names, "steps mean/fc.weight mean_square/fc.weight ema/fc.weight fc.weight fc.seen ");
    s = snapshot(arena, make(arena, model, "{kind: sgd, momentum: 0}"), model);
    assert_string_equal(s->names, "steps fc.weight fc.seen ");
    arena_free(arena);
}

static bool set_steps(void *context, const char *name, Tensor value) {
    if (strcmp(name, "steps")) return true;
    for (int64_t i = 0; i < tensor_count(&value); i++) tensor_f32(&value)[i] = *(float *)context;
    return true;
}

/* Counts stop where f32 stops counting; the update is the same by then. */
static void test_counts_saturate(void **state) {
    (void)state;
    float counts[] = {10000000, 16777215, 16777216};
    Snapshot *snapshots[3];
    Arena *arena = arena_new("saturate");
    for (int i = 0; i < 3; i++) {
        Model *model = model_of_roles(arena, 50);
        Optimizer *optimizer = make(arena, model, "{kind: adam, beta1: 0.9999, beta2: 0.99999}");
        optimizer_visit(optimizer, set_steps, &counts[i]);
        take_steps(optimizer, model, 0, 3);
        optimizer_visit(optimizer, set_steps, &counts[0]); /* all but the counts is compared */
        snapshots[i] = snapshot(arena, optimizer, model);
    }
    assert_same(snapshots[0], snapshots[1]);
    assert_same(snapshots[0], snapshots[2]);
    arena_free(arena);
}

static bool stop_at_second(void *context, const char *name, Tensor value) {
    (void)name, (void)value;
    return ++*(int *)context < 2;
}

static void test_visit_stops(void **state) {
    (void)state;
    Arena *arena = arena_new("visit");
    int visited = 0;
    assert_false(
        optimizer_visit(make(arena, model_of_roles(arena, 3), "adam"), stop_at_second, &visited));
    assert_int_equal(visited, 2);
    arena_free(arena);
}

static void test_threads_do_not_change_bits(void **state) {
    (void)state;
    Error err = {0};
    int threads_before = parallel_threads();
    for (int row = 0; row < 2 * optimizer_kinds.count; row++) {
        Arena *arena = arena_new("threads");
        Snapshot *one = NULL;
        for (int threads = 1; threads <= 4; threads++) {
            assert_true(parallel_init(threads, &err));
            Model *model = model_of_roles(arena, 100003);
            Optimizer *optimizer = make(arena, model, row_settings(arena, row));
            take_steps(optimizer, model, 0, 5);
            Snapshot *now = snapshot(arena, optimizer, model);
            if (one) assert_same(one, now);
            if (!one) one = now;
        }
        arena_free(arena);
    }
    assert_true(parallel_init(threads_before, &err));
}

static void test_steps_take_no_memory(void **state) {
    (void)state;
    for (int row = 0; row < 2 * optimizer_kinds.count; row++) {
        Arena *arena = arena_new("memory");
        Model *model = model_of_roles(arena, 30000);
        Optimizer *optimizer = make(arena, model, row_settings(arena, row));
        size_t used = arena_used(arena);
        take_steps(optimizer, model, 0, 3);
        optimizer_swap_ema(optimizer);
        assert_int_equal(arena_used(arena), used);
        arena_free(arena);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_agrees_with_torch),
        cmocka_unit_test(test_settings),
        cmocka_unit_test(test_decay_exclusions),
        cmocka_unit_test(test_scale_lr),
        cmocka_unit_test(test_clipping),
        cmocka_unit_test(test_unscaling),
        cmocka_unit_test(test_params_without_gradient_stay),
        cmocka_unit_test(test_step_without_gradients),
        cmocka_unit_test(test_refuses_gradients_that_are_not_finite),
        cmocka_unit_test(test_reports_updates_that_overflow),
        cmocka_unit_test(test_reports_scales_that_overflow),
        cmocka_unit_test(test_averages),
        cmocka_unit_test(test_no_averages),
        cmocka_unit_test(test_state_round_trip),
        cmocka_unit_test(test_state_names),
        cmocka_unit_test(test_counts_saturate),
        cmocka_unit_test(test_visit_stops),
        cmocka_unit_test(test_threads_do_not_change_bits),
        cmocka_unit_test(test_steps_take_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
