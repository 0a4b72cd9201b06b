/* Comparisons as they are read: rows, settings over settings, and the way back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <glob.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/log.h"
#include "experiments/compare/comparison.h"
#include "experiments/compare/schedule.h"
#include "tests/folder.h"

static char messages[4096];

static void keep_message(void *context, LogLevel level, const char *message) {
    (void)context;
    (void)level;
    size_t used = strlen(messages);
    snprintf(messages + used, sizeof messages - used, "%s\n", message);
}

static void read_file(const char *path, Arena *arena, Comparison *out) {
    Error err = {0};
    messages[0] = '\0';
    if (!comparison_read(path, 0, NULL, arena, out, &err))
        fail_msg("%s\n%s", err.message, messages);
}

static void write_text(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static void read_text(const char *text, Arena *arena, Comparison *out) {
    char path[] = "/tmp/nibble-comparison-XXXXXX";
    close(mkstemp(path));
    write_text(path, text);
    read_file(path, arena, out);
    unlink(path);
}

static const CompareRow *row_named(const Comparison *c, const char *name) {
    for (int i = 0; i < c->row_count; i++)
        if (!strcmp(c->rows[i].name, name)) return &c->rows[i];
    fail_msg("no row %s", name);
    return NULL;
}

static void assert_has(const char *text, const char *part) {
    if (!strstr(text, part)) fail_msg("'%s' is not in: %s", part, text);
}

#define EXPERIMENT                                                                                 \
    "experiment:\n"                                                                                \
    "  model: {kind: mlp, widths: [8]}\n"                                                          \
    "  data: {kind: synthetic}\n"                                                                  \
    "  quant: {bits: 4, weights: {quantizer: {kind: percentile, quantile: 0.99}}, start: 0.25}\n"

static void test_bits(void **state) {
    (void)state;
    static const struct {
        const char *text, *weights, *activations, *name;
    } good[] = {{"4", "4", "4", "w4a4"},
                {"w4a8", "4", "8", "w4a8"},
                {"w4", "4", "32", "w4"},
                {"1.58", "1.58", "1.58", "w1.58a1.58"},
                {"w1.58a8", "1.58", "8", "w1.58a8"},
                {"w32a8", "32", "8", "w32a8"},
                {"auto", "auto", "auto", "auto"},
                {"wauto", "auto", "32", "wauto"},
                {"wautoa8", "auto", "8", "wautoa8"}};
    static const char *const bad[] = {"",      "w",  "a4",  "9",  "4a4", "w4a",   "w4a9",    "w4 ",
                                      "w4a8x", "16", "1.5", "W4", "44",  "auto4", "w4aauto", "aut"};
    Arena *arena = arena_new("test");
    RowBits bits;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_true(row_bits_parse(good[i].text, &bits, arena));
        assert_string_equal(bits.weights, good[i].weights);
        assert_string_equal(bits.activations, good[i].activations);
        assert_string_equal(row_bits_name(bits, arena), good[i].name);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (row_bits_parse(bad[i], &bits, arena)) fail_msg("'%s' is taken for bits", bad[i]);
    arena_free(arena);
}

static void test_rows(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    Comparison c;
    read_text(EXPERIMENT "seeds: [3, 1]\n"
                         "methods:\n"
                         "  - {kind: qat, bits: [8, w2a4], quant: {weights: {quantizer: {quantile: "
                         "0.9}}}}\n"
                         "  - {kind: ptq, name: Mine, bits: [w4], calibration: {rows: 7}}\n",
              arena, &c);
    assert_int_equal(c.row_count, 4);
    assert_true(c.seed_count == 2 && c.seeds[0] == 3);
    assert_string_equal(c.rows[0].label, "FP32");
    const CompareRow *narrow = row_named(&c, "qat-w2a4"), *mine = row_named(&c, "mine-w4");
    assert_string_equal(narrow->label, "QAT W2A4");
    assert_string_equal(mine->label, "Mine W4");
    assert_true(narrow->weight_bits == 2 && narrow->activation_bits == 4);
    assert_true(mine->weight_bits == 4 && mine->activation_bits == 32);
    /* The experiment's settings, the method's over them, the bits over both. */
    assert_has(narrow->text, "  bits: 4\n  weights:\n    bits: 2\n    quantizer:\n      kind: "
                             "percentile\n      quantile: 0.9\n");
    assert_has(narrow->text, "  start: 0.25\n");
    assert_has(c.rows[0].text, "  bits: 32\n  weights:\n    bits: inherit\n");
    /* Of PTQ the ranges are not those of a training, and all else is the run's. */
    assert_has(mine->text, "    bits: 4\n    quantizer:\n      kind: minmax\n");
    assert_has(mine->text, "calibration:\n  rows: 7\n");
    if (strstr(mine->text, "model:")) fail_msg("%s", mine->text);
    assert_string_equal(comparison_run_name(mine, 3, arena), "mine-w4-s3");
    arena_free(arena);
}

