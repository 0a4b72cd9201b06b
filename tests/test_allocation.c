/* Bits under a budget: against every allocation that there is, closed forms, and sizes as large as
 * networks have. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>
#include <time.h>

#include "core/random.h"
#include "qat/allocation.h"

enum { LAYERS_MAX = 120, CHOICES_MAX = 8 };

static double cost[LAYERS_MAX * CHOICES_MAX];
static int64_t bytes[LAYERS_MAX * CHOICES_MAX];

typedef struct Dice {
    uint64_t seed, element;
} Dice;

static double dice(Dice *d) { /* from 0 to 1 */
    RandomKey key = {.seed = d->seed, .stream = RANDOM_TEST};
    return (double)random_words(key, d->element++).word[0] * 0x1p-32;
}

static int64_t dice_below(Dice *d, int64_t bound) {
    return (int64_t)(dice(d) * (double)bound);
}

static AllocationProblem problem(int layers, int choices) {
    return (AllocationProblem){.layers = layers, .choices = choices, .cost = cost, .bytes = bytes};
}

static double cost_of(const AllocationProblem *p, const int *chosen) {
    double sum = 0;
    for (int i = 0; i < p->layers; i++) sum += cost[i * p->choices + chosen[i]];
    return sum;
}

static int64_t bytes_of(const AllocationProblem *p, const int *chosen) {
    int64_t sum = 0;
    for (int i = 0; i < p->layers; i++) sum += bytes[i * p->choices + chosen[i]];
    return sum;
}

/* The next in the order of choices, earlier layers first; false past the last. */
static bool count_up(const AllocationProblem *p, int *chosen) {
    for (int i = p->layers - 1; i >= 0; i--) {
        if (++chosen[i] < p->choices) return true;
        chosen[i] = 0;
    }
    return false;
}

/* All of them, in that order; the first of the best. */
static bool try_all(const AllocationProblem *p, int *best) {
    int chosen[LAYERS_MAX] = {0};
    bool is_found = false;
    do {
        if (bytes_of(p, chosen) > p->budget) continue;
        double is = cost_of(p, chosen), was = is_found ? cost_of(p, best) : INFINITY;
        bool is_smaller = is_found && is == was && bytes_of(p, chosen) < bytes_of(p, best);
        if (!is_found || is < was || is_smaller) memcpy(best, chosen, sizeof chosen);
        is_found = true;
    } while (count_up(p, chosen));
    return is_found;
}

static void check(const AllocationProblem *p, uint64_t seed) {
    int expected[LAYERS_MAX], chosen[LAYERS_MAX];
    bool fits = try_all(p, expected);
    assert_true(fits == (allocation_smallest(p) <= p->budget));
    assert_true(allocation_solve(p, chosen) == fits);
    for (int i = 0; fits && i < p->layers; i++)
        if (chosen[i] != expected[i])
            fail_msg("problem %ld, layer %d: %d is chosen, not %d", (long)seed, i, chosen[i],
                     expected[i]);
}

/* Costs of few whole numbers: sums are exact, and many tie. */
static void test_ties(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 3000; seed++) {
        Dice d = {.seed = seed};
        int layers = 1 + (int)dice_below(&d, 6), choices = 1 + (int)dice_below(&d, 4);
        AllocationProblem p = problem(layers, choices);
        for (int i = 0; i < layers * choices; i++) {
            cost[i] = (double)(dice_below(&d, 7) - 2);
            bytes[i] = dice_below(&d, 9);
        }
        p.budget = dice_below(&d, 8 * layers);
        check(&p, seed);
    }
}

/* As sensitivities are: falling with bits, of very different sizes, some below 0. */
static void test_sensitivities(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 1000; seed++) {
        Dice d = {.seed = seed};
        int layers = 1 + (int)dice_below(&d, 5), choices = 7;
        AllocationProblem p = problem(layers, choices);
        int64_t most = 0;
        for (int i = 0; i < layers; i++) {
            double size = exp(8 * dice(&d) - 6);
            int64_t weights = 10 + dice_below(&d, 5000), channels = 4 * (1 + dice_below(&d, 30));
            for (int j = 0; j < choices; j++) {
                cost[i * choices + j] = size * pow(0.25, j) + 0.01 * (dice(&d) - 0.5);
                bytes[i * choices + j] = (weights * (j + 2) + 7) / 8 + channels;
            }
            most += bytes[i * choices + choices - 1];
        }
        p.budget = most / 6 + dice_below(&d, most);
        check(&p, seed);
    }
}

