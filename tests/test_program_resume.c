/* A run that was killed, stopped or paused and goes on ends as if nothing had happened: the same
 * checkpoint and best network byte for byte, and the same metrics but for times. */
#include "tests/program.h"

#include <sys/file.h>
#include <time.h>

#define IMAGES                                                                                     \
    "data: {kind: synthetic, height: 8, width: 8, classes: 4, train: 352, test: 40, "              \
    "validation: 64, batch: 16, eval_batch: 64, noise: 0.4, "                                      \
    "augment: {crop_padding: 1, flip: true}}\n"

/* Batch norms (frozen at the end), dropout, augmentation, averaged weights, accumulated gradients.
 */
#define CNN                                                                                        \
    "model: {kind: cnn, widths: [4, 6], hidden: 12, dropout: 0.2}\n" IMAGES                        \
    "optimizer: {kind: sgd, lr: 0.05, momentum: 0.9, nesterov: true, ema: 0.9}\n"                  \
    "quant: {bits: 4, rules: [{layers: 'first, last', bits: 8}], freeze_batch_norm: 0.7}\n"        \
    "train: {epochs: 12, accumulate: 2, checkpoint_every: 4, log_every: 3, shadow_every: 5}\n"
/* Observed ranges that freeze, fake-quant that starts late, a schedule with warm-up, clipping. */
#define OBSERVED                                                                                   \
    "model: {kind: cnn, widths: [4, 6], hidden: 0}\n" IMAGES                                       \
    "optimizer: {kind: adamw, lr: 0.005, clip_norm: 1}\n"                                          \
    "schedule: {kind: linear, warmup: 5}\n"                                                        \
    "quant: {bits: 4, weights: {quantizer: mse}, activations: {quantizer: percentile}, "           \
    "start: 0.2, freeze_observers: 0.6}\n"                                                         \
    "train: {epochs: 6, checkpoint_every: 5, log_every: 7, shadow_every: 3, "                      \
    "label_smoothing: 0.1}\n"
#define RESNET                                                                                     \
    "model: {kind: resnet, depth: 8, widths: [4, 4, 6]}\n" IMAGES                                  \
    "optimizer: {kind: sgd, lr: 0.05}\n"                                                           \
    "precision: f16\n"                                                                             \
    "schedule: {kind: step}\n"                                                                     \
    "quant: {bits: 4, activations: {quantizer: ema}}\n"                                            \
    "train: {epochs: 2, checkpoint_every: 6, log_every: 5}\n"
/* Saves at the ends of epochs only. Optimizer state of the first weight is in 8 bits. */
#define MLP                                                                                        \
    "model: {kind: mlp, widths: [72], dropout: 0.1}\n" IMAGES                                      \
    "optimizer: {kind: adam, lr: 0.005, ema: 0.8, state_bits: 8}\n"                                \
    "quant: {bits: 4, weights: {quantizer: lsq_plus, affine: true}, activations: "                 \
    "{quantizer: lsq_plus, affine: true}}\n"                                                       \
    "train: {epochs: 20, log_every: 4}\n"

/* Scales of two and three levels that learn, which start late. */
#define LOW                                                                                        \
    "model: {kind: cnn, widths: [4, 6], hidden: 12}\n" IMAGES                                      \
    "optimizer: {kind: sgd, lr: 0.05, momentum: 0.9, ema: 0.9}\n"                                  \
    "quant: {bits: 8, weights: {bits: 1.58, quantizer: paretoq}, rules: [{layers: hidden, "        \
    "weight_bits: 1}], start: 0.3}\n"                                                              \
    "train: {epochs: 6, checkpoint_every: 5, log_every: 4}\n"

/* A teacher, which is opened again each time. */
#define DISTILLED                                                                                  \
    "model: {kind: mlp, widths: [24], dropout: 0.1}\n" IMAGES                                      \
    "optimizer: {kind: sgd, lr: 0.05, ema: 0.8}\n"                                                 \
    "quant: {bits: 4}\n"                                                                           \
    "train: {epochs: 12, log_every: 4, checkpoint_every: 5, distill: {teacher: teacher}}\n"

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void sleep_seconds(double length) {
    struct timespec time = {.tv_sec = (time_t)length,
                            .tv_nsec = (long)(1e9 * (length - (double)(time_t)length))};
    nanosleep(&time, NULL);
}

