/* Tasks: every row records and learns, scores are right, and a run goes by what its task says. */
#include "tests/program.h"

#include <math.h>

#include "core/parallel.h"
#include "experiments/report/summary.h"
#include "experiments/train/run.h"
#include "experiments/train/trainer.h"

static void open_sample(const Task *task, const char *more, Experiment *e) {
    ExperimentConfig config;
    Error err = {0};
    const char *text = format("%s%s", task->sample, more);
    if (!config_read_text(text, task->name, 0, NULL, program_arena, &config, &err) ||
        !experiment_open(&config, program_arena, e, &err))
        fail_msg("%s: %s", task->name, err.message);
}

static void every_row_says_what_people_read(void **state) {
    (void)state;
    assert_non_null(tasks[0]);
    for (int i = 0; tasks[i]; i++) {
        const Task *task = tasks[i];
        assert_true(task->name && task->help && task->rows && task->samples && task->sample);
        assert_in_range(task->score_count, 1, TASK_SCORES_MAX);
        for (int j = 0; j < task->score_count; j++) {
            const Score *score = &task->scores[j];
            assert_true(score->key && score->name && score->short_name && score->unit);
            assert_true(score->points_unit && score->factor > 0);
        }
    }
}

static double gradient_of(const Param *p) {
    double sum = 0;
    for (int64_t i = 0; i < tensor_count(&p->value); i++) sum += fabs((double)p->grad[i]);
    return sum;
}

/* The loss in training, the output else; a gradient for every Param. */
static void every_row_s_sample_records(void **state) {
    (void)state;
    for (int i = 0; tasks[i]; i++) {
        Experiment e;
        double losses[2];
        open_sample(tasks[i], "", &e);
        assert_ptr_equal(e.task, tasks[i]);
        TaskStep step = {.e = &e, .batch = loader_batch(e.loader, LOADER_TRAIN, 0, 0)};
        model_clear_grads(e.model);
        Var *loss = tape_run(e.tape, trainer_mode(&e), task_record, &step);
        assert_int_equal(e.tape->error.code, ERROR_NONE);
        assert_ptr_equal(loss, step.loss);
        assert_true(isfinite(var_f32(loss)[0]) && var_f32(loss)[0] > 0);
        tape_backward(e.tape, loss, 1);
        for (int j = 0; j < e.model->param_count; j++)
            if (e.model->params[j]->grad) assert_true(gradient_of(e.model->params[j]) > 0);
        for (int k = 0; k < 2; k++) { /* the loss is the same with outputs and without */
            step.wants_outputs = k;
            Var *output = tape_run(e.tape, evaluate_mode(false), task_record, &step);
            assert_ptr_equal(output, step.output);
            losses[k] = (double)var_f32(step.loss)[0];
        }
        assert_true(fabs(losses[0] - losses[1]) < 1e-5 * losses[0]);
        assert_int_equal(shape_last(step.output->value.shape), shape_last(e.model->output));
        assert_true(tasks[i]->count_samples(&step.batch) > 0);
        experiment_close(&e);
    }
}

/* The loss falls, and scores are better than before. */
static void every_row_s_sample_learns(void **state) {
    (void)state;
    for (int i = 0; tasks[i]; i++) {
        Experiment e;
        Error err = {0};
        open_sample(tasks[i], "optimizer: {kind: adam, lr: 0.01}\ntrain: {epochs: 10}\n", &e);
        Evaluation before = {0}, after = {0};
        assert_true(evaluate(&e, LOADER_TEST, false, &before, &err));
        double loss;
        for (int64_t step = 0; step < trainer_total_steps(&e); step++)
            assert_true(trainer_step(&e, step, &loss, &err));
        assert_true(evaluate(&e, LOADER_TEST, false, &after, &err));
        assert_true(after.loss < before.loss);
        assert_true(task_is_better(e.task, after.scores[0], before.scores[0]));
        experiment_close(&e);
    }
}

