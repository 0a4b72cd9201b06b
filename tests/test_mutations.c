/* Files of run directories with a wrong content and a right digest, under every command that reads
 * them. Whatever the content, a command ends in seconds, with exit code 0, 1 or 2, and without a
 * crash; where it refuses, a line names the file, and nothing of the directory is changed; where it
 * goes on, its results are finite.
 *
 *   test_mutations                      a few: seconds
 *   test_mutations COUNT SEED [FIRST]   so many, from case FIRST of that seed on, and a table
 *
 * A case depends on the seed and its number alone. Commands run in a copy of this process: starting
 * a program under a sanitizer takes longer than most of them. */
#include "tests/mutate.h"

#include <execinfo.h>
#include <sys/time.h>

#include "core/print.h"
#include "data/sandbox.h"
#include "experiments/commands/commands.h"

enum { SECONDS = 5, SOME = 150, FILES_MAX = 64, SANITIZER_CODE = 86 };

static const int64_t peak_max = (int64_t)3 << 30;

/* ---- Directories ---- */

#define DATA                                                                                       \
    "data: {kind: synthetic, height: 8, width: 8, classes: 4, train: 128, test: 40, "              \
    "validation: 32, batch: 32, eval_batch: 40, noise: 0.4}\n"
#define CNN_WITH(more)                                                                             \
    "model: {kind: cnn, widths: [3, 4], hidden: 6}\n" DATA                                         \
    "optimizer: {kind: adam, lr: 0.01, ema: 0.9}\n"                                                \
    "train: {epochs: 3, log_every: 1, checkpoint_every: 2" more "}\n"
#define CNN CNN_WITH("")
#define QUANTIZED                                                                                  \
    "quant:\n"                                                                                     \
    "  bits: 4\n"                                                                                  \
    "  activations: {quantizer: lsq_plus}\n"                                                       \
    "  rules: [{layers: last, bits: 8}]\n"
#define COMPARISON                                                                                 \
    "experiment:\n"                                                                                \
    "  model: {kind: mlp, widths: [4]}\n"                                                          \
    "  data: {kind: synthetic, height: 4, width: 4, classes: 3, train: 48, test: 20, "             \
    "validation: 16, batch: 16, eval_batch: 20}\n"                                                 \
    "  train: {epochs: 1}\n"                                                                       \
    "seeds: [1]\nmethods: [{kind: qat, bits: [8]}]\n"
#define WORDS                                                                                      \
    "model: {kind: transformer, width: 8, layers: 1, heads: 2, ff: 12}\n"                          \
    "data: {kind: text, path: text, length: 32, batch: 4, eval_batch: 4, validation: 0.2, test: "  \
    "0.2}\noptimizer: {kind: adam, lr: 0.005}\ntrain: {epochs: 3, log_every: 1}\n"

static const char *golden(const char *name) {
    return format("%s/tests/golden/llm/%s", program_source_root, name);
}

static const char *adapted_yaml(const char *adapter) {
    return format("model: {kind: pretrained, path: %s, base: nf4, cache: adapted/base.cache}\n"
                  "data: {kind: text, path: text, tokenizer: %s, length: 32, batch: 4, validation: "
                  "0.2, test: 0.2}\n"
                  "optimizer: {kind: adamw, lr: 0.003, state_bits: 8}\n"
                  "train: {epochs: 3, log_every: 1, checkpoint_every: 1}\n"
                  "adapter: {kind: lora, %s}\n",
                  golden("llama"), golden("llama"), adapter);
}

static void directories_make(void) {
    char *text = arena_zalloc(program_arena, 1 << 12), *at = text;
    for (int i = 0; i < 40; i++) at += sprintf(at, "%d and %d are %d; ", i % 4, i % 3, i % 12);
    text_file("text", text);
    text_file("cnn.yaml", CNN QUANTIZED);
    text_file("float.yaml", CNN);
    text_file("words.yaml", WORDS);
    text_file("comparison.yaml", COMPARISON);
    text_file("q.yaml", "quant: {bits: 4}\ncalibration: {rows: 64}\nquantize: [equalize, gptq]\n");
    text_file("distill.yaml", CNN_WITH(", distill: {teacher: float}"));
    text_file("adapted.yaml", adapted_yaml("rank: 2"));
    text_file("again.yaml", adapted_yaml("from: peft"));
    file_write("test.pgm",
               "P5 8 8 255\n0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+-", 75);
    mkdir("adapted", 0777);
    run(0, "train cnn.yaml --out cnn train.steps=9");
    run(0, "convert cnn");
    run(0, "train float.yaml --out float train.steps=9");
    run(0, "quantize float q.yaml --out ptq");
    run(0, "train words.yaml --out words train.steps=5");
    run(0, "train adapted.yaml --out adapted train.steps=3");
    run(0, "export adapted --format peft --out peft");
    run(0, "compare comparison.yaml --out compared");
    mkdir("model", 0777);
    static const char *const files[] = {"config.json", "tokenizer.json", "model.safetensors"};
    for (int i = 0; i < 3; i++)
        file_copy(format("%s/%s", golden("llama"), files[i]), format("model/%s", files[i]));
}