/* Without the fields that hold times; they are the last of a line. */
static const char *timeless_metrics(const char *directory) {
    char *text = (char *)file_text(format("%s/metrics.jsonl", directory)), *out = text;
    for (const char *in = text; *in;) {
        if (!strncmp(in, ",\"seconds\":", 11)) {
            assert_non_null(strstr(in, ",\"samples_per_second\":"));
            in += strcspn(in, "}");
        }
        *out++ = *in++;
    }
    *out = 0;
    return text;
}

static void assert_same_run(const char *a, const char *b) {
    assert_files_equal(format("%s/checkpoint.h5", a), format("%s/checkpoint.h5", b));
    assert_files_equal(format("%s/best.h5", a), format("%s/best.h5", b));
    assert_string_equal(timeless_metrics(a), timeless_metrics(b));
    Json *left = json_of(file_text(format("%s/summary.json", a)));
    Json *right = json_of(file_text(format("%s/summary.json", b)));
    static const char *const same[] = {"steps",           "test.accuracy", "test.loss",
                                       "shadow.accuracy", "best.step",     "quantized_bytes"};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        assert_true(number_of(left, same[i]) == number_of(right, same[i]));
    json_free(left);
    json_free(right);
    assert_int_equal(files_with(b, ".tmp."), 0);
}

/* ---- SIGKILL ---- */

static const char *continue_command(const char *config, const char *directory) {
    if (file_exists(format("%s/config.yaml", directory)))
        return format("train --resume %s", directory);
    return format("train %s --out %s --force", config, directory);
}

/* Starts or goes on with the run and kills it at a random moment of what an uninterrupted run
 * takes. False: it was faster. */
static bool kill_once(const char *config, const char *directory, double whole) {
    pid_t child = program_start((Start){0}, continue_command(config, directory));
    sleep_seconds(whole * (double)rand() / RAND_MAX);
    kill(child, SIGKILL);
    Result result = program_wait(child);
    if (result.signal == SIGKILL) return true;
    assert_code(result, 0, "train (to be killed)");
    return false;
}

static void check_kills(const char *name, const char *config, int kills) {
    const char *path = format("%s.yaml", name), *whole_run = format("%s_whole", name);
    text_file(path, config);
    double started = seconds();
    run(0, "train %s --out %s", path, whole_run);
    double whole = seconds() - started;
    const char *directory = format("%s_killed", name);
    for (int done = 0; done < kills;) {
        if (kill_once(path, directory, whole)) {
            done++;
            continue;
        }
        assert_same_run(whole_run, directory);
        remove_tree(directory);
        whole /= 2; /* it was done before: the machine has become faster since */
    }
    run(0, "%s", continue_command(path, directory));
    assert_same_run(whole_run, directory);
}

static void test_kills_cnn(void **state) {
    (void)state;
    check_kills("cnn", CNN, 9);
}

static void test_kills_observed(void **state) {
    (void)state;
    check_kills("observed", OBSERVED, 6);
}

static void test_kills_resnet(void **state) {
    (void)state;
    check_kills("resnet", RESNET, 5);
}

static void test_kills_mlp(void **state) {
    (void)state;
    check_kills("mlp", MLP, 5);
}

static void test_kills_distilled(void **state) {
    (void)state;
    text_file("teacher.yaml", CNN);
    run(0, "train teacher.yaml --out teacher quant.bits=32 quant.rules=[] train.epochs=2");
    check_kills("distilled", DISTILLED, 5);
}

/* ---- Signals that ask ---- */

/* Waits until the run has logged something. */
static void wait_for_metrics(const char *directory) {
    const char *path = format("%s/metrics.jsonl", directory);
    struct stat status;
    for (int i = 0; i < 6000 && (stat(path, &status) || !status.st_size); i++) sleep_seconds(0.01);
}

static void check_signal(const char *directory, int number, int code) {
    pid_t child = program_start((Start){0}, format("train long.yaml --out %s", directory));
    wait_for_metrics(directory);
    kill(child, number);
    Result result = program_wait(child);
    assert_code(result, code, "train (to be stopped)");
    assert_has(result.err, format("nibble train --resume %s", directory));
    assert_true(file_exists(format("%s/checkpoint.h5", directory)));
    assert_false(file_exists(format("%s/summary.json", directory)));
    run(0, "inspect %s/checkpoint.h5", directory);
    run(0, "train --resume %s", directory);
    assert_same_run("long", directory);
}