/* Of two batches, 3 and 1 images: 2 of 4 are right; the losses count by images. */
static void classify_counts_what_is_right(void **state) {
    (void)state;
    static float logits[][3] = {{1, 2, 0}, {3, 1, 2}, {0, 1, 2}, {0, 5, 1}};
    static const int32_t labels[] = {1, 2, 2, 0};
    static float losses[] = {2, 6};
    int64_t confusion[9] = {0};
    Experiment e = {.task = &task_classify};
    TaskTally tally = {.confusion = confusion};
    Tape *t = tape_new(program_arena);
    tape_begin(t, TAPE_EVALUATION);
    for (int i = 0; i < 2; i++) {
        int64_t first = 3 * i, count = i ? 1 : 3;
        static const Column column = {"labels", ELEMENT_I32, SHAPE_SCALAR};
        TaskStep step = {.e = &e, .batch = batch_sketch(&column, 1, count)};
        step.batch.data[0] = labels + first;
        Tensor output = {.dtype = DTYPE_F32, .shape = SHAPE(count, 3), .data = logits[first]};
        Tensor loss = {.dtype = DTYPE_F32, .shape = SHAPE_SCALAR, .data = &losses[i]};
        step.output = tape_constant(t, output);
        step.loss = tape_constant(t, loss);
        task_tally(&step, &tally);
    }
    tape_free(t);
    double scores[TASK_SCORES_MAX];
    task_classify.score(&tally, scores);
    assert_true(scores[0] == 0.5 && tally.samples == 4 && tally.loss == 3 * 2 + 6);
    static const int64_t expected[9] = {
        [0 * 3 + 1] = 1, [1 * 3 + 1] = 1, [2 * 3 + 0] = 1, [2 * 3 + 2] = 1};
    assert_memory_equal(confusion, expected, sizeof expected);
}

static void the_task_follows_from_what_the_data_hold(void **state) {
    (void)state;
    static const Column held[] = {
        {"labels", ELEMENT_I32}, {"weights", ELEMENT_F32}, {"images", ELEMENT_F32}};
    static const Column text[] = {{"tokens", ELEMENT_I32}, {"images", ELEMENT_I32}};
    const Task *task = NULL;
    Error err = {0};
    assert_true(task_choose(held, 3, &task, &err));
    assert_ptr_equal(task, &task_classify);
    assert_false(task_choose(text, 2, &task, &err));
    assert_int_equal(err.code, ERROR_INPUT);
    assert_non_null(strstr(err.message, "the data hold tokens i32, images i32, and no task"));
    assert_non_null(strstr(err.message, "'classify' reads images f32, labels i32; set data.kind"));
}

static double training_loss(const char *settings, double *evaluated) {
    Experiment e;
    Error err = {0};
    open_sample(&task_classify, settings, &e);
    TaskStep step = {.e = &e, .batch = loader_batch(e.loader, LOADER_TRAIN, 0, 0)};
    double loss = (double)var_f32(tape_run(e.tape, trainer_mode(&e), task_record, &step))[0];
    Evaluation evaluation = {0};
    assert_true(evaluate(&e, LOADER_TEST, false, &evaluation, &err));
    *evaluated = evaluation.loss;
    experiment_close(&e);
    return loss;
}

static void labels_are_smoothed_in_training_alone(void **state) {
    (void)state;
    double plain, smoothed;
    assert_true(training_loss("", &plain) !=
                training_loss("train: {label_smoothing: 0.3}\n", &smoothed));
    assert_true(plain == smoothed);
}

/* ---- A run of a task that nibble does not have: a score of which less is better ---- */

enum { EPOCHS = 4, EPOCH_STEPS = 6, TOKENS = 7 };
static const double guesses[EPOCHS + 1] = {50, 20, 30, 40, 25}; /* by epoch; of the test set */
static int evaluations;

static int64_t count_tokens(const Batch *batch) {
    return TOKENS * batch->count;
}

static void guess(const TaskTally *tally, double scores[]) {
    assert_true(tally->samples % TOKENS == 0);
    scores[0] = guesses[evaluations++];
    scores[1] = 0.25;
}

static Task made_up(bool is_lower_better) {
    Task task = task_classify;
    task.rows = "sequences";
    task.samples = "tokens";
    task.scores[0] =
        (Score){"perplexity", "perplexity", "ppl", "", "", 1, 1, is_lower_better, 1, INFINITY};
    task.scores[1] = (Score){"hits", "share of hits", "hit", "%", "points", 100, 1, false, 0, 1};
    task.score_count = 2;
    task.has_confusion = false;
    task.count_samples = count_tokens;
    task.score = guess;
    return task;
}

static Json *run_made_up(const Task *task, const char *directory, const char *settings) {
    Experiment e;
    Error err = {0};
    RunClaim claim;
    evaluations = 0;
    open_sample(task, format("train: {epochs: %d}\n%s", EPOCHS, settings), &e);
    e.task = task;
    assert_true(run_create(directory, false, &claim, &err));
    if (!trainer_run(&e, directory, false, &err)) fail_msg("%s", err.message);
    assert_int_equal(e.samples, EPOCHS * EPOCH_STEPS * 5 * TOKENS);
    run_release(&claim);
    experiment_close(&e);
    return json_read_file(run_path(program_arena, directory, RUN_SUMMARY), &err);
}

