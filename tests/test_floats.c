/* Numbers that are not finite, or too small, are found wherever they stand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>

#include "core/floats.h"

enum { COUNT = 200003 }; /* several pieces, and a rest */

static void test_all_fit(void **state) {
    (void)state;
    float *x = calloc(COUNT, sizeof *x);
    x[0] = FLT_MAX;
    x[1] = -FLT_MAX;
    x[2] = 0x1p-149f;
    x[3] = -0.0f;
    assert_int_equal(floats_find_unfit(x, COUNT, -FLT_MAX), -1);
    assert_int_equal(floats_find_unfit(x, 0, 1), -1);
    assert_int_equal(floats_find_unfit(x, 1, 0), -1);
    assert_int_equal(floats_find_unfit(x + 2, COUNT - 2, 0), -1);
    free(x);
}

static void test_the_first_unfit_is_found(void **state) {
    (void)state;
    const int places[] = {0, 1, 65535, 65536, 131073, COUNT - 1};
    const float values[] = {NAN, -NAN, INFINITY, -INFINITY, -0x1p-149f};
    float *x = calloc(COUNT, sizeof *x);
    for (size_t p = 0; p < sizeof places / sizeof *places; p++)
        for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
            x[places[p]] = values[v];
            x[COUNT - 1] = NAN;
            assert_int_equal(floats_find_unfit(x, COUNT, 0), places[p]);
            x[places[p]] = x[COUNT - 1] = 0;
        }
    assert_int_equal(floats_find_unfit(x, COUNT, FLT_MIN), 0);
    free(x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_fit),
        cmocka_unit_test(test_the_first_unfit_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
