/* What a step of a language model takes, beside what its plan names; how long its rows may be. */
#include "tests/program.h"

#include "experiments/plan/footprint.h"
#include "experiments/train/trainer.h"

#define TRANSFORMER                                                                                \
    "model: {kind: transformer, width: 192, layers: 6, heads: 6, kv_heads: 2, ff: 512}\n"
#define TEXT                                                                                       \
    "data: {kind: text, path: text, length: 256, batch: 2, eval_batch: 2, validation: 0.1, "       \
    "test: 0.1}\n"                                                                                 \
    "optimizer: {kind: adamw, state_bits: 8}\n"
#define MODEL TRANSFORMER TEXT

static void open_experiment(const char *text, Experiment *e) {
    Error err = {0};
    ExperimentConfig config;
    if (!config_read_text(text, "test", 0, NULL, program_arena, &config, &err) ||
        !experiment_open(&config, program_arena, e, &err) ||
        !(e->adapter ? adapter_start(e->adapter, NULL, &err) : trainer_begin(e, &err)))
        fail_msg("%s", err.message);
}

static void write_text(void) {
    enum { DOCUMENTS = 4000 };
    char *text = arena_zalloc(program_arena, DOCUMENTS * 16), *at = text;
    for (int i = 0; i < DOCUMENTS; i++) at += sprintf(at, "%d and %d; ", i % 10, i / 10 % 10);
    text_file("text", text);
}

/* Of all arenas that live through a step. */
static double arenas_of(const Experiment *e) {
    const Tape *t = e->tape;
    return (double)(arena_used(e->arena) + arena_peak(t->arena) + arena_peak(t->staging) +
                    arena_used(t->plan_arena));
}

/* Weights, gradients, optimizer and kept values are nearly all of it. */
static void check(const char *model, const char *settings, double most) {
    Experiment e;
    Footprint f;
    Error err = {0};
    double loss;
    open_experiment(format("%s" TEXT "%s", model, settings), &e);
    if (!footprint_find(&e, program_arena, &f, &err)) fail_msg("%s", err.message);
    for (int64_t step = 0; step < 2; step++)
        if (!trainer_step(&e, step, &loss, &err)) fail_msg("%s", err.message);
    double named = (double)(f.bytes[FOOTPRINT_MASTERS] + f.bytes[FOOTPRINT_OPTIMIZER] +
                            f.bytes[FOOTPRINT_GRADIENTS] + f.bytes[FOOTPRINT_ACTIVATIONS]);
    double ratio = arenas_of(&e) / named;
    print_message("%s%s: %.1f MiB in arenas, %.1f named: %.3f\n", model, settings,
                  arenas_of(&e) / 1048576, named / 1048576, ratio);
    assert_true(ratio > 1 && ratio <= most);
    experiment_close(&e);
}

/* The same network, of which four bits are kept. */
static const char *nf4_model(void) {
    text_file("whole.yaml", format(MODEL "train: {steps: 1}\n"));
    run(0, "train whole.yaml --out whole");
    run(0, "export whole --format huggingface --out model");
    return "model: {kind: pretrained, path: model, base: nf4}\n";
}

/* Where values are made again so few are kept, at this size, that what maps take meanwhile counts.
 */
static void arenas_hold_little_else(void **state) {
    (void)state;
    write_text();
    check(TRANSFORMER, "", 1.15);
    check(TRANSFORMER, "train: {recompute: block}\n", 1.17);
    check(TRANSFORMER, "adapter: {kind: lora, rank: 16}\n", 1.15);
    check(TRANSFORMER, "precision: bf16\n", 1.15);
    check(nf4_model(), "adapter: {kind: lora, rank: 16}\n", 1.15);
}

/* Rows of as many tokens as there are fit into what they take, and longer ones into more. */
static void the_longest_context_is_what_fits(void **state) {
    (void)state;
    Experiment e;
    Footprint f;
    Error err = {0};
    write_text();
    open_experiment(MODEL "train: {recompute: block}\n", &e);
    if (!footprint_find(&e, program_arena, &f, &err)) fail_msg("%s", err.message);
    assert_int_equal(footprint_context(&e, &f, f.total), 256);
    assert_int_equal(footprint_context(&e, &f, f.total - 64), 192);
    int64_t step = f.bytes[FOOTPRINT_ACTIVATIONS] + f.bytes[FOOTPRINT_ACTIVATION_GRADIENTS];
    int64_t twice = footprint_context(&e, &f, f.total + step);
    assert_true(twice >= 448 && twice <= 576);
    assert_int_equal(footprint_context(&e, &f, f.total - 2 * step), 0);
    assert_int_equal(footprint_context(&e, &f, INT64_MAX), 0);
    experiment_close(&e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arenas_hold_little_else),
        cmocka_unit_test(the_longest_context_is_what_fits),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