/* Rows that begin from another's run: FP32, another row, or that of another method at the same
 * bits; and bits that are chosen layer by layer, which begin from FP32. */
static void test_rows_of_rows(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    Comparison c;
    read_text(EXPERIMENT "methods:\n"
                         "  - {kind: ptq, bits: [4, w2a4, auto], quant: {budget_bytes: 9000}}\n"
                         "  - {kind: qat, name: Tuned, bits: [4, w2a4], init: PTQ}\n"
                         "  - {kind: qat, name: more, bits: [4], init: tuned-w2a4}\n"
                         "  - {kind: qat, bits: [4, wautoa8], quant: {budget_bytes: 9000}}\n"
                         "  - {kind: qat, name: last, bits: [auto], init: tuned-w4a4, quant: "
                         "{budget_bytes: 8000}}\n",
              arena, &c);
    static const char *const sources[][2] = {
        {"ptq-w4a4", "fp32"},        {"ptq-auto", "fp32"},        {"tuned-w4a4", "ptq-w4a4"},
        {"tuned-w2a4", "ptq-w2a4"},  {"more-w4a4", "tuned-w2a4"}, {"qat-wautoa8", "fp32"},
        {"last-auto", "tuned-w4a4"},
    };
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++)
        assert_string_equal(row_named(&c, sources[i][0])->source->name, sources[i][1]);
    assert_null(row_named(&c, "fp32")->source);
    assert_null(row_named(&c, "qat-w4a4")->source);
    assert_has(row_named(&c, "more-w4a4")->text, "  init: \"/the-run-of-the-seed/tuned-w2a4\"\n");
    const CompareRow *both = row_named(&c, "last-auto"), *weights = row_named(&c, "qat-wautoa8");
    assert_string_equal(both->label, "last AUTO");
    assert_true(both->has_chosen_bits && isnan(both->weight_bits) && isnan(both->activation_bits));
    assert_true(isnan(weights->weight_bits) && weights->activation_bits == 8);
    assert_has(both->text, "  bits: auto\n  budget_bytes: 8000\n");
    assert_has(weights->text, "  activations:\n    bits: 8\n");
    /* Rows of fixed bits have no budget. */
    assert_false(row_named(&c, "qat-w4a4")->has_chosen_bits);
    assert_has(row_named(&c, "qat-w4a4")->text, "  bits: 4\n");
    arena_free(arena);
}

/* The baseline may have settings of its own, and comes first wherever it stands. */
static void test_a_baseline_of_ones_own(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    Comparison c;
    read_text(EXPERIMENT "methods: [{kind: qat, bits: [4]}, {kind: fp32, train: {epochs: 3}}]\n",
              arena, &c);
    assert_int_equal(c.row_count, 2);
    assert_has(c.rows[0].text, "  epochs: 3\n");
    assert_has(c.rows[1].text, "  epochs: 10\n");
    arena_free(arena);
}

