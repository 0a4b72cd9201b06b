#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "core/arena.h"
#include "core/json.h"
#include "core/parallel.h"
#include "experiments/report/progress.h"
#include "experiments/train/environment.h"

static double now;

static double fake_seconds(void) {
    return now;
}

static void begin(Progress *p, FILE *stream, int64_t first_step, int64_t total_steps) {
    progress_begin(p, stream, first_step, total_steps, 10, &task_classify);
    now = 1000;
    p->seconds = fake_seconds;
    p->started = p->shown = p->measured = now;
}

static ProgressState state_at(int64_t step, int64_t samples) {
    return (ProgressState){step, 1 + step / 100, 0.51234, 0.875, 0.01, samples};
}

static int count_of(const char *text, char wanted) {
    int count = 0;
    for (; *text; text++) count += *text == wanted;
    return count;
}

/* ---- In a pipe. ---- */

static char *piped;
static size_t piped_bytes;

/* A memory stream has no file descriptor, as little a terminal as a pipe. */
static FILE *pipe_open(void) {
    free(piped);
    piped = NULL;
    return open_memstream(&piped, &piped_bytes);
}

static void test_pipe_gets_plain_lines(void **unused) {
    (void)unused;
    FILE *stream = pipe_open();
    Progress p;
    begin(&p, stream, 0, 1000);
    assert_false(p.is_live);
    for (int step = 1; step <= 400; step++) {
        now += 0.1;
        ProgressState s = state_at(step, step * 128);
        progress_update(&p, &s, step == 50); /* at 5 s */
    }
    progress_end(&p);
    fclose(stream);
    /* at 5, 15, 25 and 35 s of 40 */
    assert_int_equal(count_of(piped, '\n'), 4);
    assert_int_equal(count_of(piped, '\r'), 0);
    assert_int_equal(count_of(piped, '\x1b'), 0);
    const char *expected = "epoch 1/10  step 50/1000    5%  loss 0.5123  acc 87.50%  lr 0.01  "
                           "1280 images/s  ETA 1:35\n"; /* 950 steps of 0.1 s */
    assert_memory_equal(piped, expected, strlen(expected));
}

static void test_words_are_the_task_s(void **unused) {
    (void)unused;
    static const Task language = {
        .samples = "tokens",
        .scores = {{.short_name = "ppl", .unit = "", .factor = 1, .decimals = 1}}};
    FILE *stream = pipe_open();
    Progress p;
    begin(&p, stream, 0, 1000);
    p.task = &language;
    now += 1;
    ProgressState s = state_at(10, 1000);
    s.score = 23.456;
    progress_update(&p, &s, true);
    fclose(stream);
    assert_non_null(strstr(piped, "  ppl 23.5  "));
    assert_non_null(strstr(piped, " 1000 tokens/s"));
}

static void test_unknown_values_are_left_out(void **unused) {
    (void)unused;
    FILE *stream = pipe_open();
    Progress p;
    begin(&p, stream, 0, 0);
    p.epochs = 0;
    ProgressState s = {7, 0, NAN, NAN, NAN, 0};
    progress_update(&p, &s, true);
    fclose(stream);
    assert_string_equal(piped, "step 7\n");
}

static void test_pauses_are_no_part_of_the_rate(void **unused) {
    (void)unused;
    FILE *stream = pipe_open();
    Progress p;
    begin(&p, stream, 0, 1000);
    now += 1;
    ProgressState s = state_at(10, 1000);
    progress_update(&p, &s, false);
    now += 60; /* an evaluation */
    progress_update(&p, &s, true);
    fclose(stream);
    assert_non_null(strstr(piped, " 1000 images/s"));
}

static void test_resume_counts_only_its_own_steps(void **unused) {
    (void)unused;
    FILE *stream = pipe_open();
    Progress p;
    begin(&p, stream, 900, 1000);
    now += 20;
    ProgressState s = state_at(950, 50 * 128);
    progress_update(&p, &s, true);
    now += 20;
    s = state_at(1000, 100 * 128);
    progress_update(&p, &s, true);
    fclose(stream);
    assert_non_null(strstr(piped, "ETA 0:20\n"));
    assert_non_null(strstr(piped, "100%"));
    assert_non_null(strstr(piped, "took 0:40\n"));
}

