/* What of a run directory is used when files of it are lost, damaged or another's: nothing in
 * silence, nothing that a command could not mend. */
#include "tests/program.h"

#include "data/h5.h"

/* Noise enough that each of the first three epochs gives a better network. */
#define MLP                                                                                        \
    "model: {kind: mlp, widths: [16]}\n"                                                           \
    "data: {kind: synthetic, height: 8, width: 8, classes: 4, train: 320, test: 100, "             \
    "validation: 64, batch: 32, eval_batch: 50, noise: 1}\n" PROGRAM_OPTIMIZER                     \
    "quant: {bits: 4}\ntrain: {epochs: 4, log_every: 4, checkpoint_every: 2}\n"

/* Epochs of 8 steps: run stands at step 14, its checkpoints are of steps 14 and 12, its best
 * network of step 8. */
static const char *const files[] = {"config.yaml",  "env.json",     "metrics.jsonl",
                                    "summary.json", "report.html",  "checkpoint.prev.h5",
                                    "best.h5",      "checkpoint.h5"};
enum { FILES = sizeof files / sizeof *files };

static void copy_run(const char *from, const char *to) {
    mkdir(to, 0777);
    for (int i = 0; i < FILES; i++) {
        const char *path = format("%s/%s", from, files[i]), *copy = format("%s/%s", to, files[i]);
        struct stat status;
        if (!lstat(path, &status) && S_ISREG(status.st_mode))
            file_copy(path, copy);
        else
            unlink(copy);
    }
}

static void new_run(void) {
    remove_tree("run");
    copy_run("paused", "run");
}

static int runs_make(void **state) {
    if (program_folder_enter(state)) return 1;
    text_file("mlp.yaml", MLP);
    run(0, "train mlp.yaml --out paused train.steps=14");
    run(0, "train mlp.yaml --out whole");
    return 0;
}

/* Every file that is regular, or was. */
static void assert_same_files(const char *a, const char *b) {
    for (int i = 0; i < FILES; i++) {
        const char *left = format("%s/%s", a, files[i]), *right = format("%s/%s", b, files[i]);
        struct stat one, other;
        bool has_one = !lstat(left, &one) && S_ISREG(one.st_mode);
        bool has_other = !lstat(right, &other) && S_ISREG(other.st_mode);
        assert_int_equal(has_one, has_other);
        if (has_one) assert_files_equal(left, right);
    }
}

/* Nothing of the run changes. */
static Result unchanged(int code, const char *command) {
    remove_tree("before");
    copy_run("run", "before");
    Result result = run(code, "%s", command);
    assert_same_files("run", "before");
    return result;
}

static void check_ends_as_ever(void) {
    run(0, "train --resume run train.steps=0");
    assert_files_equal("run/checkpoint.h5", "whole/checkpoint.h5");
    assert_files_equal("run/best.h5", "whole/best.h5");
    assert_int_equal(files_with("run", ".tmp."), 0);
}

/* ---- The previous checkpoint ---- */

/* Of checkpoint.h5, which is lost. */
static void check_previous_is_taken(const char *reason) {
    static const char *const readers[] = {
        "eval run", "convert run",
        "train mlp.yaml --out other --force train.steps=1 train.init=run"};
    const char *taken = "run/checkpoint.prev.h5 of step 12 is taken instead";
    for (int i = 0; i < 3; i++) {
        Result result = unchanged(0, readers[i]);
        assert_has(result.err, reason);
        assert_has(result.err, taken);
    }
    if (file_exists("run/checkpoint.h5")) {
        assert_has(unchanged(2, "inspect run/checkpoint.h5").err, reason);
        assert_has(unchanged(2, "train mlp.yaml --out never train.init=run/checkpoint.h5").err,
                   reason);
        assert_false(file_exists("never"));
    }
    Result result = run(0, "train --resume run train.steps=13");
    assert_has(result.err, reason);
    assert_has(result.err, taken);
    assert_has(result.err, "resuming after step 12");
    assert_files_equal("run/checkpoint.prev.h5", "paused/checkpoint.prev.h5"); /* still that */
    assert_has(run(0, "inspect run/checkpoint.h5").out, "@step = 13");
    assert_lacks(run(0, "eval run").err, "is taken instead");
    check_ends_as_ever();
}

static void foreign_file(const char *path) {
    Error err = {0};
    H5Writer *w = h5_write_begin(path, 0, program_arena, &err);
    h5_write_int(w, "", "format_version", 1);
    assert_true(h5_write_export(w, &err));
}

