#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/settings/yaml.h"
#include "optim/schedule.h"

typedef struct Holder {
    Variant schedule;
} Holder;

static const Field holder_fields[] = {
    FIELD_VARIANT(Holder, schedule, REQUIRED, &schedule_kinds, "under test"),
    FIELD_END,
};

static Variant settings_of(Arena *arena, const char *yaml) {
    Faults faults = {.arena = arena};
    Holder holder = {0};
    Mark mark = {"test", 1, 1};
    Node *map = yaml_read_own(arena_format(arena, "{schedule: %s}", yaml), mark, arena);
    fields_read(holder_fields, map, mark, &holder, arena, &faults);
    assert_int_equal(faults.count, 0);
    return holder.schedule;
}

static double factor_of(Arena *arena, const char *yaml, int64_t step, int64_t total) {
    Variant v = settings_of(arena, yaml);
    return schedule_factor(&v, step, total);
}

/* "schedule TOTAL SETTINGS", then "factors ..." (tests/golden/make_optim.py). torch multiplies its
 * way from step to step, which costs it a few digits. */
static void test_agrees_with_torch(void **state) {
    (void)state;
    Arena *arena = arena_new("golden");
    FILE *file = fopen("tests/golden/optim.txt", "r");
    assert_non_null(file);
    char line[2000], yaml[200] = "";
    int total = 0, compared = 0;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "schedule %d %199[^\n]", &total, yaml) == 2) continue;
        if (strncmp(line, "factors ", 8)) continue;
        const char *text = line + 8;
        char *end;
        for (int step = 0; step < total; step++, text = end) {
            double expected = strtod(text, &end);
            assert_ptr_not_equal(text, end);
            double got = factor_of(arena, yaml, step, total);
            if (!(fabs(got - expected) <= 1e-12))
                fail_msg("%s at step %d: %.17g, torch has %.17g", yaml, step, got, expected);
        }
        compared++;
    }
    fclose(file);
    assert_int_equal(compared, 7);
    arena_free(arena);
}

static void test_warmup_in_every_row(void **state) {
    (void)state;
    Arena *arena = arena_new("warm-up");
    for (int i = 0; i < schedule_kinds.count; i++) {
        const char *kind = schedule_kinds.kinds[i]->name;
        const char *steps = arena_format(arena, "{kind: %s, warmup: 29}", kind);
        const char *fraction = arena_format(arena, "{kind: %s, warmup: 0.29}", kind);
        for (int step = 0; step < 100; step++) {
            double factor = factor_of(arena, steps, step, 100);
            if (step < 29) assert_float_equal(factor, (step + 1) / 30.0, 1e-15);
            if (step == 29) assert_float_equal(factor, 1, 0);
            assert_true(factor >= 0 && factor <= 1);
            assert_float_equal(factor_of(arena, fraction, step, 100), factor, 0);
        }
    }
    arena_free(arena);
}

static void test_after_the_end(void **state) {
    (void)state;
    Arena *arena = arena_new("end");
    assert_float_equal(factor_of(arena, "{kind: cosine, final: 0.2}", 100, 100), 0.2, 1e-15);
    assert_float_equal(factor_of(arena, "{kind: cosine, final: 0.2}", 150, 100), 0.2, 1e-15);
    assert_float_equal(factor_of(arena, "{kind: linear, final: 0.2}", 150, 100), 0.2, 1e-15);
    assert_float_equal(factor_of(arena, "linear", 100, 100), 0, 0);
    assert_float_equal(factor_of(arena, "step", 150, 100), 0.01, 1e-15);
    assert_float_equal(factor_of(arena, "constant", 150, 100), 1, 0);
    for (int i = 0; i < schedule_kinds.count; i++) /* no division by a length of 0 */
        assert_true(isfinite(factor_of(arena, schedule_kinds.kinds[i]->name, 0, 0)));
    arena_free(arena);
}

static void test_check(void **state) {
    (void)state;
    static const struct {
        const char *yaml, *message; /* NULL: fits into 100 steps */
    } cases[] = {
        {"{kind: cosine, warmup: 99}", NULL},
        {"{kind: cosine, warmup: 0.999}", NULL},
        {"{kind: step, milestones: [], warmup: 1}", NULL},
        {"{kind: step, milestones: [0.2, 60]}", NULL},
        {"{kind: cosine, warmup: 100}", "schedule.warmup is 100 steps"},
        {"{kind: constant, warmup: 2.5}", "schedule.warmup is 2.5, which is neither"},
        {"{kind: step, milestones: [50, 300]}", "schedule.milestones is 300 steps"},
        {"{kind: step, milestones: [1.5]}", "schedule.milestones is 1.5, which is neither"},
    };
    Arena *arena = arena_new("check");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Variant v = settings_of(arena, cases[i].yaml);
        Error err = {0};
        assert_int_equal(schedule_check(&v, 100, &err), !cases[i].message);
        if (!cases[i].message) continue;
        assert_int_equal(err.code, ERROR_INPUT);
        assert_non_null(strstr(err.message, cases[i].message));
    }
    arena_free(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_agrees_with_torch),
        cmocka_unit_test(test_warmup_in_every_row),
        cmocka_unit_test(test_after_the_end),
        cmocka_unit_test(test_check),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