/* What is written is the same comparison, and needs no other file. */
static void test_other_settings(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    Comparison c;
    read_text(EXPERIMENT "methods:\n"
                         "  - {kind: with, name: wide, settings: {model: {widths: [16]}, train: "
                         "{epochs: 3}}}\n"
                         "  - {kind: with, name: as it is}\n",
              arena, &c);
    assert_int_equal(c.row_count, 3);
    const CompareRow *wide = row_named(&c, "wide"), *same = row_named(&c, "as-it-is");
    assert_has(wide->text, "widths: [16]");
    assert_has(wide->text, "epochs: 3");
    assert_has(wide->text, "  bits: 4\n"); /* what is not named stays */
    assert_has(same->text, "widths: [8]");
    assert_has(same->text, "epochs: 10");
    assert_null(wide->source);
    arena_free(arena);
}

static void test_written_and_read(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    Error err = {0};
    Comparison c, again;
    read_file("configs/compare/synthetic.yaml", arena, &c);
    read_text(comparison_write(&c, arena), arena, &again);
    assert_int_equal(again.row_count, c.row_count);
    for (int i = 0; i < c.row_count; i++) assert_string_equal(again.rows[i].text, c.rows[i].text);
    assert_true(comparison_continues(&c, &again, "d", &err));
    again.rows[1].text = "quant: 1\n";
    assert_false(comparison_continues(&c, &again, "d", &err));
    assert_has(err.message, "'quant: bits: 8', and now it is 'quant: 1'");
    arena_free(arena);
}

/* A run whose train.steps end it early is not waited for as if it were whole. */
static void test_survey_counts_the_steps_that_are_made(void **state) {
    (void)state;
    Arena *arena = arena_new("test");
    Error err = {0};
    Comparison c;
    read_text(EXPERIMENT "seeds: [1, 2]\n"
                         "methods:\n"
                         "  - {kind: with, name: short, settings: {train: {steps: 3}}}\n"
                         "  - {kind: with, name: ample, settings: {train: {steps: 1000000}}}\n"
                         "  - {kind: ptq, bits: [4]}\n",
              arena, &c);
    assert_int_equal(mkdir(arena_format(arena, "%s/" COMPARISON_LOGS, folder), 0700), 0);
    assert_int_equal(mkdir(arena_format(arena, "%s/" COMPARISON_CONFIGS, folder), 0700), 0);
    for (int i = 0; i < c.row_count; i++)
        write_text(arena_format(arena, "%s/" COMPARISON_CONFIGS "/%s.yaml", folder, c.rows[i].name),
                   c.rows[i].text);
    Schedule s = {0};
    schedule_open(&s, &c, folder, arena);
    if (!schedule_survey(&s, &err)) fail_msg("%s", err.message);
    int64_t whole = s.runs[0].steps;
    assert_true(whole > 3);
    const int64_t expected[] = {whole, 3, whole, 0};
    for (int i = 0; i < s.run_count; i++) assert_int_equal(s.runs[i].steps, expected[i % 4]);
    schedule_close(&s);
    arena_free(arena);
}

static void test_shipped(void **state) {
    (void)state;
    glob_t found;
    assert_int_equal(glob("configs/compare/*.yaml", 0, NULL, &found), 0);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        Arena *arena = arena_new("test");
        Comparison c;
        read_file(found.gl_pathv[i], arena, &c);
        assert_true(c.row_count > 2);
        arena_free(arena);
    }
    globfree(&found);
}

int main(void) {
    log_set_sink(keep_message, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bits),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_rows_of_rows),
        cmocka_unit_test(test_a_baseline_of_ones_own),
        cmocka_unit_test(test_other_settings),
        cmocka_unit_test(test_written_and_read),
        cmocka_unit_test(test_shipped),
        cmocka_unit_test_setup_teardown(test_survey_counts_the_steps_that_are_made, folder_make,
                                        folder_remove),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