static double number(const Json *json, const char *path) {
    double value = NAN;
    json_get_number(json, path, &value);
    return value;
}

static void best_is_what_the_task_calls_better(void **state) {
    (void)state;
    Task lower = made_up(true), higher = made_up(false);
    Json *json = run_made_up(&lower, "lower", "");
    assert_true(number(json, "best.step") == 2 * EPOCH_STEPS);
    assert_true(number(json, "best.validation_perplexity") == 20);
    json_free(json);
    json = run_made_up(&higher, "higher", "");
    assert_true(number(json, "best.step") == 1 * EPOCH_STEPS);
    assert_true(number(json, "best.validation_perplexity") == 50);
    json_free(json);
}

static void files_and_report_use_the_task_s_scores_and_words(void **state) {
    (void)state;
    Task task = made_up(true);
    Json *json = run_made_up(&task, "words", "");
    assert_true(number(json, "test.perplexity") == 25);
    assert_true(number(json, "test.hits") == 0.25);
    assert_true(isfinite(number(json, "test.loss")));
    assert_true(isnan(number(json, "test.accuracy")));
    assert_int_equal(json_count(json, "confusion"), 0);
    json_free(json);
    const char *metrics = file_text("words/metrics.jsonl"), *page = file_text("words/report.html");
    assert_non_null(strstr(metrics, ",\"perplexity\":20,\"hits\":0.25}}\n"));
    assert_non_null(strstr(page, "Test perplexity</dt><dd>25.0</dd>"));
    assert_non_null(strstr(page, "Test set: perplexity 25.0, share of hits 25.0%, loss "));
    assert_non_null(strstr(page, "Tokens/s in training"));
    assert_non_null(strstr(page, "Speed (tokens/s)"));
    assert_non_null(strstr(page, "Validation perplexity<"));
    assert_null(strstr(page, "ccuracy"));
    assert_null(strstr(page, "Confusion"));
}

/* Four keys of 100 letters, with numbers of many digits. */
static void score_long(const TaskTally *tally, double scores[]) {
    (void)tally;
    for (int i = 0; i < TASK_SCORES_MAX; i++) scores[i] = -123456.789;
}

static void any_keys_fit_a_line_of_metrics(void **state) {
    (void)state;
    Task task = made_up(true);
    task.score = score_long;
    task.score_count = TASK_SCORES_MAX;
    for (int i = 0; i < TASK_SCORES_MAX; i++) {
        task.scores[i] = (Score){"", "long", "long", "", "", 1, 1, true, -1, 1};
        task.scores[i].key = format("%d%099d", i, 0);
    }
    json_free(run_made_up(&task, "long", "quant: {bits: 4}\n"));
    const char *text = file_text("long/metrics.jsonl"), *line = strstr(text, "\"validation\"");
    assert_non_null(line);
    while (line > text && line[-1] != '\n') line--;
    Json *json = json_of(format("%.*s", (int)strcspn(line, "\n"), line));
    for (int i = 0; i < TASK_SCORES_MAX; i++) {
        const char *key = task.scores[i].key;
        assert_true(number_of(json, format("validation.%s", key)) == -123456.789);
        assert_true(number_of(json, format("shadow.%s", key)) == -123456.789);
    }
    json_free(json);
}

static void a_run_without_steps_says_so_in_the_task_s_words(void **state) {
    (void)state;
    Experiment e;
    Error err = {0};
    Task task = made_up(true);
    open_sample(&task, "train: {accumulate: 100}\n", &e);
    e.task = &task;
    assert_false(trainer_begin(&e, &err));
    assert_non_null(strstr(err.message, "30 training sequences make 0 steps per epoch of batch 5"));
    experiment_close(&e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_says_what_people_read),
        cmocka_unit_test(every_row_s_sample_records),
        cmocka_unit_test(every_row_s_sample_learns),
        cmocka_unit_test(classify_counts_what_is_right),
        cmocka_unit_test(the_task_follows_from_what_the_data_hold),
        cmocka_unit_test(labels_are_smoothed_in_training_alone),
        cmocka_unit_test(a_run_without_steps_says_so_in_the_task_s_words),
        cmocka_unit_test(best_is_what_the_task_calls_better),
        cmocka_unit_test(any_keys_fit_a_line_of_metrics),
        cmocka_unit_test(files_and_report_use_the_task_s_scores_and_words),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
