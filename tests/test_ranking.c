/* Classes in order, ties too, and probabilities of any finite logits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>

#include "experiments/ship/ranking.h"

enum { COUNT = 6 };

static void test_order(void **state) {
    (void)state;
    static const struct {
        float logits[COUNT];
        int64_t order[COUNT];
    } cases[] = {{{0, 1, 2, 3, 4, 5}, {5, 4, 3, 2, 1, 0}},
                 {{3, -1, 3, 7, -1, 3}, {3, 0, 2, 5, 1, 4}},
                 {{0, 0, 0, 0, 0, 0}, {0, 1, 2, 3, 4, 5}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t class = -1;
        for (int j = 0; j < COUNT; j++) {
            class = ranking_next(cases[i].logits, COUNT, class);
            assert_int_equal(class, cases[i].order[j]);
        }
        assert_int_equal(ranking_next(cases[i].logits, COUNT, class), -1);
    }
}

static void test_probabilities(void **state) {
    (void)state;
    static const float logits[][3] = {{0, 1, 2}, {3e38f, 0, -3e38f}, {-3e38f, 0, 3e38f}};
    static const double expected[][3] = {
        {0.09003057317038046, 0.24472847105479764, 0.6652409557748218}, {1, 0, 0}, {0, 0, 1}};
    for (int i = 0; i < 3; i++) {
        double p[3];
        ranking_probabilities(logits[i], 3, p);
        for (int j = 0; j < 3; j++) assert_true(fabs(p[j] - expected[i][j]) < 1e-15);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_probabilities),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
