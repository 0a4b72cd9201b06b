/* Dynamic loss scaling: when it grows, when it shrinks, when it gives up; and what a skipped step
 * leaves alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "core/log.h"
#include "core/parallel.h"
#include "experiments/train/trainer.h"
#include "optim/loss_scale.h"

static void test_other_precisions_are_not_scaled(void **state) {
    (void)state;
    LossScale s = loss_scale_new(false);
    for (int i = 0; i < 3 * LOSS_SCALE_PATIENCE; i++) assert_true(loss_scale_update(&s, i % 2));
    assert_true(s.scale == 1 && s.skipped == 0);
}

static void test_it_doubles_after_clean_steps(void **state) {
    (void)state;
    LossScale s = loss_scale_new(true);
    assert_true(s.scale == 65536);
    for (int i = 1; i < LOSS_SCALE_PATIENCE; i++) assert_true(loss_scale_update(&s, false));
    assert_true(s.scale == 65536);
    loss_scale_update(&s, false);
    assert_true(s.scale == 131072 && s.clean_steps == 0);
    for (int i = 0; i < 40 * LOSS_SCALE_PATIENCE; i++) loss_scale_update(&s, false);
    assert_true(s.scale == LOSS_SCALE_MAX);
}

static void test_it_halves_and_gives_up_at_last(void **state) {
    (void)state;
    LossScale s = loss_scale_new(true);
    for (int i = 0; i < 1000; i++) loss_scale_update(&s, false);
    assert_true(loss_scale_update(&s, true));
    assert_true(s.scale == 32768 && s.clean_steps == 0 && s.skipped == 1);
    while (s.scale > 1) assert_true(loss_scale_update(&s, true));
    for (int i = 1; i < LOSS_SCALE_STUCK_MAX; i++) assert_true(loss_scale_update(&s, true));
    LossScale saved = s;
    assert_false(loss_scale_update(&s, true));     /* the tenth in a row */
    assert_true(loss_scale_update(&saved, false)); /* a clean one begins anew */
    for (int i = 1; i < LOSS_SCALE_STUCK_MAX; i++) assert_true(loss_scale_update(&saved, true));
    assert_true(saved.scale == 1 && saved.skipped == 16 + 2 * (LOSS_SCALE_STUCK_MAX - 1));
}

static const char config_text[] =
    "model: {kind: cnn, widths: [6, 8], hidden: 10}\n"
    "data: {kind: synthetic, height: 12, width: 12, channels: 3, classes: 4, train: 96, "
    "test: 20, validation: 16, batch: 16}\n"
    "precision: f16\nquant: {bits: 4}\n";

static char logged[1024];

static void keep_log(void *context, LogLevel level, const char *text) {
    (void)context, (void)level;
    size_t used = strlen(logged);
    snprintf(logged + used, sizeof logged - used, "%s\n", text);
}

/* After one step. */
static void open_trained(Experiment *e, Arena *arena) {
    Error err = {0};
    ExperimentConfig config;
    double loss;
    assert_true(config_read_text(config_text, "test", 0, NULL, arena, &config, &err));
    assert_true(experiment_open(&config, arena, e, &err));
    assert_true(trainer_step(e, 0, &loss, &err));
}

/* The batch of a skipped step is seen once more, to name the layer: running statistics and ranges
 * see it once all the same. */
static void test_a_skipped_step_is_observed_once(void **state) {
    (void)state;
    Error err = {0};
    Arena *arena = arena_new("test");
    Experiment e[2];
    double loss;
    assert_true(parallel_init(2, &err));
    for (int skips = 0; skips < 2; skips++) {
        open_trained(&e[skips], arena);
        if (skips) e[skips].loss_scale.scale = 1e30;
        LogTarget outer = log_set_sink(keep_log, NULL);
        assert_true(trainer_step(&e[skips], 1, &loss, &err));
        log_set_sink(outer.sink, outer.context);
        assert_int_equal(e[skips].loss_scale.skipped, skips);
    }
    int buffers = 0;
    for (int i = 0; i < e[0].model->param_count; i++) {
        const Param *a = e[0].model->params[i], *b = e[1].model->params[i];
        if (a->role != PARAM_BUFFER) continue;
        assert_memory_equal(a->value.data, b->value.data, tensor_bytes(&a->value));
        buffers++;
    }
    assert_true(buffers > 0);
    for (int i = 0; i < 2; i++) experiment_close(&e[i]);
    arena_free(arena);
}

static void copy_params(const Model *model, float *to) {
    for (int i = 0; i < model->param_count; i++) {
        const Tensor *value = &model->params[i]->value;
        memcpy(to, tensor_f32(value), sizeof *to * (size_t)tensor_count(value));
        to += tensor_count(value);
    }
}

/* Gradients that are beyond f16: the step leaves every learned value alone and names the layer. */
static void test_a_skipped_step_changes_no_weight(void **state) {
    (void)state;
    Error err = {0};
    Arena *arena = arena_new("test");
    Experiment e;
    double loss;
    assert_true(parallel_init(2, &err));
    open_trained(&e, arena);
    int64_t count = 0, learned = 0;
    for (int i = 0; i < e.model->param_count; i++)
        count += tensor_count(&e.model->params[i]->value);
    float *before = arena_new_array(arena, float, count);
    float *after = arena_new_array(arena, float, count);
    copy_params(e.model, before);
    e.loss_scale.scale = 1e30;
    LogTarget outer = log_set_sink(keep_log, NULL);
    bool ok = trainer_step(&e, 1, &loss, &err);
    log_set_sink(outer.sink, outer.context);
    assert_true(ok && e.loss_scale.skipped == 1 && e.loss_scale.scale == 5e29);
    assert_non_null(strstr(logged, "step 2 is skipped: gradients overflow f16 in "));
    copy_params(e.model, after);
    for (int i = 0; i < e.model->param_count; i++) {
        int64_t size = tensor_count(&e.model->params[i]->value);
        if (e.model->params[i]->grad) {
            assert_memory_equal(before, after, sizeof *before * (size_t)size);
            learned += size;
        }
        before += size;
        after += size;
    }
    assert_true(learned > 0);
    e.loss_scale.scale = 1024;
    assert_true(trainer_step(&e, 2, &loss, &err) && e.loss_scale.skipped == 1);
    experiment_close(&e);
    arena_free(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_other_precisions_are_not_scaled),
        cmocka_unit_test(test_it_doubles_after_clean_steps),
        cmocka_unit_test(test_it_halves_and_gives_up_at_last),
        cmocka_unit_test(test_a_skipped_step_changes_no_weight),
        cmocka_unit_test(test_a_skipped_step_is_observed_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