/* ---- What commands read ---- */

typedef struct Row {
    const char *command;   /* %s: the file */
    const char *directory; /* that nothing may happen to */
    const char *files;     /* of it: each may be changed; "a b" */
} Row;

#define RUN_H5 "checkpoint.h5 best.h5 "

static const Row rows[] = {
    {"inspect cnn/%s", "cnn", RUN_H5 "checkpoint.prev.h5 quantized.h5 logits.h5"},
    {"eval cnn --json", "cnn", RUN_H5 "config.yaml quantized.h5"},
    {"eval cnn --split", "cnn", RUN_H5},
    {"eval cnn --sensitivity --json", "cnn", RUN_H5},
    {"train --resume cnn", "cnn",
     RUN_H5 RUN_H5 "config.yaml metrics.jsonl summary.json env.json checkpoint.prev.h5"},
    {"train cnn.yaml --out new train.init=cnn train.steps=2", "cnn", RUN_H5 "config.yaml"},
    {"train cnn.yaml --out new train.init=cnn/checkpoint.h5 train.steps=1", "cnn", "checkpoint.h5"},
    {"train distill.yaml --out new train.steps=2", "float", RUN_H5 "config.yaml"},
    {"convert cnn", "cnn", RUN_H5 "config.yaml"},
    {"verify cnn", "cnn", RUN_H5 "config.yaml quantized.h5 quantized.h5 logits.h5 logits.h5"},
    {"verify cnn --reference", "cnn", "quantized.h5"},
    {"predict cnn test.pgm --json", "cnn", RUN_H5 "quantized.h5"},
    {"predict cnn/quantized.h5 test.pgm --json", "cnn", "quantized.h5"},
    {"quantize float q.yaml --out new", "float", RUN_H5 "config.yaml"},
    {"eval ptq --json", "ptq", "checkpoint.h5 config.yaml summary.json"},
    {"convert ptq", "ptq", "checkpoint.h5 config.yaml"},
    {"plan cnn/%s --json", "cnn", "config.yaml"},
    {"train cnn/%s --out new train.steps=1", "cnn", "config.yaml"},
    {"eval words --json", "words", RUN_H5 "config.yaml"},
    {"train --resume words", "words", RUN_H5 "config.yaml metrics.jsonl"},
    {"generate words --prompt the --tokens 3 --json", "words", RUN_H5 "config.yaml"},
    {"eval words --text text --json", "words", RUN_H5},
    {"data show words/%s 0", "words", "config.yaml"},
    {"eval adapted --json", "adapted", RUN_H5 "config.yaml base.cache"},
    {"train --resume adapted", "adapted", RUN_H5 "config.yaml base.cache"},
    {"generate adapted --prompt the --tokens 2 --json", "adapted", RUN_H5 "base.cache"},
    {"export adapted --format peft --out new", "adapted", RUN_H5 "config.yaml"},
    {"merge adapted --out new", "adapted", RUN_H5 "config.yaml base.cache"},
    {"train again.yaml --out new", "peft", "adapter_config.json adapter_model.safetensors"},
    {"inspect peft/%s", "peft", "adapter_model.safetensors"},
    {"generate model --prompt the --tokens 2 --json", "model",
     "config.json tokenizer.json model.safetensors"},
    {"eval model --text text --json", "model", "config.json tokenizer.json model.safetensors"},
    {"tokenize model text", "model", "tokenizer.json"},
    {"inspect model", "model", "model.safetensors"},
    {"compare --resume compared", "compared",
     "config.yaml results.json evaluations/fp32-s1.json evaluations/fp32-s1.h5 "
     "evaluations/qat-w8a8-s1.json runs/qat-w8a8-s1/summary.json runs/fp32-s1/summary.json "
     "runs/qat-w8a8-s1/checkpoint.h5 runs/fp32-s1/checkpoint.h5 runs/fp32-s1/config.yaml"},
};
enum { ROWS = sizeof rows / sizeof *rows };

/* ---- What stands in a directory, to be looked at and put back ---- */

