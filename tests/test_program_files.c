/* Things that are no files of ours in a run directory, and what a user may name outside of one. */
#include "tests/program.h"

#define MLP                                                                                        \
    "model: {kind: mlp, widths: [16]}\n" PROGRAM_DATA PROGRAM_OPTIMIZER "quant: {bits: 4}\n"       \
    "train: {epochs: 2, log_every: 4, checkpoint_every: 2}\n"

static const char foreign[] = "a line of another program\nand a second one\n";

/* A run that stands at step 6, alike in every test. */
static void paused_run(void) {
    remove_tree("run");
    text_file("mlp.yaml", MLP);
    run(0, "train mlp.yaml --out run train.steps=6");
}

/* What stands in place of a file, and what a message calls it. */
typedef struct Thing {
    const char *found;
    void (*make)(const char *path);
} Thing;

static void make_directory(const char *path) {
    assert_int_equal(mkdir(path, 0777), 0);
}

static void make_fifo(const char *path) {
    assert_int_equal(mkfifo(path, 0666), 0);
}

static void make_link(const char *path) {
    text_file("foreign", foreign);
    assert_int_equal(symlink("../foreign", path), 0);
}

static void make_dangling(const char *path) {
    assert_int_equal(symlink("../nowhere", path), 0);
}

static void make_zeros(const char *path) {
    assert_int_equal(symlink("/dev/zero", path), 0);
}

static const Thing things[] = {{"is a directory", make_directory},
                               {"is a FIFO", make_fifo},
                               {"is a symbolic link", make_link},
                               {"is a symbolic link", make_dangling},
                               {"is a symbolic link", make_zeros}};
enum { THINGS = sizeof things / sizeof *things };

static void put_thing(const Thing *thing, const char *path) {
    rename(path, "saved");
    thing->make(path);
}

/* The thing is as it was, and what a link leads to. */
static void take_thing(const Thing *thing, const char *path) {
    struct stat status;
    assert_int_equal(lstat(path, &status), 0);
    assert_int_equal(S_ISLNK(status.st_mode), strstr(thing->found, "link") != NULL);
    if (file_exists("foreign")) assert_string_equal(file_text("foreign"), foreign);
    assert_false(file_exists("nowhere"));
    assert_int_equal(remove(path), 0);
    rename("saved", path);
}

/* Every command that reads `file` refuses what stands there, and names both. */
static void check_refused(const char *file, const char *const *commands) {
    const char *path = format("run/%s", file);
    for (int i = 0; i < THINGS; i++)
        for (const char *const *command = commands; *command; command++) {
            put_thing(&things[i], path);
            Result result = run(2, "%s", *command);
            assert_has(result.err, path);
            assert_has(result.err, things[i].found);
            take_thing(&things[i], path);
        }
}

static void test_no_file_of_a_run(void **state) {
    (void)state;
    paused_run();
    run(0, "convert run");
    check_refused("metrics.jsonl", (const char *const[]){"train --resume run train.steps=0", NULL});
    check_refused("config.yaml", (const char *const[]){"verify run", "train --resume run",
                                                       "eval run", "convert run", NULL});
    check_refused("quantized.h5", (const char *const[]){"verify run", "predict run x", NULL});
    check_refused("logits.h5", (const char *const[]){"verify run", NULL});
    run(0, "train --resume run train.steps=0"); /* which nothing of this has hurt */
    run(0, "train mlp.yaml --out straight");
    assert_files_equal("run/checkpoint.h5", "straight/checkpoint.h5");
}

/* A description that cannot be read is no reason not to train; it is written anew. */
static void test_no_environment(void **state) {
    (void)state;
    paused_run();
    for (int i = 1; i < THINGS; i++) { /* a directory would be in the way of the new one */
        put_thing(&things[i], "run/env.json");
        Result result = run(0, "train --resume run train.steps=%d", 6 + i);
        assert_has(result.err, "warning: run/env.json");
        assert_has(result.err, things[i].found);
        if (file_exists("foreign")) assert_string_equal(file_text("foreign"), foreign);
        assert_false(file_exists("nowhere"));
        assert_has(file_text("run/env.json"), "\"version\"");
    }
}

/* A new run is not made where something stands, whatever it is. */
static void test_no_new_run_over_things(void **state) {
    (void)state;
    text_file("mlp.yaml", MLP);
    mkdir("used", 0777);
    static const char *const files[] = {"used/config.yaml", "used/checkpoint.h5"};
    for (int i = 0; i < THINGS; i++)
        for (int j = 0; j < 2; j++) {
            things[i].make(files[j]);
            assert_has(run(2, "train mlp.yaml --out used").err, "already holds a run");
            assert_int_equal(remove(files[j]), 0);
        }
    make_link("used/config.yaml");
    run(0, "train mlp.yaml --out used --force train.steps=1"); /* removes the link, not the file */
    assert_string_equal(file_text("foreign"), foreign);
}

static void test_no_report_of_other_files(void **state) {
    (void)state;
    paused_run();
    put_thing(&things[2], "run/report.html");
    run(0, "train --resume run train.steps=0");
    assert_string_equal(file_text("foreign"), foreign); /* the link was replaced */
    assert_has(file_text("run/report.html"), "<html");
}

