/* Which inner loops run, by what the processor has and what the environment says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "core/kernels.h"
#include "core/parallel.h"

static const char *const names[] = {"baseline", "avx2", "avx512"}; /* each has the one before */
enum { COUNT = sizeof names / sizeof *names };

/* NULL: unset. */
static void variable_set(const char *name, const char *value) {
    if (value)
        setenv(name, value, 1);
    else
        unsetenv(name);
}

static bool init(const char *cpu, const char *isa, Error *err) {
    *err = (Error){0};
    variable_set("NIBBLE_CPU", cpu);
    variable_set("NIBBLE_ISA", isa);
    return kernels_init(err);
}

/* The best that the processor really has, as an index of names. */
static int best(void) {
    Error err;
    assert_true(init(NULL, NULL, &err));
    int i = 0;
    while (i < COUNT && strcmp(names[i], kernels_description())) i++;
    assert_in_range(i, 0, COUNT - 1);
    return i;
}

static void test_best_is_chosen(void **state) {
    (void)state;
    Error err;
    int there = best();
    for (int i = 0; i < COUNT; i++) {
        bool is_chosen = init(NULL, names[i], &err);
        assert_int_equal(is_chosen, i <= there);
        if (is_chosen) assert_string_equal(kernels_description(), names[i]);
    }
}

/* A pretence bounds what is chosen and what may be asked for, and never promises more than there
 * is. */
static void test_processor_is_pretended(void **state) {
    (void)state;
    Error err;
    int there = best();
    for (int cpu = 0; cpu < COUNT; cpu++) {
        int most = cpu < there ? cpu : there;
        assert_true(init(names[cpu], NULL, &err));
        assert_string_equal(kernels_description(), names[most]);
        for (int isa = 0; isa < COUNT; isa++)
            assert_int_equal(init(names[cpu], names[isa], &err), isa <= most);
    }
}

static void test_messages(void **state) {
    (void)state;
    Error err;
    assert_false(init("baseline", "avx2", &err));
    assert_int_equal(err.code, ERROR_INPUT);
    assert_string_equal(err.message, "NIBBLE_ISA=avx2: this processor cannot run it; choose from "
                                     "baseline, or unset it");
    assert_false(init("baseline", "abacus", &err));
    assert_string_equal(err.message, "NIBBLE_ISA=abacus is not known; choose from baseline, or "
                                     "unset it");
    assert_false(init("abacus", NULL, &err));
    assert_int_equal(err.code, ERROR_INPUT);
    assert_string_equal(err.message, "NIBBLE_CPU=abacus is not known; choose from avx512, avx2, "
                                     "baseline, or unset it");
    assert_true(init("", "", &err)); /* as if unset */
    assert_false(init("abacus", NULL, &err));
    assert_false(parallel_init(1, &err));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_best_is_chosen),
        cmocka_unit_test(test_processor_is_pretended),
        cmocka_unit_test(test_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