typedef struct Kept {
    const char *path;
    const unsigned char *content;
    size_t bytes;
    Objects objects; /* of a file of ours; items NULL: not read yet */
} Kept;

typedef struct Tree {
    const char *directory;
    Kept files[FILES_MAX];
    int count;
} Tree;

enum { TREES = 9 }; /* one is free */
static Tree trees[TREES];

static void tree_add(Tree *tree, const char *path) {
    DIR *listing = opendir(path);
    for (struct dirent *entry; listing && (entry = readdir(listing));)
        if (entry->d_name[0] != '.') tree_add(tree, format("%s/%s", path, entry->d_name));
    if (listing) {
        closedir(listing);
        return;
    }
    assert_true(tree->count < FILES_MAX);
    Kept *file = &tree->files[tree->count++];
    file->path = path;
    file->content = file_read(path, &file->bytes);
}

static Tree *tree_of(const char *directory) {
    int i = 0;
    while (trees[i].directory && strcmp(trees[i].directory, directory) != 0) i++;
    assert_true(i < TREES);
    if (trees[i].directory) return &trees[i];
    trees[i].directory = directory;
    tree_add(&trees[i], directory);
    return &trees[i];
}

static Kept *tree_file(Tree *tree, const char *path) {
    for (int i = 0; i < tree->count; i++)
        if (!strcmp(tree->files[i].path, path)) return &tree->files[i];
    return NULL;
}

static bool is_kept(const Kept *file) {
    struct stat status;
    if (lstat(file->path, &status) || (size_t)status.st_size != file->bytes) return false;
    size_t bytes;
    return !memcmp(file_read(file->path, &bytes), file->content, file->bytes);
}

/* What is there besides; with `removes` it no longer is. */
static const char *tree_strange(Tree *tree, const char *path, bool removes) {
    DIR *listing = opendir(path);
    const char *found = NULL;
    for (struct dirent *entry; listing && (entry = readdir(listing));) {
        const char *inside = format("%s/%s", path, entry->d_name);
        if (entry->d_name[0] == '.') continue;
        const char *strange = tree_strange(tree, inside, removes);
        found = found ? found : strange;
    }
    if (listing) {
        closedir(listing);
        return found;
    }
    if (tree_file(tree, path)) return NULL;
    if (removes) unlink(path);
    return path;
}

/* A file but `changed` that is no longer as it was; NULL: all are. What the runs of a comparison
 * said is told even where they were refused. */
static const char *tree_harm(Tree *tree, const Kept *changed) {
    for (int i = 0; i < tree->count; i++) {
        const Kept *file = &tree->files[i];
        if (file != changed && !strstr(file->path, "/logs/") && !is_kept(file)) return file->path;
    }
    return tree_strange(tree, tree->directory, false);
}

static void tree_restore(Tree *tree) {
    tree_strange(tree, tree->directory, true);
    for (int i = 0; i < tree->count; i++)
        if (!is_kept(&tree->files[i]))
            file_write(tree->files[i].path, tree->files[i].content, tree->files[i].bytes);
}

/* ---- A command in a copy of this process ---- */

/* Sanitizers look for these. */
#pragma GCC visibility push(default)
const char *__asan_default_options(void);
const char *__ubsan_default_options(void);
const char *__asan_default_options(void) {
    return "exitcode=86:detect_leaks=0:detect_stack_use_after_return=1:handle_abort=1";
}
const char *__ubsan_default_options(void) {
    return "exitcode=86:print_stacktrace=1:halt_on_error=1";
}
#pragma GCC visibility pop

static void tell_crash(int number) {
    void *frames[32];
    backtrace_symbols_fd(frames, backtrace(frames, 32), STDERR_FILENO);
    signal(number, SIG_DFL);
    raise(number);
}

static _Noreturn void child(const char *command) {
    char *words[PROGRAM_WORDS_MAX];
    int count = 0;
    for (char *rest = NULL, *word = strtok_r(arena_strdup(program_arena, command), " ", &rest);
         word && count < PROGRAM_WORDS_MAX; word = strtok_r(NULL, " ", &rest))
        words[count++] = word;
    if (sandbox_bounds_memory()) { /* not under a sanitizer, which tells more */
        static const int crashes[] = {SIGSEGV, SIGBUS, SIGFPE, SIGABRT, SIGILL};
        for (int i = 0; i < 5; i++) signal(crashes[i], tell_crash);
    }
    program_redirect("stdout", 1);
    program_redirect("stderr", 2);
    /* of work, since others may have the processor; and what only waits ends too */
    struct itimerval work = {.it_value.tv_sec = SECONDS};
    setitimer(ITIMER_PROF, &work, NULL);
    alarm(20 * SECONDS);
    int code = commands_main(count, words);
    fflush(NULL);
    _exit(code);
}