static void test_a_lost_checkpoint(void **state) {
    (void)state;
    size_t bytes;
    unsigned char *content = file_read("paused/checkpoint.h5", &bytes);
    const char *latest = "run/checkpoint.h5";
    new_run();
    remove(latest);
    check_previous_is_taken("run/checkpoint.h5 is missing");
    for (size_t i = 0; i < 4; i++) { /* a bit somewhere */
        size_t at = i * (bytes - 41) / 3;
        new_run();
        content[at] ^= (unsigned char)(1 << i);
        file_write(latest, content, bytes);
        content[at] ^= (unsigned char)(1 << i);
        check_previous_is_taken("run/checkpoint.h5: damaged");
    }
    new_run();
    file_write(latest, content, bytes / 2);
    check_previous_is_taken("run/checkpoint.h5: has no digest at its end: cut short");
    new_run();
    file_write(latest, "", 0);
    check_previous_is_taken("run/checkpoint.h5: cut short");
    new_run();
    foreign_file(latest);
    check_previous_is_taken("not a file of ours");
}

/* The damaged one is overwritten at once; who is killed then has two good ones. */
static void test_a_failing_disk_leaves_the_good_one(void **state) {
    (void)state;
    new_run();
    text_file("run/checkpoint.h5", "damaged");
    Result result = program_run((Start){.file_bytes = 3000}, "train --resume run train.steps=0");
    assert_code(result, 1, "train with at most 3000 bytes in a file");
    assert_files_equal("run/checkpoint.prev.h5", "paused/checkpoint.prev.h5");
    check_ends_as_ever();
}

/* ---- No checkpoint at all ---- */

static const char no_checkpoint[] = "run has no checkpoint to go on from; start over with 'nibble "
                                    "train run/config.yaml --out run --force'";
static const char from_best[] = ", or from its best network: --out NEW train.init=run/best.h5";

static void check_nothing_to_go_on_from(const char *reason, bool has_best) {
    static const char *const commands[] = {"train --resume run", "eval run", "convert run"};
    for (int i = 0; i < 3; i++) {
        Result result = unchanged(2, commands[i]);
        assert_has(result.err, reason);
        assert_has(result.err, no_checkpoint);
        (has_best ? assert_has : assert_lacks)(result.err, from_best);
    }
}

static void test_only_the_best_network_is_left(void **state) {
    (void)state;
    new_run();
    remove("run/checkpoint.h5");
    remove("run/checkpoint.prev.h5");
    check_nothing_to_go_on_from("run/checkpoint.h5 is missing; run/checkpoint.prev.h5 is missing",
                                true);
    remove("run/metrics.jsonl");
    check_nothing_to_go_on_from("is missing", true);
    run(0, "train run/config.yaml --out new --force train.steps=0 train.init=run/best.h5");
    run(0, "train run/config.yaml --out run --force train.steps=0"); /* as the message says */
    assert_files_equal("run/checkpoint.h5", "whole/checkpoint.h5");
}

static void test_only_the_log_is_left(void **state) {
    (void)state;
    new_run();
    remove("run/checkpoint.h5");
    remove("run/checkpoint.prev.h5");
    remove("run/best.h5");
    check_nothing_to_go_on_from("is missing", false);
    text_file("run/metrics.jsonl", ""); /* and so it never saved */
    check_ends_as_ever();
}

static void test_damaged_and_no_other(void **state) {
    (void)state;
    new_run();
    text_file("run/checkpoint.h5", "damaged");
    text_file("run/checkpoint.prev.h5", "damaged as well");
    check_nothing_to_go_on_from("run/checkpoint.h5: cut short: 7 bytes, at least 40 expected; "
                                "run/checkpoint.prev.h5: cut short",
                                true);
    remove("run/checkpoint.prev.h5");
    remove("run/best.h5");
    remove("run/metrics.jsonl");
    check_nothing_to_go_on_from("run/checkpoint.h5: cut short", false);
}

static void test_a_new_run_over_what_is_left(void **state) {
    (void)state;
    for (int i = 0; i < FILES; i++) {
        remove_tree("run");
        mkdir("run", 0777);
        file_copy(format("paused/%s", files[i]), format("run/%s", files[i]));
        assert_has(unchanged(2, "train mlp.yaml --out run").err,
                   format("run already holds a run (%s)", files[i]));
    }
}

