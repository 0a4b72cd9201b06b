/* The training loop, on a network that no configuration leads to. */
#include "tests/program.h"

#include "core/parallel.h"
#include "core/random.h"
#include "experiments/train/checkpoint.h"
#include "experiments/train/run.h"
#include "experiments/train/trainer.h"

static const char config_text[] =
    "precision: f16\n"
    "model: {kind: sequential, layers: [{kind: conv, name: wide, filters: 4}, {kind: flatten}, "
    "{kind: linear, name: last, units: 50}]}\n"
    "data: {kind: synthetic, height: 64, width: 64, classes: 50, train: 100, test: 8, "
    "validation: 0, batch: 2}\n"
    "optimizer: {kind: sgd, lr: 1e-9}\n"
    "schedule: constant\n"
    "train: {epochs: 2, checkpoint_every: 1}\n";

static void open_experiment(Experiment *e) {
    ExperimentConfig config;
    Error err = {0};
    if (!config_read_text(config_text, "test", 0, NULL, program_arena, &config, &err) ||
        !experiment_open(&config, program_arena, e, &err))
        fail_msg("%s", err.message);
}

static void fill(Experiment *e, const char *name, float spread) {
    Param *p = model_find_param(e->model, name);
    RandomKey key = {.seed = 3, .stream = RANDOM_TEST};
    random_fill_normal(key, spread, tensor_count(&p->value), tensor_f32(&p->value));
}

/* Small activations and large weights behind them: nothing overflows but the gradient of the first
 * weights, whatever the loss scale. */
static void test_gradients_that_always_overflow_end_the_run(void **state) {
    (void)state;
    enum { HALVINGS = 16, STUCK = 10 }; /* from 2^16 to 1, and then ten steps at 1 */
    Experiment e;
    Error err = {0};
    open_experiment(&e);
    fill(&e, "wide.weight", 1e-3f);
    fill(&e, "last.weight", 1e4f);
    RunClaim claim;
    assert_true(run_create("run", false, &claim, &err));
    assert_false(trainer_run(&e, "run", false, &err));
    assert_int_equal(err.code, ERROR_NUMERIC);
    if (!strstr(err.message, "overflow f16 in wide for the 10th time in a row at loss scale 1"))
        fail_msg("%s", err.message);
    assert_non_null(strstr(err.message, "bf16"));
    assert_int_equal(e.loss_scale.skipped, HALVINGS + STUCK);

    Experiment fresh;
    open_experiment(&fresh);
    Checkpoint saved;
    const char *path = run_path(program_arena, "run", RUN_CHECKPOINT);
    err = (Error){0};
    if (!checkpoint_open(path, program_arena, &saved, &err) ||
        !checkpoint_load(&saved, fresh.fixed_text, fresh.model, fresh.optimizer, &err))
        fail_msg("%s", err.message);
    assert_int_equal(saved.cursor.step, HALVINGS + STUCK - 1);
    assert_int_equal(saved.cursor.loss_scale.skipped, HALVINGS + STUCK - 1);
    checkpoint_close(&saved);
    const Tensor *trained = &model_find_param(e.model, "last.weight")->value;
    const Tensor *loaded = &model_find_param(fresh.model, "last.weight")->value;
    assert_memory_equal(trained->data, loaded->data, tensor_bytes(trained)); /* nothing moved */
    run_release(&claim);
    experiment_close(&fresh);
    experiment_close(&e);
}

/* Epochs times the steps of one, rounded up: but 7.000000000000001 is 7. */
static void test_a_whole_number_of_steps_is_not_rounded_up(void **state) {
    (void)state;
    Experiment e;
    open_experiment(&e);
    int64_t epoch = trainer_epoch_steps(&e);
    int inexact = 0;
    for (int64_t steps = 1; steps <= 100 * epoch; steps++) {
        e.config.train.epochs = (double)steps / (double)epoch;
        inexact += e.config.train.epochs * (double)epoch > (double)steps;
        assert_int_equal(trainer_total_steps(&e), steps);
        e.config.train.epochs *= 1 + 1e-9;
        assert_int_equal(trainer_total_steps(&e), steps + 1);
    }
    assert_true(inexact > 0);
    experiment_close(&e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_whole_number_of_steps_is_not_rounded_up),
        cmocka_unit_test(test_gradients_that_always_overflow_end_the_run),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
