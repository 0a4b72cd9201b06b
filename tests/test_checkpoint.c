/* Checkpoints whose digest holds, but which say what cannot be: each is refused with the file and
 * the name of what is wrong, and nothing of the run is touched. */
#include "tests/program.h"

#include <math.h>

#include "experiments/train/checkpoint.h"
#include "experiments/train/experiment.h"
#include "experiments/train/run.h"

#define CONFIG                                                                                     \
    "model: {kind: cnn, widths: [4]}\n" PROGRAM_DATA                                               \
    "optimizer: {kind: adam, lr: 0.01, ema: 0.9}\n"                                                \
    "quant: {bits: 4, weights: {quantizer: lsq}}\n"                                                \
    "train: {epochs: 2, checkpoint_every: 4}\n"

static Experiment whole; /* with what the run's checkpoint holds */
static Cursor progress;

enum { STEPS = 12 };

static void open_experiment(Experiment *e) {
    ExperimentConfig config;
    Error err = {0};
    if (!config_read("run/config.yaml", 0, NULL, program_arena, &config, &err) ||
        !experiment_open(&config, program_arena, e, &err))
        fail_msg("%s", err.message);
}

static int run_make(void **state) {
    if (program_folder_enter(state)) return 1;
    text_file("run.yaml", CONFIG);
    if (program_run((Start){0}, "train run.yaml --out run train.steps=12").code) return 1;
    file_copy("run/checkpoint.h5", "good.h5");
    open_experiment(&whole);
    Error err = {0};
    Checkpoint good;
    if (!checkpoint_open("good.h5", program_arena, &good, &err)) return 1;
    progress = good.cursor;
    bool ok = checkpoint_load(&good, whole.fixed_text, whole.model, whole.optimizer, &err);
    checkpoint_close(&good);
    return !ok;
}

static int run_leave(void **state) {
    experiment_close(&whole);
    return program_folder_leave(state);
}

static void save(const char *path, const DataFacts *facts, const Cursor *cursor) {
    Error err = {0};
    if (!checkpoint_save(path, NULL, whole.fixed_text, facts, cursor, whole.model, whole.optimizer,
                         &err))
        fail_msg("%s", err.message);
}

/* In the run's place, of which nothing may change. */
static void check_refused(const char *bad, const char *what) {
    static const char *const files[] = {"config.yaml",   "env.json",    "metrics.jsonl",
                                        "summary.json",  "report.html", "checkpoint.prev.h5",
                                        "checkpoint.h5", "best.h5"};
    enum { FILES = sizeof files / sizeof *files };
    file_copy(bad, "run/checkpoint.h5");
    for (int i = 0; i < FILES; i++) file_copy(format("run/%s", files[i]), format("was%d", i));
    Result result = run(2, "train --resume run train.steps=0");
    assert_has(result.err, "run/checkpoint.h5");
    assert_has(result.err, what);
    for (int i = 0; i < FILES; i++)
        assert_files_equal(format("run/%s", files[i]), format("was%d", i));
    file_copy("good.h5", "run/checkpoint.h5");
}

/* ---- Progress ---- */

typedef struct BadCount {
    size_t offset;
    int64_t value;
    const char *what;
} BadCount;

typedef struct BadNumber {
    size_t offset;
    double value;
    const char *what;
} BadNumber;