/* Two layers, in the head: 8 bits for the one that is dear, or 4 for both. */
static void test_by_hand(void **state) {
    (void)state;
    static const double costs[] = {5, 1, 0, 3, 2, 0};
    static const int64_t sizes[] = {2, 4, 8, 2, 4, 8};
    static const struct {
        int64_t budget;
        int chosen[2];
    } cases[] = {{4, {0, 0}},  {5, {0, 0}},  {6, {1, 0}},  {8, {1, 1}},  {9, {1, 1}},
                 {10, {1, 1}}, {12, {1, 2}}, {15, {1, 2}}, {16, {2, 2}}, {1000, {2, 2}}};
    memcpy(cost, costs, sizeof costs);
    memcpy(bytes, sizes, sizeof sizes);
    AllocationProblem p = problem(2, 3);
    assert_int_equal(allocation_smallest(&p), 4);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int chosen[2];
        p.budget = cases[i].budget;
        assert_true(allocation_solve(&p, chosen));
        for (int j = 0; j < 2; j++)
            if (chosen[j] != cases[i].chosen[j])
                fail_msg("budget %ld, layer %d: %d", (long)p.budget, j, chosen[j]);
    }
    int untouched[2] = {-1, -1};
    p.budget = 3;
    assert_false(allocation_solve(&p, untouched));
    assert_int_equal(untouched[0], -1);
}

static void test_no_layers(void **state) {
    (void)state;
    AllocationProblem p = problem(0, 3);
    int chosen[1];
    assert_int_equal(allocation_smallest(&p), 0);
    assert_true(allocation_solve(&p, chosen));
}

/* Where each layer's cost is convex in its bytes and steps are of one size, taking the best step
 * again and again is optimal. */
static void test_many_layers_of_one_size(void **state) {
    (void)state;
    enum { LAYERS = 100, CHOICES = 7 };
    AllocationProblem p = problem(LAYERS, CHOICES);
    Dice d = {.seed = 5};
    for (int i = 0; i < LAYERS; i++) {
        double size = exp(4 * dice(&d));
        for (int j = 0; j < CHOICES; j++) {
            cost[i * CHOICES + j] = size * pow(0.5, j);
            bytes[i * CHOICES + j] = 1000 * (j + 2);
        }
    }
    for (int64_t steps = 0; steps <= LAYERS * (CHOICES - 1); steps += 150) {
        int chosen[LAYERS], greedy[LAYERS] = {0};
        p.budget = allocation_smallest(&p) + 1000 * steps + 999;
        for (int64_t k = 0; k < steps; k++) {
            int best = -1;
            double most = 0;
            for (int i = 0; i < LAYERS; i++) {
                const double *at = &cost[i * CHOICES + greedy[i]];
                if (greedy[i] + 1 < CHOICES && at[0] - at[1] > most) best = i, most = at[0] - at[1];
            }
            greedy[best]++;
        }
        assert_true(allocation_solve(&p, chosen));
        assert_memory_equal(chosen, greedy, sizeof chosen);
    }
}

/* A hundred layers of all sizes: soon, the same again, and no better by any exchange of two. */
static void test_many_layers(void **state) {
    (void)state;
    enum { LAYERS = 100, CHOICES = 7 };
    for (uint64_t seed = 0; seed < 8; seed++) {
        AllocationProblem p = problem(LAYERS, CHOICES);
        Dice d = {.seed = seed};
        int64_t most = 0;
        for (int i = 0; i < LAYERS; i++) {
            double size = exp(8 * dice(&d) - 6);
            int64_t weights = (int64_t)exp(5 + 9 * dice(&d));
            for (int j = 0; j < CHOICES; j++) {
                cost[i * CHOICES + j] = size * pow(0.25, j) * (0.8 + 0.4 * dice(&d));
                bytes[i * CHOICES + j] = (weights * (j + 2) + 7) / 8 + 64;
            }
            most += bytes[i * CHOICES + CHOICES - 1];
        }
        p.budget = (int64_t)(((double)seed + 4) / 12 * (double)most);
        int chosen[LAYERS], again[LAYERS];
        clock_t began = clock();
        assert_true(allocation_solve(&p, chosen));
        assert_true((double)(clock() - began) / CLOCKS_PER_SEC < 20);
        assert_true(bytes_of(&p, chosen) <= p.budget);
        assert_true(allocation_solve(&p, again));
        assert_memory_equal(chosen, again, sizeof chosen);
        double best = cost_of(&p, chosen);
        for (int i = 0; i < LAYERS * CHOICES; i++)
            for (int k = 0; k < LAYERS * CHOICES; k++) {
                memcpy(again, chosen, sizeof chosen);
                again[i / CHOICES] = i % CHOICES;
                again[k / CHOICES] = k % CHOICES;
                if (bytes_of(&p, again) <= p.budget) assert_true(cost_of(&p, again) >= best);
            }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ties),
        cmocka_unit_test(test_sensitivities),
        cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_no_layers),
        cmocka_unit_test(test_many_layers_of_one_size),
        cmocka_unit_test(test_many_layers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