/* ---- What cannot be looked at ---- */

static void make_directory(const char *path) {
    assert_int_equal(mkdir(path, 0777), 0);
}

static void make_fifo(const char *path) {
    assert_int_equal(mkfifo(path, 0666), 0);
}

static void make_link(const char *path) {
    file_copy("paused/checkpoint.h5", "target.h5"); /* even to a good one */
    assert_int_equal(symlink("../target.h5", path), 0);
}

static void make_dangling(const char *path) {
    assert_int_equal(symlink("../nowhere", path), 0);
}

static void check_not_looked_at(const char *file, const char *const *commands) {
    static void (*const things[])(const char *path) = {make_directory, make_fifo, make_link,
                                                       make_dangling};
    for (int i = 0; i < 4; i++)
        for (int j = 0; commands[j]; j++) {
            const char *path = format("run/%s", file);
            remove(path);
            things[i](path);
            assert_has(unchanged(2, commands[j]).err, path);
            if (i == 2) assert_files_equal("target.h5", "paused/checkpoint.h5");
            assert_false(file_exists("nowhere"));
            assert_int_equal(remove(path), 0);
        }
}

static void test_what_cannot_be_looked_at(void **state) {
    (void)state;
    static const char *const all[] = {"train --resume run train.steps=0", "eval run", "convert run",
                                      "train mlp.yaml --out never train.init=run", NULL};
    const char *const resume[] = {all[0], NULL};
    static const char *const at[] = {"checkpoint.h5", "best.h5"};
    for (int i = 0; i < 2; i++) {
        new_run();
        check_not_looked_at(at[i], all);
    }
    new_run();
    check_not_looked_at("metrics.jsonl", resume);
    new_run();
    check_not_looked_at("summary.json", resume);
    new_run();
    check_not_looked_at("checkpoint.prev.h5", resume);
    remove("run/checkpoint.h5");
    check_not_looked_at("checkpoint.prev.h5", all);
    assert_false(file_exists("never"));
}

/* ---- The best network ---- */

static double best_of(const char *directory, const char *name) {
    Json *json = json_of(file_text(format("%s/summary.json", directory)));
    double value = number_of(json, format("best.%s", name));
    json_free(json);
    return value;
}

static double best_score_of(const char *directory) {
    return best_of(directory, "validation_accuracy");
}

/* best.h5 is not the one that checkpoint.h5 names. */
static void check_best_is_lost(const char *reason) {
    static const char *const readers[] = {"eval run --json", "convert run"};
    const char *used = "the network of run/checkpoint.h5, of step 14, is used instead";
    Result result = {0};
    for (int i = 0; i < 2; i++) {
        result = unchanged(0, readers[i]);
        assert_has(result.err, reason);
        assert_has(result.err, used);
    }
    result = run(0, "train --resume run train.steps=15");
    assert_has(result.err, reason);
    assert_has(result.err, "from here on the best network is looked for anew");
    assert_lacks(file_text("run/summary.json"), "best"); /* there is none */
    run(0, "train --resume run train.steps=16");         /* the end of an epoch */
    assert_true(best_of("run", "step") == 16);
    assert_lacks(run(0, "eval run").err, "is used instead");
}

static void test_the_best_network_is_lost(void **state) {
    (void)state;
    new_run();
    Result result = run(0, "eval run");
    assert_lacks(result.err, "warning");
    remove("run/best.h5");
    check_best_is_lost("run/best.h5 is missing");
    new_run();
    text_file("run/best.h5", "damaged");
    check_best_is_lost("run/best.h5: cut short");
    new_run();
    run(0, "train mlp.yaml --out second --force seed=2 train.steps=14");
    file_copy("second/best.h5", "run/best.h5");
    check_best_is_lost("run/best.h5 is a network of step 8, not the one of step 8 that the "
                       "checkpoint of step 14 names");
    new_run();
    file_copy("run/checkpoint.h5", "run/best.h5");
    check_best_is_lost("run/best.h5 is a network of step 14, not the one of step 8");
}

/* It came to the disk, and the checkpoint that names it did not. */
static void test_killed_between_best_and_checkpoint(void **state) {
    (void)state;
    double best = best_score_of("whole");
    assert_true(best_of("whole", "step") > 14);
    new_run();
    file_copy("whole/best.h5", "run/best.h5");
    assert_has(unchanged(0, "eval run").err, "is used instead");
    check_ends_as_ever();
    assert_true(best_score_of("run") == best);
    remove_tree("run"); /* before any was named */
    run(0, "train mlp.yaml --out run train.steps=6");
    file_copy("whole/best.h5", "run/best.h5");
    assert_lacks(unchanged(0, "eval run").err, "is used instead");
    check_ends_as_ever();
}

