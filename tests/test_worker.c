/* Work in a process of its own: its failure comes back, its words go to a log, and it never stays
 * behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "experiments/compare/worker.h"

static char log_path[] = "/tmp/nibble-worker-XXXXXX";

static int open_log(void **state) {
    (void)state;
    return close(mkstemp(log_path));
}

static int remove_log(void **state) {
    (void)state;
    return unlink(log_path);
}

static bool wait_for(Worker *worker, Error *err) {
    bool ok = true;
    while (!worker_has_ended(worker, &ok, err)) usleep(1000);
    return ok;
}

static bool run(WorkerJob job, char *context, Error *err) {
    Worker worker;
    *err = (Error){0};
    assert_true(worker_start(&worker, job, context, log_path, err));
    return wait_for(&worker, err);
}

static bool speaks(void *context, Error *err) {
    (void)err;
    puts(context);
    return true;
}

static bool fails(void *context, Error *err) {
    (void)context;
    return FAIL(err, ERROR_NUMERIC, "step 3: not finite");
}

static bool crashes(void *context, Error *err) {
    (void)context;
    (void)err;
    raise(SIGKILL);
    return true;
}

static bool leaves(void *context, Error *err) {
    (void)context;
    (void)err;
    _exit(0);
}

static bool sleeps(void *context, Error *err) {
    (void)context;
    (void)err;
    for (;;) pause();
    return true;
}

static void test_what_it_prints_is_logged(void **state) {
    (void)state;
    Error err;
    char text[64] = "";
    assert_true(run(speaks, (char[]){"first"}, &err));
    assert_true(run(speaks, (char[]){"second"}, &err));
    FILE *file = fopen(log_path, "r");
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    assert_string_equal(text, "first\nsecond\n");
}

static void test_its_failure_comes_back(void **state) {
    (void)state;
    Error err;
    assert_false(run(fails, NULL, &err));
    assert_int_equal(err.code, ERROR_NUMERIC);
    assert_string_equal(err.message, "step 3: not finite");
}

static void test_a_crash_is_a_failure(void **state) {
    (void)state;
    Error err;
    assert_false(run(crashes, NULL, &err));
    assert_int_equal(err.code, ERROR_MISMATCH);
    assert_string_equal(err.message, "its process was ended by signal 9 (Killed); the system does "
                                     "that when memory runs out");
    assert_false(run(leaves, NULL, &err));
    assert_string_equal(err.message, "its process ended without a word");
}

static void test_no_log(void **state) {
    (void)state;
    Worker worker;
    Error err = {0};
    assert_false(worker_start(&worker, speaks, NULL, "/nowhere/log", &err));
    assert_int_equal(err.code, ERROR_SYSTEM);
    assert_string_equal(err.message, "/nowhere/log: cannot open it: No such file or directory");
}

static void test_it_can_be_stopped(void **state) {
    (void)state;
    Worker worker;
    Error err = {0};
    assert_true(worker_start(&worker, sleeps, NULL, log_path, &err));
    worker_stop(&worker);
    assert_false(wait_for(&worker, &err));
}

/* The one who started it is killed. */
static void test_it_does_not_stay_behind(void **state) {
    (void)state;
    int line[2];
    assert_int_equal(pipe(line), 0);
    pid_t parent = fork();
    if (!parent) {
        Worker worker;
        Error err = {0};
        if (!worker_start(&worker, sleeps, NULL, log_path, &err)) _exit(1);
        if (write(line[1], "x", 1) != 1) _exit(1);
        for (;;) pause();
    }
    char byte;
    close(line[1]);
    assert_int_equal(read(line[0], &byte, 1), 1);
    kill(parent, SIGKILL);
    waitpid(parent, NULL, 0);
    assert_int_equal(read(line[0], &byte, 1), 0); /* nobody holds the other end any more */
    close(line[0]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_it_prints_is_logged),
        cmocka_unit_test(test_its_failure_comes_back),
        cmocka_unit_test(test_a_crash_is_a_failure),
        cmocka_unit_test(test_no_log),
        cmocka_unit_test(test_it_can_be_stopped),
        cmocka_unit_test(test_it_does_not_stay_behind),
    };
    return cmocka_run_group_tests(tests, open_log, remove_log);
}
