#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "core/random.h"

enum { SAMPLES = 200000 };

/* The rows "philox4x32 10" of kat_vectors, as published with Random123: counter, key, result. */
static void test_known_answers(void **state) {
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], result[4];
    } rows[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const uint32_t *c = rows[i].counter, *k = rows[i].key;
        RandomKey key = {.seed = (uint64_t)k[1] << 32 | k[0], .stream = c[3], .step = c[2]};
        Random4 got = random_words(key, (uint64_t)c[1] << 32 | c[0]);
        assert_memory_equal(got.word, rows[i].result, sizeof got.word);
    }
}

static bool differ(RandomKey a, uint64_t i, RandomKey b, uint64_t j) {
    Random4 x = random_words(a, i), y = random_words(b, j);
    return memcmp(&x, &y, sizeof x) != 0;
}

/* Every part of a key counts, the upper halves too. */
static void test_keys_are_independent(void **state) {
    (void)state;
    RandomKey key = {5, RANDOM_TEST, 9}, other = key;
    assert_false(differ(key, 3, other, 3));
    assert_true(differ(key, 3, other, 4));
    assert_true(differ(key, 3, other, 3 + (UINT64_C(1) << 32)));
    other.seed = 6;
    assert_true(differ(key, 3, other, 3));
    other.seed = 5 + (UINT64_C(1) << 32);
    assert_true(differ(key, 3, other, 3));
    other = key, other.stream = RANDOM_DROPOUT;
    assert_true(differ(key, 3, other, 3));
    other = key, other.step = 10;
    assert_true(differ(key, 3, other, 3));
    other.step = 9 + (UINT64_C(1) << 32);
    assert_true(differ(key, 3, other, 3));
}

/* Mean and variance of many numbers, within five standard errors. */
static void test_distributions(void **state) {
    (void)state;
    static float uniform[SAMPLES], normal[SAMPLES];
    random_fill_uniform((RandomKey){1, RANDOM_TEST, 0}, 0, 1, SAMPLES, uniform);
    random_fill_normal((RandomKey){1, RANDOM_TEST, 1}, 3, SAMPLES, normal);
    double sum = 0, normal_sum = 0, normal_squares = 0;
    int within = 0;
    for (int i = 0; i < SAMPLES; i++) {
        assert_true(uniform[i] >= 0 && uniform[i] < 1);
        assert_true(isfinite(normal[i]));
        sum += (double)uniform[i];
        normal_sum += (double)normal[i];
        normal_squares += (double)normal[i] * (double)normal[i];
        within += fabsf(normal[i]) < 3;
    }
    double error = 1 / sqrt((double)SAMPLES);
    assert_true(fabs(sum / SAMPLES - 0.5) < 5 * error * sqrt(1.0 / 12));
    assert_true(fabs(normal_sum / SAMPLES) < 5 * error * 3);
    assert_true(fabs(normal_squares / SAMPLES - 9) < 5 * error * 9 * sqrt(2));
    double share = erf(1 / sqrt(2)); /* within one deviation */
    assert_true(fabs((double)within / SAMPLES - share) < 5 * error * sqrt(share * (1 - share)));
}

static void test_elements_stand_alone(void **state) {
    (void)state;
    RandomKey key = {8, RANDOM_TEST, 2};
    float many[40];
    random_fill_uniform(key, -2, 2, 40, many);
    for (uint64_t i = 0; i < 40; i++)
        assert_float_equal(many[i], -2 + 4 * random_uniform(key, i), 0);
    random_fill_normal(key, 1, 40, many);
    for (uint64_t i = 0; i < 40; i++) assert_float_equal(many[i], random_normal(key, i), 0);
}

static void test_below(void **state) {
    (void)state;
    RandomKey key = {2, RANDOM_TEST, 0};
    int seen[7] = {0};
    for (uint64_t i = 0; i < 7000; i++) seen[random_below(key, i, 7)]++;
    for (int i = 0; i < 7; i++) assert_in_range(seen[i], 850, 1150); /* 1000, 5 deviations of 29 */
    for (uint64_t i = 0; i < 100; i++) assert_int_equal(random_below(key, i, 1), 0);
}

static void test_permutation(void **state) {
    (void)state;
    enum { COUNT = 1000 };
    uint32_t order[COUNT], again[COUNT];
    bool seen[COUNT] = {false};
    random_permutation((RandomKey){3, RANDOM_SHUFFLE, 0}, COUNT, order);
    for (int i = 0; i < COUNT; i++) {
        assert_true(order[i] < COUNT && !seen[order[i]]);
        seen[order[i]] = true;
    }
    random_permutation((RandomKey){3, RANDOM_SHUFFLE, 0}, COUNT, again);
    assert_memory_equal(order, again, sizeof order);
    random_permutation((RandomKey){3, RANDOM_SHUFFLE, 1}, COUNT, again);
    assert_memory_not_equal(order, again, sizeof order);
    uint32_t single = 9;
    random_permutation((RandomKey){3, RANDOM_SHUFFLE, 0}, 1, &single);
    assert_int_equal(single, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answers), cmocka_unit_test(test_keys_are_independent),
        cmocka_unit_test(test_distributions), cmocka_unit_test(test_elements_stand_alone),
        cmocka_unit_test(test_below),         cmocka_unit_test(test_permutation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
