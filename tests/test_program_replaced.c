/* Each file of a run directory is replaced by what does not belong there, under every command that
 * looks at it. Whatever the command then does, it must not
 *   begin the training anew in silence,
 *   give another network's results, or lose lines of the log, without a line that says so,
 *   change a byte outside the run directory, or what is left of the run where it refuses to go on,
 *   wait or read without end, or crash.
 *
 *   test_program_replaced          a part of the cells: seconds
 *   test_program_replaced all      every cell, and a table of what came of them */
#include "tests/program.h"

#include <sys/sysmacros.h>

#include "data/envelope.h"
#include "experiments/train/run.h"

enum { SECONDS = 10, PARTS = 9 };

#define MLP                                                                                        \
    "model: {kind: mlp, widths: [16]}\n"                                                           \
    "data: {kind: synthetic, height: 8, width: 8, classes: 4, train: 320, test: 100, "             \
    "validation: 64, batch: 32, eval_batch: 50, noise: 1}\n" PROGRAM_OPTIMIZER                     \
    "quant: {bits: 4}\n"                                                                           \
    "train: {epochs: 4, log_every: 4, checkpoint_every: 2}\n"

#define LEFTOVER RUN_CHECKPOINT ".tmp.4194305" /* of no process: numbers end at 2^22 */

static const char *const files[] = {
    RUN_CONFIG, RUN_ENVIRONMENT, RUN_METRICS, RUN_SUMMARY, RUN_CHECKPOINT, RUN_PREVIOUS,
    RUN_BEST,   RUN_QUANTIZED,   RUN_LOGITS,  RUN_REPORT,  LEFTOVER,
};
enum { FILES = sizeof files / sizeof *files };

/* ---- Runs ----
 * paused, whole: one run, stopped under way and at its end. older: the same, stopped earlier.
 * seed, other: runs with another seed and with another configuration. cell: what a command sees.
 * kept, linked: copies of a cell's own files and of those of seed, which links lead to. */

static void run_make(const char *directory, const char *settings) {
    run(0, "train mlp.yaml --out %s %s", directory, settings);
    run(0, "convert %s", directory);
    size_t bytes;
    const void *content = file_read(format("%s/" RUN_CHECKPOINT, directory), &bytes);
    file_write(format("%s/" LEFTOVER, directory), content, bytes / 2);
}

static void tree_copy(const char *from, const char *to) {
    remove_tree(to);
    mkdir(to, 0777);
    for (int i = 0; i < FILES; i++)
        file_copy(format("%s/%s", from, files[i]), format("%s/%s", to, files[i]));
}

/* "-" where nothing can be read. */
static const char *digest_of(const char *path) {
    struct stat status;
    char text[2 * ENVELOPE_DIGEST_BYTES + 1] = "-";
    if (stat(path, &status) || !S_ISREG(status.st_mode)) return "-";
    size_t bytes;
    const void *content = file_read(path, &bytes);
    envelope_digest(content, bytes, text);
    return format("%s", text);
}

static const char *tree_digest(const char *directory) {
    const char *text = "";
    for (int i = 0; i < FILES; i++)
        text = format("%s%s ", text, digest_of(format("%s/%s", directory, files[i])));
    return text;
}

/* ---- Replacements of cell/FILE ---- */

static void by_nothing(const char *path, const char *file) {
    (void)path, (void)file;
}

static void by_empty(const char *path, const char *file) {
    (void)file;
    text_file(path, "");
}

static void by_half(const char *path, const char *file) {
    size_t bytes;
    const void *content = file_read(format("kept/%s", file), &bytes);
    file_write(path, content, bytes / 2);
}

static void by_directory(const char *path, const char *file) {
    (void)file;
    assert_int_equal(mkdir(path, 0777), 0);
}

static void by_fifo(const char *path, const char *file) {
    (void)file;
    assert_int_equal(mkfifo(path, 0666), 0);
}

static void by_device(const char *path, const char *file) {
    (void)file;
    if (mknod(path, S_IFCHR | 0666, makedev(1, 5)))
        assert_int_equal(symlink("/dev/zero", path), 0); /* who may not make one */
}

static void by_device_link(const char *path, const char *file) {
    (void)file;
    assert_int_equal(symlink("/dev/zero", path), 0);
}

