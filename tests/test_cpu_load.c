/* What /proc/loadavg says, as the kernel writes it; whose threads run; how many cores are left. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

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

/* ---- This process's own ---- */

/* Threads of libraries may come and go; others' as well. */
enum { SPINNING = 16, SLEEPING = 6, SLACK = 3, THREADS = SPINNING + SLEEPING, LOOKS = 5000 };

static atomic_bool is_over;

static void *spin(void *unused) {
    while (!is_over)
        ;
    return unused;
}

static void *rest(void *unused) {
    while (!is_over) usleep(100000);
    return unused;
}

static int running_now(void) {
    char text[256];
    FILE *file = fopen("/proc/loadavg", "re");
    assert_non_null(file);
    assert_non_null(fgets(text, sizeof text, file));
    fclose(file);
    return cpu_load_running(text);
}

/* Own threads that run are counted, those that sleep are not, and none is another program's. */
static void test_own(void **state) {
    (void)state;
    pthread_t threads[THREADS];
    bool is_counted = false, is_left_out = false;
    int before = cpu_load_own();
    assert_true(before >= 1);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, i < SPINNING ? spin : rest, NULL), 0);
    for (int i = 0; i < LOOKS && !(is_counted && is_left_out); i++) {
        int more = cpu_load_own() - before, running = running_now(), others = cpu_load_others();
        is_counted |= abs(more - SPINNING) < SLACK;
        is_left_out |= others >= 0 && others <= running - SPINNING + SLACK;
        usleep(1000);
    }
    is_over = true;
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    assert_true(is_counted && is_left_out);
}

/* ---- What is left ---- */

static void test_looks(void **state) {
    (void)state;
    CpuLoad load = {0};
    assert_true(cpu_load_is_due(&load, 1e-3));
    cpu_load_add(&load, 10, 8);
    assert_true(load.others == 8); /* the first as it is */
    assert_false(cpu_load_is_due(&load, 10.2));
    assert_true(cpu_load_is_due(&load, 10.25));
    cpu_load_add(&load, 10.25, 0);
    assert_true(load.others == 6);
    assert_false(cpu_load_is_due(&load, 10.4));
    cpu_load_add(&load, 10.5, 10);
    assert_true(load.others == 7);
}

static void test_left(void **state) {
    (void)state;
    static const struct {
        double others;
        int cores, most, left;
    } cases[] = {{0, 8, 8, 8},   {0, 8, 4, 4},   {3, 8, 8, 5}, {3.4, 8, 8, 5},
                 {3.6, 8, 8, 4}, {3.6, 8, 3, 3}, {8, 8, 8, 1}, {20, 8, 8, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const CpuLoad load = {.others = cases[i].others, .looked = 1};
        assert_int_equal(cpu_load_left(&load, cases[i].cores, cases[i].most), cases[i].left);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_running), cmocka_unit_test(test_damaged), cmocka_unit_test(test_own),
        cmocka_unit_test(test_looks),   cmocka_unit_test(test_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