static void test_signals(void **state) {
    (void)state;
    text_file("long.yaml", CNN);
    run(0, "train long.yaml --out long train.epochs=40");
    text_file("long.yaml", file_text("long/config.yaml"));
    check_signal("interrupted", SIGINT, 130);
    check_signal("terminated", SIGTERM, 143);
}

/* ---- Pauses, starts over, leftovers ---- */

static void check_pause(const char *name, const char *config, int first, int second) {
    const char *path = format("%s.yaml", name), *paused = format("%s_paused", name);
    text_file(path, config);
    run(0, "train %s --out %s_once", path, name);
    run(0, "train %s --out %s train.steps=%d", path, paused, first);
    Json *json = json_of(file_text(format("%s/summary.json", paused)));
    assert_true(number_of(json, "steps") == first);
    json_free(json);
    run(0, "eval %s --json", paused);
    run(0, "train --resume %s train.steps=%d", paused, second);
    run(0, "train --resume %s train.steps=0", paused);
    assert_same_run(format("%s_once", name), paused);
    /* and once more when there is nothing left to do */
    run(0, "train --resume %s", paused);
    assert_same_run(format("%s_once", name), paused);
}

/* The test set is used once: a run that is over stays as it is. */
static void test_nothing_left_to_do(void **state) {
    (void)state;
    static const char *const names[] = {"summary.json",       "metrics.jsonl", "checkpoint.h5",
                                        "checkpoint.prev.h5", "report.html",   "env.json"};
    text_file("over.yaml", MLP);
    for (int steps = 0; steps <= 5; steps += 5) { /* at its end, and where train.steps stopped it */
        run(0, "train over.yaml --out over --force train.steps=%d", steps);
        for (int i = 0; i < 6; i++)
            if (file_exists(format("over/%s", names[i])))
                file_copy(format("over/%s", names[i]), format("over%d", i));
        Result result = run(0, "train --resume over");
        assert_has(result.err, "nothing is left to do");
        assert_has(result.out, "run directory");
        for (int i = 0; i < 6; i++)
            if (file_exists(format("over/%s", names[i])))
                assert_files_equal(format("over/%s", names[i]), format("over%d", i));
    }
    remove("over/summary.json"); /* killed while it evaluated */
    Result untimed = run(0, "train --resume over");
    assert_lacks(untimed.out, "training images/s");
    Json *json = json_of(file_text("over/summary.json"));
    double seconds;
    assert_false(json_get_number(json, "train_seconds", &seconds));
    assert_false(json_get_number(json, "samples_per_second", &seconds));
    json_free(json);
}

/* What a resumed run measures is of its last process, and says so. */
static void test_times_are_of_the_steps_since(void **state) {
    (void)state;
    text_file("timed.yaml", MLP);
    assert_lacks(run(0, "train timed.yaml --out timed train.steps=3").out, "from step");
    Json *json = json_of(file_text("timed/summary.json"));
    assert_true(number_of(json, "timed_from_step") == 0);
    json_free(json);
    assert_has(run(0, "train --resume timed train.steps=7").out, "(from step 3 on)");
    json = json_of(file_text("timed/summary.json"));
    assert_true(number_of(json, "timed_from_step") == 3);
    json_free(json);
    assert_has(file_text("timed/report.html"), "<small>from step 3 on</small>");
}

static void test_train_steps_pauses(void **state) {
    (void)state;
    check_pause("pause_cnn", CNN, 5, 31); /* before the first of 12 epochs ends; in the fourth */
    check_pause("pause_mlp", MLP, 3, 36); /* at the end of an epoch of 18 */
    check_pause("pause_resnet", RESNET, 18, 20);
    check_pause("pause_low", LOW, 35, 60); /* fake-quant starts at step 33 */
}

