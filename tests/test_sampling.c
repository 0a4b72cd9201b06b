/* Tokens drawn by their probabilities: as often as they should be, none outside of top_p, the same
 * for the same seed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>

#include "experiments/generate/sampling.h"

enum { TOKENS = 5, DRAWS = 20000 };
/* Probabilities 0.5, 0.25, 0.125, 0.0625, 0.0625, in another order. */
static const float logits[TOKENS] = {-2, -4, -1, -4, -3};
static const double scale = 0.69314718055994531; /* of powers of 2: temperature 1 / log 2 */

static void draw(Sampling s, int counts[TOKENS]) {
    for (int i = 0; i < TOKENS; i++) counts[i] = 0;
    for (uint64_t n = 0; n < DRAWS; n++) {
        int64_t token = sampling_choose(&s, logits, TOKENS, n);
        assert_in_range(token, 0, TOKENS - 1);
        counts[token]++;
    }
}

/* Within five deviations. */
static void assert_share(int count, double share) {
    double deviation = sqrt(share * (1 - share) * DRAWS);
    if (!(fabs(count - share * DRAWS) <= 5 * deviation))
        fail_msg("%d draws, not %g", count, share * DRAWS);
}

static void as_often_as_they_should_be(void **state) {
    (void)state;
    static const double shares[TOKENS] = {0.25, 0.0625, 0.5, 0.0625, 0.125};
    int counts[TOKENS];
    draw((Sampling){.temperature = 1 / scale, .top_p = 1, .seed = 3}, counts);
    for (int i = 0; i < TOKENS; i++) assert_share(counts[i], shares[i]);
    /* twice as warm: the roots of these, which have 2.0606 together */
    draw((Sampling){.temperature = 2 / scale, .top_p = 1, .seed = 3}, counts);
    double sum = 0;
    for (int i = 0; i < TOKENS; i++) sum += sqrt(shares[i]);
    for (int i = 0; i < TOKENS; i++) assert_share(counts[i], sqrt(shares[i]) / sum);
}

static void only_the_likeliest(void **state) {
    (void)state;
    static const struct {
        double top_p, shares[TOKENS];
    } cases[] = {
        {0.001, {0, 0, 1, 0, 0}},
        {0.4999, {0, 0, 1, 0, 0}},
        {0.6, {1.0 / 3, 0, 2.0 / 3, 0, 0}},
        {0.8, {2.0 / 7, 0, 4.0 / 7, 0, 1.0 / 7}},
        {0.93, {4.0 / 15, 1.0 / 15, 8.0 / 15, 0, 2.0 / 15}}, /* the first of equals */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int counts[TOKENS];
        draw((Sampling){.temperature = 1 / scale, .top_p = cases[i].top_p, .seed = 5}, counts);
        for (int t = 0; t < TOKENS; t++) assert_share(counts[t], cases[i].shares[t]);
    }
}

static void without_temperature_the_first_of_the_largest(void **state) {
    (void)state;
    static const float equal[] = {1, 3, 2, 3};
    for (uint64_t n = 0; n < 20; n++)
        assert_int_equal(sampling_choose(&(Sampling){.seed = 1}, equal, 4, n), 1);
}

static void the_seed_decides(void **state) {
    (void)state;
    int same = 0;
    for (uint64_t n = 0; n < 200; n++) {
        Sampling a = {.temperature = 5, .top_p = 1, .seed = 7}, b = a;
        int64_t token = sampling_choose(&a, logits, TOKENS, n);
        assert_int_equal(sampling_choose(&b, logits, TOKENS, n), token);
        b.seed = 8;
        same += sampling_choose(&b, logits, TOKENS, n) == token;
    }
    assert_in_range(same, 10, 120);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_often_as_they_should_be),
        cmocka_unit_test(only_the_likeliest),
        cmocka_unit_test(without_temperature_the_first_of_the_largest),
        cmocka_unit_test(the_seed_decides),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
