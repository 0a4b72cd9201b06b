/* The standard streams and the terminal behind them: closed, full, gone. */
#include "tests/program.h"

#include <sys/ioctl.h>

#include "experiments/commands/streams.h"

#define MLP                                                                                        \
    "model: {kind: mlp, widths: [16]}\n" PROGRAM_DATA PROGRAM_OPTIMIZER "quant: {bits: 4}\n"       \
    "train: {epochs: 2, log_every: 1, checkpoint_every: 2}\n"
/* Long enough to be stopped, on any machine. */
#define LONG                                                                                       \
    "model: {kind: cnn, widths: [8]}\n" PROGRAM_DATA PROGRAM_OPTIMIZER "quant: {bits: 4}\n"        \
    "train: {epochs: 200, log_every: 1}\n"

static void run_nibble(const char *command) {
    char words[4096];
    strcpy(words, command);
    char *arguments[PROGRAM_WORDS_MAX + 2] = {(char *)NIBBLE_PROGRAM};
    int count = 1;
    for (char *word = strtok(words, " "); word; word = strtok(NULL, " ")) arguments[count++] = word;
    alarm(PROGRAM_TIMEOUT_SECONDS);
    execv(NIBBLE_PROGRAM, arguments);
    _exit(127);
}

static int wait_for(pid_t child) {
    int status = 0;
    while (waitpid(child, &status, 0) < 0) assert_int_equal(errno, EINTR);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* ---- Closed streams ---- */

/* `closed`: a bit for each of 0, 1, 2. */
static int run_closed(int closed, const char *command) {
    pid_t child = fork();
    if (!child) {
        for (int fd = 0; fd < 3; fd++)
            if (closed & 1 << fd) close(fd);
        run_nibble(command);
    }
    return wait_for(child);
}

static void check_log(const char *directory) {
    const char *text = file_text(format("%s/metrics.jsonl", directory));
    for (const char *line = text; *line; line = strchr(line, '\n') + 1) {
        assert_int_equal(strncmp(line, "{\"step\":", 8), 0);
        assert_non_null(strchr(line, '\n'));
    }
}

static void test_closed_streams(void **state) {
    (void)state;
    text_file("mlp.yaml", MLP);
    run(0, "train mlp.yaml --out open");
    static const int sets[] = {1, 2, 4, 7}; /* each alone, and all */
    for (int i = 0; i < 4; i++) {
        int closed = sets[i];
        assert_int_equal(run_closed(closed, "train mlp.yaml --out closed --force"), 0);
        check_log("closed");
        assert_files_equal("closed/checkpoint.h5", "open/checkpoint.h5");
        assert_files_equal("closed/best.h5", "open/best.h5");
        assert_int_equal(run_closed(closed, "convert closed"), 0);
        assert_int_equal(run_closed(closed, "verify closed"), 0);
        assert_int_equal(run_closed(closed, "train absent.yaml --out never"), 2);
    }
}

/* ---- Nobody reads ---- */

/* A pipe whose reader has gone. */
static int run_unread(const char *command) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    close(ends[0]);
    pid_t child = fork();
    if (!child) {
        dup2(ends[1], 1);
        dup2(ends[1], 2);
        run_nibble(command);
    }
    close(ends[1]);
    return wait_for(child);
}

static void test_pipes_without_a_reader(void **state) {
    (void)state;
    text_file("mlp.yaml", MLP);
    assert_int_equal(run_unread("train mlp.yaml --out unread"), 0);
    assert_true(file_exists("unread/summary.json"));
    assert_int_equal(run_unread("convert unread"), 0);
    assert_int_equal(run_unread("eval unread"), 1); /* what it found is lost */
}

static void test_full_device(void **state) {
    (void)state;
    text_file("mlp.yaml", MLP);
    Result result =
        program_run((Start){.output = "/dev/full"}, "train mlp.yaml --out full train.steps=2");
    assert_code(result, 1, "train into a full device");
    assert_has(result.err, "cannot write to standard output: No space left");
}

