/* One system call on a file of a run directory fails, under train, resume and convert. Whatever the
 * command then says, no state is lost (the next plain command ends as if nothing had been) and no
 * success is claimed that is none.
 *
 *   test_program_calls          some points: seconds
 *   test_program_calls all      every call of every kind, and a table of what came of them */
#include "tests/program.h"

#include "experiments/train/run.h"

#ifndef NIBBLE_FAILING_CALLS
#define NIBBLE_FAILING_CALLS "" /* with sanitizers, which must be loaded first themselves */
#endif

#define MLP                                                                                        \
    "model: {kind: mlp, widths: [16]}\n" PROGRAM_DATA PROGRAM_OPTIMIZER "quant: {bits: 4}\n"       \
    "train: {epochs: 4, log_every: 4, checkpoint_every: 4}\n"

static const char *const files[] = {RUN_CONFIG,     RUN_ENVIRONMENT, RUN_METRICS, RUN_SUMMARY,
                                    RUN_CHECKPOINT, RUN_PREVIOUS,    RUN_BEST};
enum { FILES = sizeof files / sizeof *files };

/* What fails, and how; the number of its calls is found by going on until none fails. */
static const struct {
    const char *call;
    int code;
} failures[] = {
    {"write", ENOSPC}, {"write", EIO},   {"write", EINTR}, {"write", 0},    {"pwrite", ENOSPC},
    {"pwrite", EIO},   {"pwrite", 0},    {"fsync", EIO},   {"rename", EIO}, {"rename", ENOSPC},
    {"open", EIO},     {"open", EMFILE}, {"stat", EIO},    {"read", EIO},   {"read", 0},
};
enum { FAILURES = sizeof failures / sizeof *failures, SOME = 2, NUMBER_MAX = 4000 };

typedef struct CommandCase {
    const char *words;
    const char *from;               /* the run that cell is a copy of; NULL: there is none */
    const char *results[3], *usual; /* files that are made, and the run that has them undisturbed */
} CommandCase;

static const CommandCase commands[] = {
    {"train mlp.yaml --out cell", NULL, {RUN_CHECKPOINT, RUN_BEST}, "whole"},
    {"train --resume cell train.steps=0", "paused", {RUN_CHECKPOINT, RUN_BEST}, "whole"},
    {"convert cell", "whole", {RUN_QUANTIZED, RUN_LOGITS}, "packed"},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

typedef enum Verdict { DONE, TOLD, NOT_RIGHT, LOST, CRASHED, VERDICTS } Verdict;

static const char *const verdict_names[VERDICTS] = {
    [DONE] = "done all the same",           [TOLD] = "failed, and said so",
    [NOT_RIGHT] = "a success that is none", [LOST] = "lost",
    [CRASHED] = "crashed, hung or mute",
};
static int counts[COMMANDS][VERDICTS];

static void cell_prepare(const char *from) {
    remove_tree("cell");
    remove("mark");
    if (!from) return;
    mkdir("cell", 0777);
    for (int i = 0; i < FILES; i++)
        file_copy(format("%s/%s", from, files[i]), format("cell/%s", files[i]));
}

static bool has_results(const CommandCase *c) {
    for (int i = 0; c->results[i]; i++) {
        const char *made = format("cell/%s", c->results[i]);
        if (!file_exists(made)) return false;
        if (!files_equal(made, format("%s/%s", c->usual, c->results[i]))) return false;
    }
    return files_with("cell", ".tmp.") == 0;
}

/* After a failure: the same command, or where a run has begun its resumption. */
static bool goes_on(const CommandCase *c) {
    const char *words = c->words;
    bool has_run = file_exists("cell/" RUN_CONFIG);
    if (!c->from && has_run) words = "train --resume cell train.steps=0";
    return program_run((Start){0}, words).code == 0 && has_results(c);
}

static Verdict judge(const CommandCase *c, Result result) {
    if (result.signal) return CRASHED;
    if (result.code == 0) return has_results(c) ? DONE : NOT_RIGHT;
    if (!strstr(result.err, "nibble: ")) return CRASHED;
    return goes_on(c) ? TOLD : LOST;
}

/* False: there are not so many calls. */
static bool point_run(int command, int failure, int number) {
    ArenaMark mark = arena_mark(program_arena);
    const CommandCase *c = &commands[command];
    const char *what = format("%s %d %d", failures[failure].call, number, failures[failure].code);
    cell_prepare(c->from);
    setenv("NIBBLE_FAIL", what, 1);
    Start start = {.variable = "LD_PRELOAD", .value = NIBBLE_FAILING_CALLS, .seconds = 20};
    Result result = program_run(start, c->words);
    unsetenv("NIBBLE_FAIL");
    bool is_met = file_exists("mark");
    if (is_met) {
        Verdict verdict = judge(c, result);
        counts[command][verdict]++;
        if (verdict > TOLD)
            print_error("%s: %s: %s (exit code %d)\n%s", c->words, what, verdict_names[verdict],
                        result.code, result.err);
    }
    arena_rewind(program_arena, mark);
    return is_met;
}

static int failed(void) {
    int sum = 0;
    for (int i = 0; i < COMMANDS; i++)
        for (int j = NOT_RIGHT; j < VERDICTS; j++) sum += counts[i][j];
    return sum;
}

static int all(void) {
    int sum = 0;
    for (int i = 0; i < COMMANDS; i++)
        for (int j = 0; j < VERDICTS; j++) sum += counts[i][j];
    return sum;
}

/* Of each kind, under each command: one early call and one later. */
static void test_some_calls_fail(void **state) {
    (void)state;
    for (int i = 0; i < COMMANDS; i++)
        for (int j = 0; j < FAILURES; j++)
            for (int k = 0; k < SOME; k++) point_run(i, j, 1 + k * (3 + (i + 2 * j) % 7));
    assert_in_range(all(), 60, COMMANDS * FAILURES * SOME);
    assert_int_equal(failed(), 0);
}

static void test_every_call_fails(void **state) {
    (void)state;
    for (int i = 0; i < COMMANDS; i++)
        for (int j = 0; j < FAILURES; j++)
            for (int k = 1; k < NUMBER_MAX && point_run(i, j, k); k++) continue;
    for (int j = 0; j < VERDICTS; j++) {
        printf("%-24s", verdict_names[j]);
        for (int i = 0; i < COMMANDS; i++) printf(" %6d", counts[i][j]);
        putchar('\n');
    }
    assert_int_equal(failed(), 0);
}

static int setup(void **state) {
    if (program_folder_enter(state)) return 1;
    text_file("mlp.yaml", MLP);
    setenv("NIBBLE_FAIL_MARK", "mark", 1);
    run(0, "train mlp.yaml --out whole");
    run(0, "train mlp.yaml --out paused train.steps=9");
    run(0, "train mlp.yaml --out packed");
    run(0, "convert packed");
    return 0;
}

int main(int count, char **words) {
    if (!*NIBBLE_FAILING_CALLS) return 0;
    const struct CMUnitTest some[] = {cmocka_unit_test(test_some_calls_fail)};
    const struct CMUnitTest each[] = {cmocka_unit_test(test_every_call_fails)};
    if (count > 1 && !strcmp(words[1], "all"))
        return cmocka_run_group_tests(each, setup, program_folder_leave);
    return cmocka_run_group_tests(some, setup, program_folder_leave);
}
