/* The log of a run: what is kept, cut and marked when it is opened again. */
#include "tests/program.h"

#include "core/log.h"
#include "experiments/train/metrics.h"

static char told[1024];

static void keep_message(void *context, LogLevel level, const char *text) {
    (void)context, (void)level;
    snprintf(told, sizeof told, "%s", text);
}

/* Opens `path` behind `keep` lines, adds one, and says what the file holds then. */
static const char *reopened(const char *path, int64_t keep) {
    Metrics m;
    Error err = {0};
    told[0] = '\0';
    LogTarget outer = log_set_sink(keep_message, NULL);
    if (!metrics_open(&m, path, keep, &err)) fail_msg("%s", err.message);
    log_set_sink(outer.sink, outer.context);
    assert_int_equal(m.lines, keep);
    assert_true(metrics_add(&m, "{new}", &err));
    assert_int_equal(m.lines, keep + 1);
    if (!metrics_sync(&m, &err)) fail_msg("%s", err.message);
    metrics_close(&m);
    return file_text(path);
}

static void test_a_new_log(void **state) {
    (void)state;
    assert_string_equal(reopened("new", 0), "{new}\n");
    assert_string_equal(told, "");
}

static void test_lines_behind_are_cut(void **state) {
    (void)state;
    text_file("log", "a\nb\nc\nd");
    assert_string_equal(reopened("log", 2), "a\nb\n{new}\n");
    assert_string_equal(reopened("log", 0), "{new}\n");
    char *large = arena_zalloc(program_arena, 20001);
    for (int i = 0; i < 20000; i++) large[i] = i % 10 == 9 ? '\n' : 'x';
    text_file("log", large);
    assert_int_equal(strlen(reopened("log", 1000)), 1000 * 10 + 6);
    assert_string_equal(told, "");
}

static void test_missing_lines_are_told_and_marked(void **state) {
    (void)state;
    text_file("log", "a\nb\nto");
    assert_string_equal(reopened("log", 4),
                        "a\nb\n" METRICS_MISSING "\n" METRICS_MISSING "\n{new}\n");
    assert_string_equal(told, "log: 2 of the 4 lines before the checkpoint are missing; the run "
                              "goes on, and the log has " METRICS_MISSING " in their place");
    assert_string_equal(reopened("absent", 1), METRICS_MISSING "\n{new}\n");
}

static void test_failures_name_the_file(void **state) {
    (void)state;
    Metrics m;
    Error err = {0};
    assert_int_equal(mkfifo("pipe", 0666), 0);
    assert_false(metrics_open(&m, "pipe", 0, &err));
    assert_has(err.message, "pipe is a FIFO");
    metrics_close(&m);
    err = (Error){0};
    assert_true(metrics_open(&m, "log", 0, &err));
    char *large = arena_zalloc(program_arena, 5001);
    memset(large, 'x', 5000);
    assert_false(metrics_add(&m, large, &err));
    assert_has(err.message, "log: a line is too long");
    int file = m.file, full = open("/dev/full", O_WRONLY);
    m.file = full;
    err = (Error){0};
    assert_false(metrics_add(&m, "{}", &err));
    assert_has(err.message, "log: cannot write: No space left on device");
    err = (Error){0};
    assert_false(metrics_sync(&m, &err));
    assert_has(err.message, "log: cannot sync: Invalid argument");
    m.file = file;
    close(full);
    metrics_close(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_new_log),
        cmocka_unit_test(test_lines_behind_are_cut),
        cmocka_unit_test(test_missing_lines_are_told_and_marked),
        cmocka_unit_test(test_failures_name_the_file),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