static void test_long_times_are_readable(void **unused) {
    (void)unused;
    static const struct {
        double step_seconds;
        const char *eta;
    } rows[] = {{4, "ETA 1:06:00\n"}, {400, "ETA 4d 14h\n"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        FILE *stream = pipe_open();
        Progress p;
        begin(&p, stream, 0, 1000);
        now += 10 * rows[i].step_seconds;
        ProgressState s = state_at(10, 0);
        progress_update(&p, &s, true);
        fclose(stream);
        assert_non_null(strstr(piped, rows[i].eta));
    }
}

static void test_messages_have_no_control_characters(void **unused) {
    (void)unused;
    FILE *stream = pipe_open();
    Progress p;
    begin(&p, stream, 0, 0);
    log_set_sink(progress_message, &p);
    log_warning("file 'a\x1b[31m\rb' is odd");
    log_info("two\nlines");
    log_set_sink(NULL, NULL);
    progress_end(&p);
    fclose(stream);
    assert_string_equal(piped, "warning: file 'a\\x1b[31m\\rb' is odd\ntwo\\nlines\n");
}

/* ---- On a terminal. ---- */

typedef struct Terminal {
    int master;
    FILE *stream;
    char text[16384];
} Terminal;

/* A container may lack /dev/pts. */
static bool has_terminals(void) {
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master >= 0) close(master);
    return master >= 0;
}

static void terminal_open(Terminal *t, int columns) {
    t->master = posix_openpt(O_RDWR | O_NOCTTY);
    assert_true(t->master >= 0);
    assert_true(!grantpt(t->master) && !unlockpt(t->master));
    t->stream = fopen(ptsname(t->master), "r+");
    assert_non_null(t->stream);
    struct winsize size = {.ws_row = 24, .ws_col = (unsigned short)columns};
    assert_int_equal(ioctl(t->master, TIOCSWINSZ, &size), 0);
    struct termios mode;
    assert_int_equal(tcgetattr(fileno(t->stream), &mode), 0);
    mode.c_oflag &= ~(tcflag_t)OPOST; /* a line feed stays one character */
    assert_int_equal(tcsetattr(fileno(t->stream), TCSANOW, &mode), 0);
}

/* What was written. The kernel hands it over in parts, so a last byte of our own marks the end. The
 * pty holds less than 4 kB: tests write little. */
static const char *terminal_close(Terminal *t) {
    enum { END = 4 };
    size_t used = 0;
    fputc(END, t->stream);
    fflush(t->stream);
    while (!used || t->text[used - 1] != END) {
        assert_true(used < sizeof t->text);
        ssize_t count = read(t->master, t->text + used, sizeof t->text - used);
        assert_true(count > 0);
        used += (size_t)count;
    }
    t->text[used - 1] = '\0';
    fclose(t->stream);
    close(t->master);
    return t->text;
}

/* Columns that the longest line takes, with escape sequences left out. */
static int widest(const char *text) {
    int width = 0, most = 0;
    for (; *text; text++) {
        if (*text == '\x1b') {
            text += strcspn(text, "mK");
        } else if (*text == '\r' || *text == '\n') {
            width = 0;
        } else if (++width > most) {
            most = width;
        }
    }
    return most;
}

static void test_terminal_line_is_rewritten(void **unused) {
    (void)unused;
    if (!has_terminals()) skip();
    setenv("TERM", "xterm", 1);
    unsetenv("NO_COLOR");
    Terminal t;
    terminal_open(&t, 200);
    Progress p;
    begin(&p, t.stream, 0, 1000);
    assert_true(p.is_live && p.has_colour);
    for (int step = 1; step <= 10; step++) {
        now += 0.03; /* at 0.12, 0.24 ... the line is due */
        ProgressState s = state_at(step, step * 128);
        progress_update(&p, &s, false);
    }
    progress_message(&p, LOG_INFO, "saved");
    progress_end(&p);
    const char *text = terminal_close(&t);
    /* two redraws, the message's erasure, the line again, and once more at the end */
    assert_int_equal(count_of(text, '\r'), 5);
    assert_int_equal(count_of(text, '\n'), 2);
    assert_non_null(strstr(text, "\r\x1b[Ksaved\n\r["));
    assert_non_null(strstr(text, "\x1b[32m"));
    assert_int_equal(text[strlen(text) - 1], '\n');
}