static void by_dangling_link(const char *path, const char *file) {
    assert_int_equal(symlink(format("../kept/no-%s", file), path), 0);
}

static void by_link(const char *path, const char *file) {
    assert_int_equal(symlink(format("../kept/%s", file), path), 0);
}

static void by_hard_link(const char *path, const char *file) {
    assert_int_equal(link(format("kept/%s", file), path), 0);
}

static void by_link_to_seed(const char *path, const char *file) {
    assert_int_equal(symlink(format("../linked/%s", file), path), 0);
}

static void by_hard_link_to_seed(const char *path, const char *file) {
    assert_int_equal(link(format("linked/%s", file), path), 0);
}

static void by_older(const char *path, const char *file) {
    file_copy(format("older/%s", file), path);
}

static void by_seed(const char *path, const char *file) {
    file_copy(format("seed/%s", file), path);
}

static void by_other(const char *path, const char *file) {
    file_copy(format("other/%s", file), path);
}

typedef struct Replacement {
    const char *name;
    void (*make)(const char *path, const char *file); /* `path` is free */
} Replacement;

static const Replacement replacements[] = {
    {"nothing", by_nothing},
    {"an empty file", by_empty},
    {"its first half", by_half},
    {"a directory", by_directory},
    {"a FIFO", by_fifo},
    {"a device", by_device},
    {"a link to a device", by_device_link},
    {"a dangling link", by_dangling_link},
    {"a link to its like", by_link},
    {"a hard link to its like", by_hard_link},
    {"a link to another seed's", by_link_to_seed},
    {"a hard link to another seed's", by_hard_link_to_seed},
    {"an older one of the run", by_older},
    {"another seed's", by_seed},
    {"another configuration's", by_other},
};
enum { REPLACEMENTS = sizeof replacements / sizeof *replacements };

/* ---- Outcomes: what must be equal where a command says that it is done ---- */

#define LOG "log: " /* the last part of an outcome */

/* The log without its times, which differ between any two runs. */
static const char *log_of(const char *path) {
    if (!strcmp(digest_of(path), "-")) return "-";
    size_t bytes;
    char *text = (char *)file_read(path, &bytes);
    for (char *line = text; (line = strstr(line, ",\"seconds\":"));) {
        char *end = line + strcspn(line, "}\n");
        memmove(line, end, strlen(end) + 1);
    }
    return text;
}

/* Scores and steps of summary.json. */
static const char *scores_of(const char *path) {
    static const char *const numbers[] = {
        "steps",         "best.step",     "best.validation_accuracy",
        "test.accuracy", "test.loss",     "shadow.accuracy",
        "shadow.loss",   "quantized.loss"};
    Error err = {0};
    Json *json = json_read_file(path, &err);
    if (!json) return "-";
    const char *text = "";
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        double value = -1;
        json_get_number(json, numbers[i], &value);
        text = format("%s%s %.17g ", text, numbers[i], value);
    }
    json_free(json);
    return text;
}

static const char *of_training(const char *out) {
    (void)out;
    return format("%s %s\n%s\n" LOG "%s", digest_of("cell/" RUN_CHECKPOINT),
                  digest_of("cell/" RUN_BEST), scores_of("cell/" RUN_SUMMARY),
                  log_of("cell/" RUN_METRICS));
}

/* Nothing was left to do: neither the log nor the best network is looked at. */
static const char *of_ended(const char *out) {
    (void)out;
    return format("%s %s", digest_of("cell/" RUN_CHECKPOINT), scores_of("cell/" RUN_SUMMARY));
}

static const char *of_output(const char *out) {
    return out;
}

static const char *of_packing(const char *out) {
    (void)out;
    return format("%s %s", digest_of("cell/" RUN_QUANTIZED), digest_of("cell/" RUN_LOGITS));
}

static const char *of_new_run(const char *out) {
    (void)out;
    return digest_of("new/" RUN_CHECKPOINT);
}

static const char *of_nothing(const char *out) {
    (void)out;
    return "";
}

typedef struct CommandCase {
    const char *name;
    const char *words; /* %s: the file that was replaced */
    const char *state; /* of the run that it is given */
    const char *(*outcome)(const char *out);
    bool resumes;
    bool replaces; /* the run, as it was told to */
} CommandCase;