static void test_killed_before_the_first_save(void **state) {
    (void)state;
    text_file("late.yaml", CNN);
    const char *settings = "train.checkpoint_every=1000000 train.log_every=1 train.epochs=30";
    run(0, "train late.yaml --out late_whole %s", settings);
    pid_t child = program_start((Start){0}, format("train late.yaml --out late %s", settings));
    wait_for_metrics("late");
    kill(child, SIGKILL);
    assert_int_equal(program_wait(child).signal, SIGKILL);
    assert_has(run(0, "inspect late/checkpoint.h5").out, "@step = 0");
    assert_has(run(2, "eval late").err, "late holds no trained network yet; train it first");
    assert_has(run(0, "train --resume late").err, "resuming after step 0");
    assert_same_run("late_whole", "late");
}

/* On another processor's inner loops the bits differ, and the user is told. */
static void test_another_instruction_set_is_told(void **state) {
    (void)state;
    text_file("isa.yaml", MLP);
    Start baseline = {.variable = "NIBBLE_ISA", .value = "baseline"};
    Result first = program_run(baseline, "train isa.yaml --out isa train.steps=3");
    assert_code(first, 0, "train on the baseline");
    assert_lacks(program_run(baseline, "train --resume isa train.steps=5").err, "goes on with");
    Result other = program_run((Start){.variable = "NIBBLE_ISA", .value = "avx2"},
                               "train --resume isa train.steps=7");
    bool has_avx2 = !strstr(other.err, "this processor cannot run it");
    if (has_avx2) assert_has(other.err, "made with kernels 'baseline' and goes on with 'avx2'");
}

static void test_leftovers_are_removed(void **state) {
    (void)state;
    text_file("left.yaml", MLP);
    run(0, "train left.yaml --out left train.steps=4");
    text_file("left/checkpoint.h5.tmp.1", "of a process number that is in use again");
    text_file("left/best.h5.tmp.99999999", "of a process that is gone");
    text_file("left/mine.tmp.1", "not ours");
    run(0, "train --resume left train.steps=6");
    assert_int_equal(files_with("left", ".tmp."), 1);
    assert_true(file_exists("left/mine.tmp.1"));
}

static void test_one_process_per_run(void **state) {
    (void)state;
    text_file("one.yaml", MLP);
    run(0, "train one.yaml --out one train.steps=4");
    int fd = open("one", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_has(run(2, "train --resume one train.steps=6").err, "another process is training");
    assert_has(run(2, "train one.yaml --out one --force").err, "another process is training");
    run(0, "eval one");
    close(fd);
    run(0, "train --resume one train.steps=6");
}

static void test_what_cannot_change(void **state) {
    (void)state;
    text_file("same.yaml", MLP);
    run(0, "train same.yaml --out same train.steps=4");
    assert_has(run(2, "train --resume same optimizer.lr=1").err,
               "'optimizer.lr=1' cannot change in a run; these can: model.path, "
               "model.cache, data.prefetch, data.class_names, data.changed, data.path, data.paths, "
               "data.test_path, data.tokenizer, train.steps, train.checkpoint_every, "
               "train.shadow_every, train.recompute, train.init, train.distill.teacher\n");
    /* a run that has weights takes no others, and does not say that it did */
    assert_has(run(2, "train --resume same train.init=elsewhere").err,
               "'train.init=elsewhere' cannot change in a run");
    assert_lacks(file_text("same/config.yaml"), "elsewhere");
    assert_has(run(2, "train --resume same train.steps=-4").err, "train.steps");
    run(0, "train --resume same data.prefetch=true train.checkpoint_every=2 train.steps=6");
}

int main(void) {
    srand(20);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kills_cnn),
        cmocka_unit_test(test_kills_observed),
        cmocka_unit_test(test_kills_resnet),
        cmocka_unit_test(test_kills_mlp),
        cmocka_unit_test(test_kills_distilled),
        cmocka_unit_test(test_signals),
        cmocka_unit_test(test_times_are_of_the_steps_since),
        cmocka_unit_test(test_train_steps_pauses),
        cmocka_unit_test(test_nothing_left_to_do),
        cmocka_unit_test(test_killed_before_the_first_save),
        cmocka_unit_test(test_another_instruction_set_is_told),
        cmocka_unit_test(test_leftovers_are_removed),
        cmocka_unit_test(test_one_process_per_run),
        cmocka_unit_test(test_what_cannot_change),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