static void test_terminal_line_fits_any_width(void **unused) {
    (void)unused;
    if (!has_terminals()) skip();
    setenv("TERM", "xterm", 1);
    for (int columns = 1; columns <= 160; columns++) {
        Terminal t;
        terminal_open(&t, columns);
        Progress p;
        begin(&p, t.stream, 0, 1000);
        now += 1;
        ProgressState s = state_at(500, 64000);
        progress_update(&p, &s, true);
        const char *text = terminal_close(&t);
        assert_true(widest(text) < (columns > 1 ? columns : 2));
        if (columns >= 20) assert_non_null(strstr(text, "50%"));
        if (columns >= 120) assert_non_null(strstr(text, "=>"));
    }
}

static void test_terminal_wishes_are_respected(void **unused) {
    (void)unused;
    if (!has_terminals()) skip();
    Terminal t;
    Progress p;
    setenv("TERM", "xterm", 1);
    setenv("NO_COLOR", "1", 1);
    terminal_open(&t, 120);
    begin(&p, t.stream, 0, 1000);
    assert_true(p.is_live);
    ProgressState s = state_at(500, 64000);
    progress_update(&p, &s, true);
    assert_null(strstr(terminal_close(&t), "\x1b[32m"));

    setenv("TERM", "dumb", 1);
    terminal_open(&t, 120);
    begin(&p, t.stream, 0, 1000);
    assert_false(p.is_live);
    progress_update(&p, &s, true);
    const char *text = terminal_close(&t);
    assert_int_equal(count_of(text, '\x1b') + count_of(text, '\r'), 0);
    unsetenv("NO_COLOR");
}

/* ---- The environment. ---- */

static void test_environment_is_written(void **unused) {
    (void)unused;
    char folder[] = "/tmp/nibble-test-XXXXXX", path[64], text[32];
    Error err = {0};
    int64_t number = 0;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/env.json", folder);
    assert_true(parallel_init(2, &err));
    assert_true(environment_write(path, &err));
    Json *json = json_read_file(path, &err);
    assert_non_null(json);
    assert_string_equal(json_get_text(json, "nibble.version"), NIBBLE_VERSION);
    assert_true(json_get_int(json, "threads", &number) && number == 2);
    assert_non_null(json_get_text(json, "blas"));
    assert_non_null(json_get_text(json, "kernels"));
    assert_true(json_get_int(json, "machine.memory_bytes", &number) && number > 1 << 20);
    assert_true(gethostname(text, sizeof text) ||
                !strstr(json_get_text(json, "system.kernel"), text));
    json_free(json);
    unlink(path);
    rmdir(folder);
    assert_false(environment_write("/nonexistent-folder/env.json", &err));
    assert_int_equal(err.code, ERROR_SYSTEM);
}

static void test_peak_memory_grows(void **unused) {
    (void)unused;
    int64_t before = environment_peak_rss_bytes();
    assert_true(before > 0);
    Arena *arena = arena_new("test");
    size_t bytes = (size_t)before + (16 << 20);
    memset(arena_alloc(arena, bytes), 1, bytes);
    assert_true(environment_peak_rss_bytes() >= before + (16 << 20));
    arena_free(arena);
    double earlier = environment_seconds();
    assert_true(environment_seconds() >= earlier);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pipe_gets_plain_lines),
        cmocka_unit_test(test_words_are_the_task_s),
        cmocka_unit_test(test_unknown_values_are_left_out),
        cmocka_unit_test(test_pauses_are_no_part_of_the_rate),
        cmocka_unit_test(test_resume_counts_only_its_own_steps),
        cmocka_unit_test(test_long_times_are_readable),
        cmocka_unit_test(test_messages_have_no_control_characters),
        cmocka_unit_test(test_terminal_line_is_rewritten),
        cmocka_unit_test(test_terminal_line_fits_any_width),
        cmocka_unit_test(test_terminal_wishes_are_respected),
        cmocka_unit_test(test_environment_is_written),
        cmocka_unit_test(test_peak_memory_grows),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(piped);
    return failed;
}
