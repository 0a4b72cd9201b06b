/* Training with a teacher (train.distill): that it changes what is learned, and nothing else; runs
 * that go on; and teachers that cannot be. */
#include "tests/program.h"

#define DATA(classes, side)                                                                        \
    "data: {kind: synthetic, height: " side ", width: " side ", classes: " classes                 \
    ", train: 352, test: 40, validation: 64, batch: 16, noise: 0.4, "                              \
    "augment: {crop_padding: 1, flip: true}}\n"
#define CNN     "model: {kind: cnn, widths: [4, 6], hidden: 12}\n"
#define TEACHER CNN DATA("4", "8") "optimizer: {kind: sgd, lr: 0.05, momentum: 0.9}\n"
#define STUDENT                                                                                    \
    "model: {kind: mlp, widths: [24], dropout: 0.1}\n" DATA(                                       \
        "4", "8") "optimizer: {kind: sgd, lr: 0.05, ema: 0.9}\n"                                   \
                  "quant: {bits: 4}\n"
#define LENGTH "epochs: 2, accumulate: 2, label_smoothing: 0.1, checkpoint_every: 5, log_every: 1"

static int files_make(void **state) {
    if (program_folder_enter(state)) return 1;
    text_file("teacher.yaml", TEACHER "train: {epochs: 2}\n");
    text_file("student.yaml", STUDENT "train: {" LENGTH ", distill: {teacher: teacher}}\n");
    text_file("alone.yaml", STUDENT "train: {" LENGTH "}\n");
    run(0, "train teacher.yaml --out teacher");
    run(0, "train teacher.yaml --out other seed=2 data.normalize=unit");
    return 0;
}

/* The losses of metrics.jsonl, a line each. */
static const char *losses_of(const char *directory) {
    const char *losses = "";
    for (const char *at = file_text(format("%s/metrics.jsonl", directory));
         (at = strstr(at, "\"loss\":")); at++)
        losses = format("%s%.*s\n", losses, (int)strcspn(at, ",}"), at);
    assert_true(*losses);
    return losses;
}

static void assert_same_run(const char *a, const char *b) {
    assert_files_equal(format("%s/checkpoint.h5", a), format("%s/checkpoint.h5", b));
    assert_files_equal(format("%s/best.h5", a), format("%s/best.h5", b));
    assert_string_equal(losses_of(a), losses_of(b));
}

/* ---- What is learned ---- */

/* With weight 0 every loss, and so every update, is that without a teacher, bit for bit. */
static void test_settings_count(void **state) {
    (void)state;
    Result result = run(0, "train student.yaml --out plain");
    assert_has(result.err, "the teacher is the network of step ");
    assert_has(result.err, " of teacher: weight 0.5, temperature 4\n");
    assert_lacks(run(0, "train alone.yaml --out alone").err, "teacher");
    run(0, "train student.yaml --out nothing train.distill.weight=0");
    run(0, "train student.yaml --out warm train.distill.temperature=1");
    run(0, "train student.yaml --out others train.distill.teacher=other");
    assert_string_equal(losses_of("nothing"), losses_of("alone"));
    assert_string_not_equal(losses_of("plain"), losses_of("alone"));
    assert_string_not_equal(losses_of("plain"), losses_of("warm"));
    assert_string_not_equal(losses_of("plain"), losses_of("others"));
    assert_lacks(file_text("alone/config.yaml"), "distill");
    assert_has(file_text("plain/config.yaml"), "/teacher\"\n    weight: 0.5\n    temperature: 4\n");
    assert_lacks(run(0, "inspect alone/checkpoint.h5").out, "teacher");
    assert_has(run(0, "inspect plain/checkpoint.h5").out, "teacher_digest");
    assert_has(run(0, "inspect plain/best.h5").out, "teacher_digest");
}

static void test_threads_and_halves(void **state) {
    (void)state;
    static const char *const precisions[] = {"f32", "f16", "bf16"};
    for (int i = 0; i < 3; i++)
        for (int threads = 1; threads <= 4; threads++) {
            const char *first = format("%s1", precisions[i]);
            const char *directory = format("%s%d", precisions[i], threads);
            run(0, "train student.yaml --out %s precision=%s --threads %d", directory,
                precisions[i], threads);
            assert_same_run(first, directory);
        }
    assert_string_not_equal(losses_of("f321"), losses_of("f161"));
}

static void test_what_comes_after_needs_no_teacher(void **state) {
    (void)state;
    run(0, "train teacher.yaml --out gone");
    run(0, "train student.yaml --out left train.distill.teacher=gone");
    remove_tree("gone");
    run(0, "eval left");
    run(0, "convert left");
    run(0, "verify left");
    run(0, "train alone.yaml --out next train.init=left");
}

static void test_plan_counts_it(void **state) {
    (void)state;
    Json *with = json_of(run(0, "plan student.yaml --json").out);
    Json *without = json_of(run(0, "plan alone.yaml --json").out);
    /* conv 1-4 and 4-6 of 3 x 3, hidden 24-12, classes 12-4: their parameters twice, with norms */
    double parameters = 9 * 4 + 9 * 4 * 6 + 24 * 12 + 12 * 4;
    assert_true(number_of(with, "peak.teacher") > 4 * 2 * parameters);
    assert_true(number_of(without, "peak.teacher") == 0);
    /* 64, 64, 1 and 1 outputs of 3 x 3, 3 x 3 x 4, 24 and 12 products, for 16 images, twice */
    double macs = 64 * 4 * 9 + 16 * 6 * 9 * 4 + 24 * 12 + 12 * 4;
    double more = number_of(with, "step.flops") - number_of(without, "step.flops");
    assert_true(more == 2 * 2 * 16 * macs);
    json_free(with);
    json_free(without);
    assert_has(run(0, "plan student.yaml").out, "the teacher's network");
    assert_lacks(run(0, "plan alone.yaml").out, "teacher");
}

