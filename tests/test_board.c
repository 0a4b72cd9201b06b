/* What is shown while a comparison is at work. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "experiments/compare/board.h"
#include "experiments/train/environment.h"

enum { ROWS = 2, SEEDS = 3, TEXT_BYTES = 4096 };

typedef struct Fixture {
    Comparison comparison;
    CompareRow rows[ROWS];
    int64_t seeds[SEEDS];
    CompareRun runs[ROWS * SEEDS];
    Schedule schedule;
    Board board;
    FILE *stream;
    char text[TEXT_BYTES];
} Fixture;

static void fixture_open(Fixture *f) {
    *f = (Fixture){.rows = {{.name = "fp32", .label = "FP32", .method = &compare_method_fp32},
                            {.name = "qat", .label = "QAT W2A2", .method = &compare_method_qat}},
                   .seeds = {1, 2, 30}};
    f->comparison =
        (Comparison){.rows = f->rows, .row_count = ROWS, .seeds = f->seeds, .seed_count = SEEDS};
    for (int i = 0; i < ROWS * SEEDS; i++)
        f->runs[i] =
            (CompareRun){.row = &f->rows[i % ROWS], .seed = f->seeds[i / ROWS], .steps = 50};
    f->schedule = (Schedule){.comparison = &f->comparison,
                             .runs = f->runs,
                             .run_count = ROWS * SEEDS,
                             .began = environment_seconds()};
    f->stream = tmpfile();
    assert_non_null(f->stream);
    board_begin(&f->board, &f->schedule, 60, f->stream);
    assert_false(f->board.is_live);
}

/* What was written since it was last asked. */
static const char *written(Fixture *f) {
    rewind(f->stream);
    f->text[fread(f->text, 1, TEXT_BYTES - 1, f->stream)] = '\0';
    fclose(f->stream);
    f->stream = f->board.stream = tmpfile();
    return f->text;
}

static void fixture_close(Fixture *f) {
    schedule_close(&f->schedule);
    fclose(f->stream);
}

/* A run of 50 steps that took 10 seconds. */
static void finish(CompareRun *run, double accuracy) {
    run->state = RUN_DONE;
    run->step = run->steps;
    run->began = 1;
    run->seconds = 10;
    run->result = json_new();
    json_set_number(run->result, "accuracy", accuracy);
}

static void test_lines(void **state) {
    (void)state;
    Fixture f;
    fixture_open(&f);
    CompareRun *run = &f.runs[0];
    run->state = RUN_MAKING;
    board_watch(&f.board, run, true);
    assert_string_equal(written(&f), "FP32, seed 1: begins\n");
    board_watch(&f.board, run, false);
    run->state = RUN_EVALUATING;
    board_watch(&f.board, run, true);
    assert_string_equal(written(&f), "");
    finish(run, 0.92345);
    board_watch(&f.board, run, true);
    assert_string_equal(written(&f),
                        "FP32, seed 1: 92.34 % in 0:10; 1 of 6 runs done, 1:00 so far, "
                        "about 0:50 left\n");
    f.runs[1].state = RUN_MAKING;
    f.runs[1].first_step = f.runs[1].step = 20;
    board_watch(&f.board, &f.runs[1], true);
    assert_string_equal(written(&f), "QAT W2A2, seed 1: goes on\n");
    f.runs[1].state = RUN_FAILED;
    f.runs[1].failure = "step 3: not finite";
    board_watch(&f.board, &f.runs[1], true);
    assert_string_equal(written(&f), "QAT W2A2, seed 1: failed: step 3: not finite\n");
    board_end(&f.board);
    assert_string_equal(written(&f), "");
    fixture_close(&f);
}

/* Once a minute a run that goes on says so. */
static void test_a_long_run(void **state) {
    (void)state;
    Fixture f;
    fixture_open(&f);
    f.runs[0].state = RUN_MAKING;
    f.runs[0].step = 12;
    f.runs[0].began = environment_seconds() - 24;
    f.board.shown -= 61;
    board_watch(&f.board, &f.runs[0], false);
    assert_string_equal(written(&f), "FP32, seed 1: step 12 of 50; 0 of 6 runs done, 1:00 so far, "
                                     "about 9:36 left\n");
    fixture_close(&f);
}

static void test_table(void **state) {
    (void)state;
    Fixture f;
    fixture_open(&f);
    f.board.is_live = true;
    finish(&f.runs[0], 0.9);
    f.runs[1].state = RUN_FAILED;
    f.runs[2].state = RUN_EVALUATING;
    f.runs[3].state = RUN_MAKING;
    f.runs[3].step = 25;
    f.runs[3].began = environment_seconds();
    board_watch(&f.board, &f.runs[3], true);
    const char *table = "FP32         90.00    > test         .\x1b[K\n"
                        "QAT W2A2    failed     > 50%         .\x1b[K\n\x1b[J";
    const char *text = written(&f);
    assert_ptr_equal(strstr(text, "\r1 of 6 runs done, 1:00 so far, about "), text);
    assert_non_null(strstr(text, "\n            seed 1    seed 2   seed 30\x1b[K\n"));
    assert_non_null(strstr(text, table));
    f.board.shown -= 1;
    board_watch(&f.board, &f.runs[3], false);
    text = written(&f);
    assert_ptr_equal(strstr(text, "\x1b[4A\r1 of 6 runs done"), text); /* over the one before */
    board_end(&f.board);
    assert_string_equal(written(&f), "\x1b[4A\r\x1b[J");
    fixture_close(&f);
}

/* Nothing is known: no time is told. */
static void test_no_estimate(void **state) {
    (void)state;
    Fixture f;
    fixture_open(&f);
    assert_true(isnan(schedule_left(&f.schedule)));
    finish(&f.runs[0], 0.5);
    assert_float_equal(schedule_left(&f.schedule), 50, 1e-9);
    f.runs[1].state = f.runs[2].state = RUN_FAILED;
    f.runs[3].steps = 100; /* twice as long */
    assert_float_equal(schedule_left(&f.schedule), 40, 1e-9);
    fixture_close(&f);
}

/* A run that has no steps takes as long as its row's did, else as others without steps, else as
 * long as it takes to see the test set. */
static void test_runs_without_steps_take_time(void **state) {
    (void)state;
    Fixture f;
    fixture_open(&f);
    f.rows[1].method = &compare_method_ptq;
    finish(&f.runs[0], 0.9);
    f.runs[0].seconds = 12;
    f.runs[0].making_seconds = 10;
    f.runs[2].state = f.runs[4].state = RUN_FAILED; /* three runs of PTQ are left */
    assert_float_equal(schedule_left(&f.schedule), 3 * 2, 1e-9);
    finish(&f.runs[1], 0.8);
    f.runs[1].seconds = 7;
    assert_float_equal(schedule_left(&f.schedule), 2 * 7, 1e-9);
    CompareRow other = {.method = &compare_method_ptq};
    f.runs[3].row = &other; /* never made: as the other row */
    assert_float_equal(schedule_left(&f.schedule), 2 * 7, 1e-9);
    f.runs[3].row = &f.rows[1];
    fixture_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_a_long_run),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_no_estimate),
        cmocka_unit_test(test_runs_without_steps_take_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