static const CommandCase commands[] = {
    {"resume", "train --resume cell train.steps=0", "paused", of_training, .resumes = true},
    {"resume ended", "train --resume cell", "whole", of_ended, .resumes = true},
    {"eval", "eval cell --json", "paused", of_output},
    {"convert", "convert cell", "paused", of_packing},
    {"verify", "verify cell", "paused", of_packing},
    {"predict", "predict cell test.pgm --json", "paused", of_output},
    {"inspect", "inspect cell/%s", "paused", of_nothing},
    {"plan", "plan cell/" RUN_CONFIG, "paused", of_nothing},
    {"init", "train mlp.yaml --out new --force train.init=cell", "paused", of_new_run},
    {"anew", "train mlp.yaml --out cell --force", "paused", of_training, .replaces = true},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

/* ---- A cell ---- */

typedef enum Verdict {
    RIGHT,     /* done, all as undisturbed */
    TOLD,      /* done otherwise, with a warning that says so */
    REFUSED,   /* ended with a message; what else is in the directory is as it was */
    RESTARTED, /* from here on: failures */
    WRONG,
    FOREIGN,
    DAMAGED,
    HUNG,
    CRASHED,
    MUTE,
    VERDICTS
} Verdict;

static const char *const verdict_names[VERDICTS] = {
    [RIGHT] = "right",
    [TOLD] = "told",
    [REFUSED] = "refused",
    [RESTARTED] = "began anew in silence",
    [WRONG] = "another result in silence",
    [FOREIGN] = "changed foreign bytes",
    [DAMAGED] = "refused, but changed the run",
    [HUNG] = "hung",
    [CRASHED] = "crashed",
    [MUTE] = "failed without a message",
};

typedef struct Cell {
    const char *file;
    const Replacement *replacement;
    const CommandCase *command;
} Cell;

typedef struct Baseline {
    const char *outcome, *err;
} Baseline;

static Baseline baselines[COMMANDS];

static Result cell_command(const CommandCase *command, const char *file) {
    return program_run((Start){.seconds = SECONDS}, format(command->words, file));
}

/* Files that were neither replaced nor are a leftover: --resume may write the configuration again.
 */
static const char *rest_digest(const char *replaced) {
    const char *text = "";
    for (int i = 0; i < FILES; i++)
        if (strcmp(files[i], replaced) != 0 && strcmp(files[i], LEFTOVER) != 0)
            text = format("%s%s ", text, digest_of(format("cell/%s", files[i])));
    return text;
}

/* A warning that the undisturbed command does not give. */
static bool has_new_warning(const char *err, const char *usual) {
    for (const char *line = err; *line;) {
        size_t length = strcspn(line, "\n");
        bool is_warning = !strncmp(line, "warning: ", 9);
        if (is_warning && !strstr(usual, format("%.*s", (int)length, line))) return true;
        line += length + (line[length] == '\n');
    }
    return false;
}

static bool went_on(Result result) {
    return strstr(result.err, "resuming after step") || strstr(result.err, "nothing is left to do");
}

static Verdict judge_refusal(const Cell *c, Result result, const char *rest) {
    if (result.code != 1 && result.code != 2) return CRASHED;
    if (!strstr(result.err, "nibble: ")) return MUTE;
    bool has_begun = c->command->replaces || (c->command->resumes && went_on(result));
    bool packs = c->command->outcome == of_packing;
    return !has_begun && !packs && strcmp(rest, rest_digest(c->file)) != 0 ? DAMAGED : REFUSED;
}

/* Lines of another run of as many are not known from the run's own: the log is for people. */
static bool is_foreign_log(const Cell *c) {
    bool is_log = !strcmp(c->file, RUN_METRICS);
    return is_log && (c->replacement->make == by_seed || c->replacement->make == by_other);
}

static bool is_same(const Cell *c, const char *outcome, const char *usual) {
    const char *log = strstr(usual, LOG);
    if (!log || !is_foreign_log(c)) return !strcmp(outcome, usual);
    return !strncmp(outcome, usual, (size_t)(log - usual));
}

static Verdict judge(const Cell *c, Result result, const char *rest) {
    const Baseline *usual = &baselines[c->command - commands];
    if (result.signal == SIGALRM || result.peak_bytes > (int64_t)1 << 30) return HUNG;
    if (result.signal) return CRASHED;
    if (result.code) return judge_refusal(c, result, rest);
    if (c->command->resumes && !went_on(result)) return RESTARTED;
    if (is_same(c, c->command->outcome(result.out), usual->outcome)) return RIGHT;
    return has_new_warning(result.err, usual->err) ? TOLD : WRONG;
}

static void cell_prepare(const char *state) {
    tree_copy(state, "cell");
    tree_copy(state, "kept");
    tree_copy("seed", "linked");
}

static Verdict cell_run(const Cell *c) {
    ArenaMark mark = arena_mark(program_arena);
    cell_prepare(c->command->state);
    const char *path = format("cell/%s", c->file);
    unlink(path);
    c->replacement->make(path, c->file);
    const char *foreign = format("%s%s", tree_digest("kept"), tree_digest("linked"));
    const char *rest = rest_digest(c->file);
    Result result = cell_command(c->command, c->file);
    Verdict verdict = judge(c, result, rest);
    if (strcmp(foreign, format("%s%s", tree_digest("kept"), tree_digest("linked"))))
        verdict = FOREIGN;
    if (verdict >= RESTARTED)
        print_error("%s by %s: %s: %s (exit code %d)\n%s", c->file, c->replacement->name,
                    c->command->name, verdict_names[verdict], result.code, result.err);
    arena_rewind(program_arena, mark);
    return verdict;
}

/* ---- The matrix ---- */

static int counts[COMMANDS][VERDICTS];

static int setup(void **state) {
    if (program_folder_enter(state)) return 1;
    text_file("mlp.yaml", MLP);
    file_write("test.pgm",
               "P5 8 8 255\n0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+-", 75);
    run_make("older", "train.steps=10");
    run_make("paused", "train.steps=18");
    run_make("whole", "");
    run_make("seed", "train.steps=18 seed=7");
    run_make("other", "train.steps=18 model.widths=[12]");
    for (int i = 0; i < COMMANDS; i++) {
        cell_prepare(commands[i].state);
        Result result = cell_command(&commands[i], RUN_CHECKPOINT);
        assert_code(result, 0, commands[i].words);
        baselines[i] = (Baseline){commands[i].outcome(result.out), result.err};
    }
    return 0;
}

/* `plan FILE` reads what a person names, from a pipe too, and waits for who writes to it. */
static bool is_asked_for(const Cell *c) {
    bool is_pipe = c->replacement->make == by_fifo && !strcmp(c->file, RUN_CONFIG);
    return is_pipe && !strcmp(c->command->name, "plan");
}

/* The cells of one command whose number is `part` modulo `parts`. */
static int run_cells(int command, int part, int parts) {
    int failures = 0;
    for (int i = 0; i < FILES * REPLACEMENTS; i++) {
        if ((i + i / REPLACEMENTS) % parts != part) continue;
        Cell cell = {files[i / REPLACEMENTS], &replacements[i % REPLACEMENTS], &commands[command]};
        if (is_asked_for(&cell)) continue;
        Verdict verdict = cell_run(&cell);
        counts[command][verdict]++;
        failures += verdict >= RESTARTED;
    }
    return failures;
}

static void test_replaced_files(void **state) {
    (void)state;
    int failures = 0;
    for (int i = 0; i < COMMANDS; i++) failures += run_cells(i, i % PARTS, PARTS);
    assert_int_equal(failures, 0);
}

static void test_every_cell(void **state) {
    (void)state;
    int failures = 0;
    for (int i = 0; i < COMMANDS; i++) failures += run_cells(i, 0, 1);
    for (int i = 0; i < VERDICTS; i++) {
        printf("%-30s", verdict_names[i]);
        for (int j = 0; j < COMMANDS; j++) printf(" %12d", counts[j][i]);
        putchar('\n');
    }
    assert_int_equal(failures, 0);
}

int main(int count, char **words) {
    const struct CMUnitTest some[] = {cmocka_unit_test(test_replaced_files)};
    const struct CMUnitTest all[] = {cmocka_unit_test(test_every_cell)};
    if (count > 1 && !strcmp(words[1], "all"))
        return cmocka_run_group_tests(all, setup, program_folder_leave);
    return cmocka_run_group_tests(some, setup, program_folder_leave);
}
