/* Quotas of cgroups, from files as the kernel shows them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/cpu_quota.h"

static char root[64];

static void put(const char *name, const char *text) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *slash = path + strlen(root) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        mkdir(path, 0700);
        *slash = '/';
    }
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static int set_up(void **state) {
    (void)state;
    strcpy(root, "/tmp/nibble-quota-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command);
}

static void assert_quota(const char *groups, double expected) {
    double found = cpu_quota_of(groups, root);
    assert_true(found > expected - 1e-9 && found < expected + 1e-9);
}

static void test_v2(void **state) {
    (void)state;
    assert_quota("0::/\n", 0); /* no such file */
    put("cpu.max", "150000 100000\n");
    assert_quota("0::/\n", 1.5);
    assert_quota("0::/", 1.5);
    put("a/cpu.max", "max 100000\n");
    assert_quota("0::/a\n", 1.5); /* the group around it */
    put("a/b/cpu.max", "50000 100000\n");
    assert_quota("0::/a/b\n", 0.5);
    put("a/b/c/cpu.max", "400000 100000\n");
    assert_quota("0::/a/b/c\n", 0.5);
    assert_quota("0::/a/b/absent\n", 0.5);
}

static void test_v1(void **state) {
    (void)state;
    put("cpu/docker/x/cpu.cfs_quota_us", "250000\n");
    put("cpu/docker/x/cpu.cfs_period_us", "100000\n");
    put("cpu/cpu.cfs_quota_us", "-1\n");
    put("cpu/cpu.cfs_period_us", "100000\n");
    assert_quota("12:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n", 2.5);
    assert_quota("4:cpuacct,cpu:/docker/x\n", 2.5);
    assert_quota("4:cpuacct:/docker/x\n", 0);
    assert_quota("4:cpuset:/docker/x\n", 0);
    assert_quota("4:cpu:/docker\n", 0);
    put("docker/x/cpu.max", "50000 100000\n"); /* of v2 alone */
    assert_quota("4:cpuset:/docker/x\n", 0);
    assert_quota("4:cpuset:/docker/x\n0::/docker/x\n", 0.5);
}

static void test_damaged(void **state) {
    (void)state;
    put("cpu.max", "nonsense\n");
    assert_quota("0::/\n", 0);
    static const char *const limits[] = {"-5 0\n", "-5 100000\n", "50000 0\n", "50000\n"};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        put("cpu.max", limits[i]);
        assert_quota("0::/\n", 0);
    }
    assert_quota("", 0);
    assert_quota("0", 0);
    assert_quota("0:x", 0);
    assert_quota("\n\n", 0);
}

static void test_threads(void **state) {
    (void)state;
    assert_int_equal(cpu_quota_threads(0.5), 1);
    assert_int_equal(cpu_quota_threads(1), 1);
    assert_int_equal(cpu_quota_threads(1.5), 2);
    assert_int_equal(cpu_quota_threads(2), 2);
    assert_int_equal(cpu_quota_threads(3.25), 4);
    assert_int_equal(cpu_quota_threads(1e12), INT_MAX);
    assert_true(cpu_quota() >= 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_v2, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_v1, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_damaged, set_up, tear_down),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