static Result command_run(const char *command) {
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (!pid) child(command);
    return program_wait(pid);
}

/* ---- Verdicts ---- */

typedef enum Verdict {
    DONE,
    REFUSED,
    FAILED,
    NAMELESS, /* from here on: failures */
    MUTE,
    HARMED,
    UNSHOWN,
    ENDLESS,
    HUNG,
    SWOLLEN,
    CRASHED,
    VERDICTS
} Verdict;

static const char *const verdict_names[VERDICTS] = {
    [DONE] = "done",
    [REFUSED] = "refused",
    [FAILED] = "failed",
    [NAMELESS] = "a message without a file",
    [MUTE] = "no message",
    [HARMED] = "refused, but changed the directory",
    [UNSHOWN] = "printed what a terminal obeys",
    [ENDLESS] = "a result that is not finite",
    [HUNG] = "hung",
    [SWOLLEN] = "took too much memory",
    [CRASHED] = "crashed",
};

static bool is_shown(const char *text) {
    size_t bytes = strlen(text), used;
    for (size_t at = 0; at < bytes; at += used) {
        unsigned code;
        bool is_character = print_decode(text + at, bytes - at, &code, &used);
        if (!is_character || (print_is_hidden(code) && code != '\n')) return false;
    }
    return true;
}

static bool is_finite_file(const char *path) {
    Objects all = objects_read(path);
    for (int i = 0; i < all.count; i++) {
        const Object *o = &all.items[i];
        const float *values = (const float *)(const void *)o->data;
        for (int64_t j = 0; o->what == H5_TENSOR && o->element == H5_F32 && j < o->bytes / 4; j++)
            if (!isfinite(values[j])) return false;
        for (int j = 0; j < o->number_count; j++)
            if (o->numbers[j].is_float && !isfinite(o->numbers[j].real)) return false;
    }
    return true;
}

/* Everything that a command wrote, and what it printed. */
static bool is_finite(const Row *row, const Kept *changed, const char *out) {
    static const char *const written[] = {"checkpoint.h5", "best.h5", "quantized.h5", "logits.h5"};
    static const char *const words[] = {" nan", "-nan", " inf", "-inf"};
    bool shows_all = !strncmp(row->command, "inspect", 7);
    for (size_t i = 0; !shows_all && i < sizeof words / sizeof *words; i++)
        if (strstr(out, words[i])) return false;
    for (int i = 0; i < 4; i++) {
        const char *directories[] = {row->directory, "new"};
        for (int j = 0; j < 2; j++) {
            const char *path = format("%s/%s", directories[j], written[i]);
            if (!strcmp(path, changed->path) || !file_exists(path)) continue;
            if (!is_finite_file(path)) return false;
        }
    }
    return true;
}

static const char *last_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Of a configuration and what it does not fit to, the network or its record, the message may name
 * the other; that a range is missing is said of the run. */
static bool names_file(const char *err, const Kept *changed) {
    const char *name = last_name(changed->path);
    bool names_other = strstr(err, "configuration") || strstr(err, " was trained on ") ||
                       strstr(err, "logits.h5: ");
    return strstr(err, name) || strstr(err, "has no range") ||
           (ends_with(name, ".yaml") && names_other);
}

static Verdict judge(const Row *row, const Kept *changed, Result result, const char **more) {
    Tree *tree = tree_of(row->directory);
    if (result.signal == SIGALRM || result.signal == SIGPROF) return HUNG;
    bool is_crash = result.signal || (result.code != 0 && result.code != 1 && result.code != 2);
    is_crash |= strstr(result.err, "Sanitizer") || strstr(result.err, "runtime error: ");
    if (is_crash) return CRASHED;
    if (result.peak_bytes > peak_max) return SWOLLEN;
    if (!is_shown(result.out) || !is_shown(result.err)) return UNSHOWN;
    if (!result.code) return is_finite(row, changed, result.out) ? DONE : ENDLESS;
    if (!strstr(result.err, "nibble: ")) return MUTE;
    if (result.code == 2 && !names_file(result.err, changed)) return NAMELESS;
    *more = result.code == 2 ? tree_harm(tree, changed) : NULL;
    if (*more) return HARMED;
    return result.code == 2 ? REFUSED : FAILED;
}

/* ---- Cases ---- */

static int64_t counts[ROWS][VERDICTS];