/* What was printed at once is lost at once, and the stream forgets why. */
static void test_output_that_was_lost_before(void **state) {
    (void)state;
    pid_t child = fork();
    if (!child) {
        Error err = {0};
        program_redirect("/dev/full", 1);
        setvbuf(stdout, NULL, _IONBF, 0);
        putchar('x');
        bool is_told = !streams_flush(true, &err) && strstr(err.message, "a part of it is lost");
        _exit(is_told ? 0 : 1);
    }
    assert_int_equal(wait_for(child), 0);
}

/* ---- Terminals that close ---- */

/* Starts nibble as the first process of a terminal, with its standard streams there. */
static pid_t start_in_terminal(const char *command, bool ignores_hangup, int *terminal) {
    *terminal = posix_openpt(O_RDWR | O_NOCTTY);
    assert_true(*terminal >= 0);
    assert_int_equal(grantpt(*terminal) | unlockpt(*terminal), 0);
    const char *name = ptsname(*terminal);
    pid_t child = fork();
    if (!child) {
        setsid();
        int fd = open(name, O_RDWR);
        if (fd < 0 || ioctl(fd, TIOCSCTTY, 0)) _exit(126);
        for (int stream = 0; stream < 3; stream++) dup2(fd, stream);
        close(fd);
        close(*terminal);
        setenv("TERM", "xterm", 1);
        signal(SIGHUP, ignores_hangup ? SIG_IGN : SIG_DFL);
        run_nibble(command);
    }
    return child;
}

/* Reads what is shown until the run has logged steps: who does not read stops who writes. */
static void watch_until_logged(int terminal, const char *directory) {
    const char *path = format("%s/metrics.jsonl", directory);
    char text[4096];
    struct stat status;
    fcntl(terminal, F_SETFL, O_NONBLOCK);
    for (int i = 0; i < 6000 && (stat(path, &status) || !status.st_size); i++) {
        while (read(terminal, text, sizeof text) > 0) continue;
        usleep(10000);
    }
}

static void make_whole(void) {
    if (file_exists("whole/summary.json")) return;
    text_file("long.yaml", LONG);
    run(0, "train long.yaml --out whole");
}

static void test_terminal_that_closes(void **state) {
    (void)state;
    int terminal;
    make_whole();
    pid_t child = start_in_terminal("train long.yaml --out hung", false, &terminal);
    watch_until_logged(terminal, "hung");
    close(terminal);
    assert_int_equal(wait_for(child), 128 + SIGHUP);
    assert_false(file_exists("hung/summary.json"));
    check_log("hung");
    run(0, "train --resume hung");
    assert_files_equal("hung/checkpoint.h5", "whole/checkpoint.h5");
}

static void test_terminal_that_closes_without_hangup(void **state) {
    (void)state;
    int terminal;
    make_whole();
    pid_t child = start_in_terminal("train long.yaml --out nohup", true, &terminal);
    watch_until_logged(terminal, "nohup");
    close(terminal);
    assert_int_equal(wait_for(child), 0);
    assert_true(file_exists("nohup/summary.json"));
    check_log("nohup");
    assert_files_equal("nohup/checkpoint.h5", "whole/checkpoint.h5");
}

/* A shell passes on the signal that the kernel sends too. */
static void test_several_hangups(void **state) {
    (void)state;
    make_whole();
    pid_t child = program_start((Start){0}, "train long.yaml --out often");
    struct stat status;
    for (int i = 0; i < 6000 && (stat("often/metrics.jsonl", &status) || !status.st_size); i++)
        usleep(10000);
    siginfo_t ended = {0};
    while (!waitid(P_PID, (id_t)child, &ended, WEXITED | WNOHANG | WNOWAIT) && !ended.si_pid) {
        kill(child, SIGHUP);
        usleep(500);
    }
    Result result = program_wait(child);
    assert_code(result, 128 + SIGHUP, "train (to be hung up on)");
    assert_has(result.err, "stopped by SIGHUP after step");
    run(0, "inspect often/checkpoint.h5");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_closed_streams),
        cmocka_unit_test(test_pipes_without_a_reader),
        cmocka_unit_test(test_full_device),
        cmocka_unit_test(test_output_that_was_lost_before),
        cmocka_unit_test(test_terminal_that_closes),
        cmocka_unit_test(test_terminal_that_closes_without_hangup),
        cmocka_unit_test(test_several_hangups),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