static void test_counts_out_of_range(void **state) {
    (void)state;
    static const BadCount rows[] = {
        {offsetof(Cursor, step), -5, "progress: step is -5"},
        {offsetof(Cursor, step), INT64_MAX, "progress: step is"},
        {offsetof(Cursor, step), 1000, "progress: step is 1000, but the training has 16 steps"},
        {offsetof(Cursor, metric_lines), -1, "progress: metric_lines is -1"},
        {offsetof(Cursor, metric_lines), 3 * STEPS + 1, "progress: metric_lines is 37"},
        {offsetof(Cursor, best_step), -1, "progress: best_step is -1"},
        {offsetof(Cursor, best_step), STEPS + 1, "progress: best_step is 13, expected 0 to 12"},
        {offsetof(Cursor, loss_scale.clean_steps), -1, "progress: clean_steps is -1"},
        {offsetof(Cursor, loss_scale.clean_steps), 2001, "progress: clean_steps is 2001"},
        {offsetof(Cursor, loss_scale.skipped), STEPS + 1, "progress: skipped_steps is 13"},
        {offsetof(Cursor, loss_scale.stuck), 11, "progress: stuck_steps is 11"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        Cursor cursor = progress;
        memcpy((char *)&cursor + rows[i].offset, &rows[i].value, sizeof rows[i].value);
        save("bad.h5", loader_facts(whole.loader), &cursor);
        check_refused("bad.h5", rows[i].what);
    }
}

static void test_numbers_out_of_range(void **state) {
    (void)state;
    static const BadNumber rows[] = {
        {offsetof(Cursor, best_score), NAN, "progress: best_score is nan"},
        {offsetof(Cursor, best_score), 1.5, "best_score is 1.5, but accuracy is 0 to 1"},
        {offsetof(Cursor, best_score), -0.5, "best_score is -0.5, but accuracy is 0 to 1"},
        {offsetof(Cursor, loss_average), INFINITY, "progress: loss_average is inf"},
        {offsetof(Cursor, loss_average), NAN, "progress: loss_average is nan"},
        {offsetof(Cursor, loss_scale.scale), 0, "progress: loss_scale is 0"},
        {offsetof(Cursor, loss_scale.scale), INFINITY, "progress: loss_scale is inf"},
        {offsetof(Cursor, loss_scale.scale), NAN, "progress: loss_scale is nan"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        Cursor cursor = progress;
        memcpy((char *)&cursor + rows[i].offset, &rows[i].value, sizeof rows[i].value);
        save("bad.h5", loader_facts(whole.loader), &cursor);
        check_refused("bad.h5", rows[i].what);
    }
}

static void test_a_digest_that_is_none(void **state) {
    (void)state;
    Cursor cursor = progress;
    strcpy(cursor.best_digest, "0123");
    save("bad.h5", loader_facts(whole.loader), &cursor);
    check_refused("bad.h5", "\"progress/best_digest\" is no digest");
}

/* ---- Data ---- */

static void test_facts_out_of_range(void **state) {
    (void)state;
    const float nan = NAN, zero = 0, one = 1;
    const DataFacts *good = loader_facts(whole.loader);
    DataFacts facts = *good;
    facts.mean = &nan;
    save("bad.h5", &facts, &progress);
    check_refused("bad.h5", "\"data/mean\": number 0 is nan");
    facts = *good;
    facts.deviation = &zero;
    save("bad.h5", &facts, &progress);
    check_refused("bad.h5", "\"data/deviation\": number 0 is 0, expected one that is finite and "
                            "above 0");
    facts.deviation = &one;
    strcpy(facts.labels_digest, "short");
    save("bad.h5", &facts, &progress);
    check_refused("bad.h5", "\"data/labels_digest\" is no digest");
}

/* ---- Parameters and the optimizer's state ---- */

/* In eval and convert, and as the start of another training, it is as bad. */
static void check_refused_everywhere(const char *bad, const char *what) {
    static const char *const commands[] = {"eval run", "convert run"};
    check_refused(bad, what);
    file_copy(bad, "run/checkpoint.h5");
    for (int i = 0; i < 2; i++) assert_has(run(2, "%s", commands[i]).err, what);
    assert_has(run(2, "train run.yaml --out other train.init=%s", bad).err, what);
    assert_false(file_exists("other"));
    assert_false(file_exists("run/quantized.h5"));
    file_copy("good.h5", "run/checkpoint.h5");
}

static void check_value(Tensor value, float to, const char *what) {
    float *last = tensor_f32(&value) + tensor_count(&value) - 1, was = *last;
    Cursor alone = progress; /* of a network that is its own best */
    alone.best_step = 0;
    *last = to;
    save("bad.h5", loader_facts(whole.loader), &alone);
    *last = was;
    check_refused_everywhere("bad.h5", what);
}

static void test_parameters_that_are_not_finite(void **state) {
    (void)state;
    const Model *model = whole.model;
    int scales = 0;
    for (int i = 0; i < model->param_count; i++) {
        const Param *p = model->params[i];
        check_value(p->value, i % 2 ? NAN : INFINITY, format("\"params/%s\": number", p->name));
        if (p->is_positive) check_value(p->value, -1, format("\"params/%s\": number", p->name));
        scales += p->is_positive;
    }
    assert_true(scales >= 4); /* of weights and edges, and variances */
}

static bool check_state(void *context, const char *name, Tensor value) {
    int *count = context;
    if (++*count % 5 != 1) return true; /* some of each kind */
    float *last = tensor_f32(&value) + tensor_count(&value) - 1, was = *last;
    *last = *count % 2 ? NAN : -INFINITY;
    save("bad.h5", loader_facts(whole.loader), &progress);
    *last = was;
    check_refused("bad.h5", format("\"optimizer/%s\": number", name));
    return true;
}

/* Mean squares and counts of updates. */
static bool check_below_zero(void *context, const char *name, Tensor value) {
    int *count = context;
    bool is_unsigned = !strcmp(name, "steps") || !strncmp(name, "mean_square/", 12);
    assert_int_equal(optimizer_is_unsigned(whole.optimizer, name), is_unsigned);
    if (!is_unsigned || ++*count % 3 != 1) return true;
    float *last = tensor_f32(&value) + tensor_count(&value) - 1, was = *last;
    *last = -1;
    save("bad.h5", loader_facts(whole.loader), &progress);
    *last = was;
    check_refused("bad.h5", format("\"optimizer/%s\": number", name));
    return true;
}

static void test_state_that_is_below_zero(void **state) {
    (void)state;
    int count = 0;
    assert_true(optimizer_visit(whole.optimizer, check_below_zero, &count));
    assert_true(count > 3);
}

static void test_state_that_is_not_finite(void **state) {
    (void)state;
    int count = 0;
    assert_true(optimizer_visit(whole.optimizer, check_state, &count));
    assert_true(count > 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts_out_of_range),
        cmocka_unit_test(test_numbers_out_of_range),
        cmocka_unit_test(test_a_digest_that_is_none),
        cmocka_unit_test(test_facts_out_of_range),
        cmocka_unit_test(test_parameters_that_are_not_finite),
        cmocka_unit_test(test_state_that_is_not_finite),
        cmocka_unit_test(test_state_that_is_below_zero),
    };
    return cmocka_run_group_tests(tests, run_make, run_leave);
}
