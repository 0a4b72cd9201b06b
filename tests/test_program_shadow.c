/* train.shadow_every: the shadow's lines of metrics.jsonl, and that nothing else changes. */
#include <math.h>

#include "core/parallel.h"
#include "experiments/train/shadow_line.h"
#include "tests/program.h"

#define CNN                                                                                        \
    "model: {kind: cnn, widths: [4, 8], hidden: 12, dropout: 0.2}\n" PROGRAM_DATA                  \
    "optimizer: {kind: sgd, lr: 0.1, momentum: 0.9, ema: 0.9}\n"                                   \
    "quant: {bits: 4, rules: [{layers: last, bits: 32}], activations: {quantizer: percentile}, "   \
    "start: 7}\n"                                                                                  \
    "train: {epochs: 3, log_every: 1}\n"

enum { STEPS = 24 };

/* The lines that hold `part`, or those that do not. */
static const char *lines_of(const char *directory, const char *part, bool holds) {
    const char *text = file_text(format("%s/metrics.jsonl", directory)), *found = "";
    while (*text) {
        size_t length = strcspn(text, "\n") + 1;
        const char *line = format("%.*s", (int)length, text);
        const char *seconds = strstr(line, ",\"seconds\"");
        if (seconds) line = format("%.*s}\n", (int)(seconds - line), line);
        if (!strstr(line, part) == !holds) found = format("%s%s", found, line);
        text += length;
    }
    return found;
}

static void test_lines(void **state) {
    (void)state;
    const char *text = lines_of("seen", "\"sqnr_db\"", true);
    int step = 9; /* fake-quant starts at step 8 */
    for (; *text; step += 3) {
        Json *json = json_of(format("%.*s", (int)strcspn(text, "\n"), text));
        assert_true(number_of(json, "step") == step);
        assert_true(number_of(json, "epoch") == (step - 1) / 8 + 1);
        assert_true(number_of(json, "shadow.kl") > 0);
        assert_true(number_of(json, "shadow.outputs") == 64);
        assert_in_range(number_of(json, "shadow.changed"), 0, 64);
        static const char *const names[] = {"conv1", "conv2", "hidden", "classes"};
        assert_int_equal(json_count(json, "shadow.layers"), 4);
        for (int i = 0; i < 4; i++) {
            const Json *layer = json_element(json, "shadow.layers", i);
            assert_string_equal(json_get_text(layer, "name"), names[i]);
            assert_in_range(number_of(layer, "sqnr_db"), 1, 60);
        }
        json_free(json);
        text += strcspn(text, "\n") + 1;
    }
    assert_int_equal(step, STEPS + 3);
}

/* Losses and gradients' norms of every step, evaluations, and the network at the end. */
static void test_nothing_that_trains_is_changed(void **state) {
    (void)state;
    run(0, "train cnn.yaml --out unseen");
    assert_string_equal(lines_of("seen", "\"sqnr_db\"", false), lines_of("unseen", "-", false));
    assert_string_equal(run(0, "eval seen --json").out, run(0, "eval unseen --json").out);
    assert_has(file_text("unseen/metrics.jsonl"), "\"grad_norm\"");
}

/* An FP32 run has none. */
static void test_without_quantization(void **state) {
    (void)state;
    run(0, "train cnn.yaml --out float quant.bits=32 quant.rules=[] train.shadow_every=1");
    assert_string_equal(lines_of("float", "shadow", true), "");
}

/* Of training images where none are kept for validation: what the saved network gives again. */
static void test_a_line_is_what_the_network_gives(void **state) {
    (void)state;
    run(0, "train cnn.yaml --out all data.validation=0 train.shadow_every=%d", 30);
    Arena *arena = arena_new("test");
    Experiment e;
    Error err = {0};
    RunOptions options = {.reads_training = true};
    const char *line;
    if (!experiment_open_run("all", &options, arena, &e, &err)) fail_msg("%s", err.message);
    /* averages are in use already, and are swapped back */
    optimizer_swap_ema(e.optimizer);
    assert_true(shadow_line_make(&e, 30, 3, arena, &line, &err));
    assert_string_equal(lines_of("all", "\"sqnr_db\"", true), format("%s\n", line));
    experiment_close(&e);
    arena_free(arena);
}

static int make_run(void **state) {
    if (program_folder_enter(state)) return -1;
    text_file("cnn.yaml", CNN);
    run(0, "train cnn.yaml --out seen train.shadow_every=3");
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_nothing_that_trains_is_changed),
        cmocka_unit_test(test_without_quantization),
        cmocka_unit_test(test_a_line_is_what_the_network_gives),
    };
    return cmocka_run_group_tests(tests, make_run, program_folder_leave);
}