/* The second name is that of a copy which somebody keeps. */
static void test_log_of_two_names(void **state) {
    (void)state;
    paused_run();
    assert_int_equal(link("run/metrics.jsonl", "kept.jsonl"), 0);
    const char *before = file_text("kept.jsonl");
    assert_has(run(2, "train --resume run train.steps=0").err,
               "run/metrics.jsonl is a file of 2 names");
    assert_string_equal(file_text("kept.jsonl"), before);
    unlink("kept.jsonl");
    assert_int_equal(link("run/checkpoint.h5", "kept.h5"), 0); /* is replaced, never written to */
    file_copy("kept.h5", "copy.h5");
    run(0, "train --resume run train.steps=0");
    assert_files_equal("kept.h5", "copy.h5");
}

/* A temporary file is always a new one. */
static void test_links_in_place_of_temporary_files(void **state) {
    (void)state;
    paused_run();
    text_file("foreign", foreign);
    pid_t child = fork();
    if (!child) { /* the program's own process number, which it cannot take for a dead one's */
        static const char *const files[] = {"checkpoint.h5", "env.json", "quantized.h5"};
        for (int i = 0; i < 3; i++)
            (void)!symlink("../foreign", format("run/%s.tmp.%ld", files[i], (long)getpid()));
        char words[] = "train --resume run train.steps=0";
        program_exec(&(Start){0}, words);
    }
    assert_code(program_wait(child), 0, "train over links");
    assert_string_equal(file_text("foreign"), foreign);
    run(0, "inspect run/checkpoint.h5");
}

static void test_users_may_name_links_and_pipes(void **state) {
    (void)state;
    paused_run();
    run(0, "convert run");
    assert_int_equal(symlink("run/quantized.h5", "model.h5"), 0);
    assert_int_equal(symlink("run", "latest"), 0);
    assert_int_equal(symlink("mlp.yaml", "link.yaml"), 0);
    assert_has(run(0, "inspect model.h5").out, "verified");
    run(0, "verify latest");
    run(0, "train link.yaml --out started train.init=latest train.steps=1");
    assert_int_equal(symlink("run/checkpoint.h5", "first.h5"), 0);
    run(0, "train mlp.yaml --out started --force train.init=first.h5 train.steps=1");
    assert_int_equal(mkfifo("pipe.yaml", 0666), 0);
    pid_t child = program_start((Start){0}, "plan pipe.yaml");
    text_file("pipe.yaml", MLP);
    assert_code(program_wait(child), 0, "plan pipe.yaml");
}

/* What is no summary of this checkpoint is made again. */
static void test_summary_that_cannot_be_read(void **state) {
    (void)state;
    paused_run();
    run(0, "train --resume run train.steps=0");
    assert_has(run(0, "train --resume run").err, "nothing is left to do");
    static const char *const texts[] = {"{", "{}", "{\"checkpoint_digest\": \"0\"}"};
    for (int i = 0; i < 3; i++) {
        text_file("run/summary.json", texts[i]);
        assert_has(run(0, "train --resume run").out, "test accuracy");
        assert_has(file_text("run/summary.json"), "\"steps\"");
    }
}

/* A run that cannot be looked at is not called absent. */
static void test_directory_out_of_reach(void **state) {
    (void)state;
    assert_int_equal(symlink("loop", "loop"), 0);
    static const char *const commands[] = {"eval", "convert", "verify", "train --resume"};
    for (int i = 0; i < 4; i++)
        assert_has(run(1, "%s loop", commands[i]).err, "cannot look at loop: Too many levels");
}

static void test_data_must_be_files(void **state) {
    (void)state;
    text_file("hdf5.yaml", "model: {kind: mlp, widths: [4]}\ndata: {kind: hdf5, path: pipe}\n");
    assert_int_equal(mkfifo("pipe", 0666), 0);
    assert_has(run(2, "train hdf5.yaml --out never").err,
               "pipe: not a regular file; say where the data lie with data.path=...");
    assert_has(run(2, "train hdf5.yaml --out never data.path=/dev/zero").err,
               "/dev/zero: not a regular file");
    idx_folder("images");
    unlink("images/train-images-idx3-ubyte");
    assert_int_equal(mkfifo("images/train-images-idx3-ubyte", 0666), 0);
    text_file("idx.yaml", "model: {kind: mlp, widths: [4]}\ndata: {kind: idx, path: images}\n");
    assert_has(run(2, "train idx.yaml --out never").err, "not a regular file");
    assert_false(file_exists("never"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_file_of_a_run),
        cmocka_unit_test(test_no_environment),
        cmocka_unit_test(test_no_new_run_over_things),
        cmocka_unit_test(test_no_report_of_other_files),
        cmocka_unit_test(test_log_of_two_names),
        cmocka_unit_test(test_links_in_place_of_temporary_files),
        cmocka_unit_test(test_users_may_name_links_and_pipes),
        cmocka_unit_test(test_summary_that_cannot_be_read),
        cmocka_unit_test(test_directory_out_of_reach),
        cmocka_unit_test(test_data_must_be_files),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
