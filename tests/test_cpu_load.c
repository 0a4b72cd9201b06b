/* What /proc/loadavg says, as the kernel writes it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core/cpu_load.h"

static void test_running(void **state) {
    (void)state;
    assert_int_equal(cpu_load_running("0.20 0.18 0.12 1/80 11206\n"), 1);
    assert_int_equal(cpu_load_running("15.89 16.51 14.39 17/312 27486\n"), 17);
}

static void test_damaged(void **state) {
    (void)state;
    static const char *const texts[] = {"",           "nonsense",     "0.20 0.18 0.12",
                                        "0 0 0 3",    "0 0 0 x/80 1", "0 0 0 -3/80 1",
                                        "0.2 0.1 /80"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        assert_int_equal(cpu_load_running(texts[i]), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_running),
        cmocka_unit_test(test_damaged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
