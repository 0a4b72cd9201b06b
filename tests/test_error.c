#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

#include "core/error.h"

static void test_the_first_failure_stays(void **state) {
    (void)state;
    Error err = {0};
    assert_false(FAIL(&err, ERROR_INPUT, "a %d", 1));
    assert_false(FAIL(&err, ERROR_SYSTEM, "b"));
    assert_int_equal(err.code, ERROR_INPUT);
    error_prefix(&err, "%s", "file");
    error_append(&err, "; %s", "more");
    assert_string_equal(err.message, "file: a 1; more");
    assert_false(error_blame(&err, "quant.%s", "bits"));
    error_blame(&err, "data");
    assert_string_equal(err.setting, "quant.bits");
}

/* However long the place, what is wrong and the remedy can be read. */
static void test_a_long_prefix_loses_its_middle(void **state) {
    (void)state;
    enum { LONG = 1000, REMEDY = 200 };
    char path[LONG + 1], remedy[REMEDY + 1];
    for (int length = 1; length <= LONG; length++) {
        memset(path, 'p', (size_t)length);
        memset(remedy, 'r', REMEDY);
        path[0] = '/', path[length - 1] = '5', path[length] = remedy[REMEDY] = 0;
        Error err = {0};
        assert_false(FAIL(&err, ERROR_INPUT, "%s!", remedy));
        error_prefix(&err, "%s", path);
        assert_non_null(strstr(err.message, "5: r"));
        assert_true(err.message[0] == (length == 1 ? '5' : '/'));
        size_t used = strlen(err.message);
        assert_true(err.message[used - 1] == '!');
        assert_true((strstr(err.message, "...") != NULL) == (length > 276));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_first_failure_stays),
        cmocka_unit_test(test_a_long_prefix_loses_its_middle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