static Kept *choose_file(const Row *row) {
    char words[1024];
    const char *names[FILES_MAX];
    int count = 0;
    assert_true(strlen(row->files) < sizeof words);
    strcpy(words, row->files);
    for (char *rest = NULL, *name = strtok_r(words, " ", &rest); name;
         name = strtok_r(NULL, " ", &rest))
        names[count++] = name;
    const char *path = format("%s/%s", row->directory, names[below(count)]);
    Kept *file = tree_file(tree_of(row->directory), path);
    if (!file) fail_msg("%s: no such file", path);
    return file;
}

static bool is_sealed(const Kept *file) {
    return file->bytes > ENVELOPE_TRAILER_BYTES &&
           !memcmp(file->content + file->bytes - ENVELOPE_TRAILER_BYTES, "NIBBLEH5", 8);
}

/* What was done to it. */
static const char *mutate(Kept *file) {
    if (!is_sealed(file)) return mutate_text(file->path, file->content, file->bytes);
    if (!below(4)) return mutate_sealed(file->path, file->content, file->bytes);
    if (!file->objects.items) file->objects = objects_read(file->path);
    const char *what = NULL;
    while (!what) what = mutate_objects(file->path, &file->objects);
    return what;
}

static Verdict case_run(uint64_t seed, int64_t number, bool tells) {
    chance = seed << 32 ^ (uint64_t)number;
    int which = (int)below(ROWS);
    const Row *row = &rows[which];
    Kept *file = choose_file(row);
    if (is_sealed(file) && !file->objects.items) file->objects = objects_read(file->path);
    ArenaMark mark = arena_mark(program_arena);
    const char *what = mutate(file), *more = NULL;
    const char *command = format(row->command, last_name(file->path));
    Result result = command_run(command);
    Verdict verdict = judge(row, file, result, &more);
    counts[which][verdict]++;
    if (verdict >= NAMELESS || tells)
        print_error("case %ld: %s (%s: %s): %s %s (exit code %d, signal %d)\n%s%.4000s\n",
                    (long)number, command, file->path, what, verdict_names[verdict],
                    more ? more : "", result.code, result.signal, tells ? result.out : "",
                    result.err);
    tree_restore(tree_of(row->directory));
    remove_tree("new");
    arena_rewind(program_arena, mark);
    return verdict;
}

static void counts_print(void) {
    int64_t all[VERDICTS] = {0};
    for (int i = 0; i < ROWS; i++) {
        printf("%-60.60s", rows[i].command);
        for (int j = 0; j < VERDICTS; j++) {
            printf(" %6ld", (long)counts[i][j]);
            all[j] += counts[i][j];
        }
        putchar('\n');
    }
    for (int j = 0; j < VERDICTS; j++) printf("%-40s %6ld\n", verdict_names[j], (long)all[j]);
}

static uint64_t wanted_seed = 1;
static int64_t wanted_first, wanted_count = SOME;

static void test_mutations(void **state) {
    (void)state;
    int64_t failures = 0;
    for (int64_t i = 0; i < wanted_count; i++)
        failures += case_run(wanted_seed, wanted_first + i, wanted_count == 1) >= NAMELESS;
    if (wanted_count > SOME) counts_print();
    assert_int_equal(failures, 0);
}

/* As it is, nothing is wrong with a directory. */
static void row_check(const Row *row) {
    Tree *tree = tree_of(row->directory);
    const char *command = format(row->command, last_name(choose_file(row)->path));
    Result result = command_run(command);
    assert_code(result, 0, command);
    tree_restore(tree);
    remove_tree("new");
}

static int setup(void **state) {
    if (!access("/dev/shm", W_OK)) strcpy(program_folder, "/dev/shm/nibble-XXXXXX");
    if (program_folder_enter(state)) return 1;
    directories_make();
    for (int i = 0; i < ROWS; i++) row_check(&rows[i]);
    return 0;
}

/* Libraries read these when they are loaded: threads that were started before a fork are lost. */
static void start_alone(char **words) {
    static const char *const names[] = {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"};
    const char *mark = "NIBBLE_TEST_ALONE";
    if (getenv(mark)) return;
    setenv(mark, "1", 1);
    for (int i = 0; i < 2; i++) setenv(names[i], "1", 1);
    execv("/proc/self/exe", words);
}

int main(int count, char **words) {
    start_alone(words);
    signal(SIGXFSZ, SIG_IGN);
    if (count > 1) wanted_count = strtoll(words[1], NULL, 10);
    if (count > 2) wanted_seed = strtoull(words[2], NULL, 10);
    if (count > 3) wanted_first = strtoll(words[3], NULL, 10);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mutations)};
    return cmocka_run_group_tests(tests, setup, program_folder_leave);
}