/* ---- Going on ---- */

static void test_pause_and_resume(void **state) {
    (void)state;
    run(0, "train student.yaml --out paused train.steps=7");
    run(0, "train --resume paused train.steps=12");
    run(0, "train --resume paused train.steps=0");
    assert_same_run("plain", "paused");
}

static void test_teacher_may_move(void **state) {
    (void)state;
    run(0, "train teacher.yaml --out moving");
    run(0, "train student.yaml --out follows train.distill.teacher=moving train.steps=7");
    assert_int_equal(rename("moving", "moved"), 0);
    assert_has(run(2, "train --resume follows").err, "there is no such directory; say where");
    run(0, "train --resume follows train.distill.teacher=moved train.steps=0");
    assert_same_run("plain", "follows"); /* where it lies is not in the files */
    assert_has(file_text("follows/config.yaml"), "/moved\"\n");
}

static void test_another_teacher_is_refused(void **state) {
    (void)state;
    run(0, "train student.yaml --out true train.steps=7");
    file_copy("true/checkpoint.h5", "kept");
    Result result = run(2, "train --resume true train.distill.teacher=other train.steps=0");
    assert_has(result.err, "true/checkpoint.h5 was made with another teacher (digest ");
    assert_has(result.err, "than the network of other is now");
    assert_has(result.err, "say where that teacher lies (train.distill.teacher=DIR), or start a ");
    assert_files_equal("true/checkpoint.h5", "kept");
    assert_lacks(file_text("true/config.yaml"), "other");
    /* a run without one takes none */
    run(0, "train alone.yaml --out pure train.steps=7");
    assert_has(run(2, "train --resume pure train.distill.teacher=other train.steps=0").err,
               "was saved by another configuration");
}

/* ---- Teachers that cannot be ---- */

static void refuse(const char *settings, const char *part) {
    Result result = run(2, "train student.yaml --out refused %s", settings);
    assert_has(result.err, "train.distill.teacher");
    assert_has(result.err, part);
    assert_false(file_exists("refused"));
}

static void test_absent_and_untrained(void **state) {
    (void)state;
    refuse("train.distill.teacher=nowhere", "nowhere is not a run directory: there is no such");
    refuse("train.distill.teacher=teacher/best.h5", "best.h5 is not a run directory: it is a file");
    mkdir("empty", 0777);
    refuse("train.distill.teacher=empty", "empty is not a run directory: it has no config.yaml");
    mkdir("untrained", 0777);
    file_copy("teacher/config.yaml", "untrained/config.yaml");
    refuse("train.distill.teacher=untrained", "untrained holds no trained network yet; train it");
    run(0, "train teacher.yaml --out late quant.bits=4 quant.start=0.9 train.steps=5");
    refuse("train.distill.teacher=late", "late: its network is quantized, and '");
    assert_has(run(2, "train student.yaml --out refused train.distill.teacher=nowhere").err,
               "nibble: command line: train.distill.teacher=nowhere: train.distill.teacher: ");
    text_file("bad.yaml", STUDENT "train:\n  distill: {weight: 2}\n");
    Result result = run(2, "train bad.yaml --out refused");
    assert_has(result.err, "bad.yaml:6:12: missing setting 'train.distill.teacher'");
    assert_has(result.err, "bad.yaml:6:21: 'train.distill.weight' must be from 0 to 1, not 2");
}

static void test_other_images(void **state) {
    (void)state;
    text_file("large.yaml", CNN DATA("4", "12") "train: {epochs: 1}\n");
    text_file("many.yaml", CNN DATA("5", "8") "train: {epochs: 1}\n");
    run(0, "train large.yaml --out large");
    run(0, "train many.yaml --out many");
    refuse("train.distill.teacher=large", "large: the training images are 8x8x1 (bytes) in 4 "
                                          "classes, but the network of large/best.h5 "
                                          "was trained on 12x12x1 (bytes) in 4 classes");
    refuse(
        "train.distill.teacher=many",
        "many: the training images are 8x8x1 (bytes) in 4 classes, but the network of many/best.h5 "
        "was trained on 8x8x1 (bytes) in 5 classes");
}

static void test_the_run_itself(void **state) {
    (void)state;
    run(0, "train teacher.yaml --out self");
    file_copy("self/best.h5", "kept");
    Result result = run(2, "train student.yaml --out self --force train.distill.teacher=./self");
    assert_has(result.err, "train.distill.teacher: ./self is the run itself");
    assert_files_equal("self/best.h5", "kept");
    run(0, "train student.yaml --out own train.steps=7");
    assert_has(run(2, "train --resume own train.distill.teacher=own train.steps=0").err,
               "own is the run itself");
    /* but one may begin with its teacher's weights */
    run(0, "train teacher.yaml --out begun train.init=teacher train.distill.teacher=teacher "
           "train.steps=3");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_settings_count),
        cmocka_unit_test(test_threads_and_halves),
        cmocka_unit_test(test_what_comes_after_needs_no_teacher),
        cmocka_unit_test(test_plan_counts_it),
        cmocka_unit_test(test_pause_and_resume),
        cmocka_unit_test(test_teacher_may_move),
        cmocka_unit_test(test_another_teacher_is_refused),
        cmocka_unit_test(test_absent_and_untrained),
        cmocka_unit_test(test_other_images),
        cmocka_unit_test(test_the_run_itself),
    };
    return cmocka_run_group_tests(tests, files_make, program_folder_leave);
}