/* While the run is under way, another takes its place. */
static void test_the_summary_is_of_the_best_network_or_says_of_which(void **state) {
    (void)state;
    remove_tree("run");
    copy_run("whole", "run");
    remove("run/summary.json"); /* killed while it evaluated */
    file_copy("paused/best.h5", "run/best.h5");
    Result result = run(0, "train --resume run");
    assert_has(result.err, "run/best.h5 is a network of step 8, not the one of step");
    assert_lacks(file_text("run/summary.json"), "best");
    copy_run("whole", "run");
    remove("run/summary.json");
    run(0, "train --resume run");
    assert_true(best_score_of("run") == best_score_of("whole"));
}

/* ---- Checkpoints of the version before, without the digest ---- */

static void copy_object(const H5Reader *r, H5Writer *w, const char *name) {
    H5Info info;
    Error err = {0};
    H5Number *numbers;
    const char **names;
    int count;
    if (!strcmp(name, "progress/best_digest")) return;
    assert_true(h5_read_info(r, name, &info, &err));
    void *values = arena_zalloc(program_arena, (size_t)info.bytes + 1);
    if (info.what == H5_TEXT) h5_write_text(w, name, h5_read_text(r, name, program_arena, &err));
    if (info.what == H5_TENSOR) {
        assert_true(h5_read_tensor(r, name, info.element, info.shape, values, &err));
        h5_write_tensor(w, name, info.element, info.shape, values);
    }
    if (info.what != H5_GROUP) return;
    assert_true(h5_read_numbers(r, name, program_arena, &numbers, &count, &err));
    for (int i = 0; i < count; i++) {
        bool is_version = !strcmp(numbers[i].name, "format_version");
        if (numbers[i].is_float)
            h5_write_float(w, name, numbers[i].name, numbers[i].real);
        else
            h5_write_int(w, name, numbers[i].name, is_version ? 2 : numbers[i].integer);
    }
    assert_true(h5_read_names(r, name, program_arena, &names, &count, &err));
    for (int i = 0; i < count; i++)
        copy_object(r, w, *name ? format("%s/%s", name, names[i]) : names[i]);
}

static void make_second_version(const char *path) {
    Error err = {0};
    H5Reader *r = h5_read_open(path, program_arena, &err);
    H5Writer *w = h5_write_begin(path, 0, program_arena, &err);
    assert_true(r && w);
    copy_object(r, w, "");
    if (!h5_write_commit(w, NULL, &err)) fail_msg("%s", err.message);
}

static void test_second_version_tells_by_the_step(void **state) {
    (void)state;
    new_run();
    make_second_version("run/checkpoint.h5");
    make_second_version("run/checkpoint.prev.h5");
    make_second_version("run/best.h5");
    assert_lacks(unchanged(0, "eval run").err, "is used instead");
    check_ends_as_ever(); /* a later network is the best */
    new_run();
    make_second_version("run/checkpoint.h5");
    assert_has(unchanged(0, "eval run").err, "is used instead"); /* best.h5 is of a later version */
    file_copy("run/checkpoint.h5", "run/best.h5");
    assert_has(unchanged(0, "eval run").err, "run/best.h5 is a network of step 14, not the one of");
}

int main(void) {
    signal(SIGXFSZ, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_lost_checkpoint),
        cmocka_unit_test(test_a_failing_disk_leaves_the_good_one),
        cmocka_unit_test(test_only_the_best_network_is_left),
        cmocka_unit_test(test_only_the_log_is_left),
        cmocka_unit_test(test_damaged_and_no_other),
        cmocka_unit_test(test_a_new_run_over_what_is_left),
        cmocka_unit_test(test_what_cannot_be_looked_at),
        cmocka_unit_test(test_the_best_network_is_lost),
        cmocka_unit_test(test_killed_between_best_and_checkpoint),
        cmocka_unit_test(test_the_summary_is_of_the_best_network_or_says_of_which),
        cmocka_unit_test(test_second_version_tells_by_the_step),
    };
    return cmocka_run_group_tests(tests, runs_make, program_folder_leave);
}
