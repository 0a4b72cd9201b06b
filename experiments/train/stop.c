#include "experiments/train/stop.h"

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <unistd.h>

static const struct {
    int number;
    const char *name;
    int flags; /* SA_RESETHAND: one shot, the default action is back for the second */
} rows[] = {
    {SIGINT, "SIGINT", (int)SA_RESETHAND},
    {SIGTERM, "SIGTERM", (int)SA_RESETHAND},
    {SIGHUP, "SIGHUP", 0},
};
enum { ROWS = sizeof rows / sizeof *rows };

static volatile sig_atomic_t received;

static void on_signal(int number) {
    if (!received) received = number;
}

static const char *at_once = "";

/* What a handler may call. */
static void print(const char *text) {
    size_t length = 0;
    while (text[length]) length++;
    ssize_t written = write(STDERR_FILENO, text, length);
    (void)written;
}

static void on_signal_at_once(int number) {
    received = number;
    print("nibble: stopped by ");
    print(stop_name());
    print("; ");
    print(at_once);
    print("\n");
    _exit(128 + number);
}

static bool is_ignored(int number) {
    struct sigaction before;
    return !sigaction(number, NULL, &before) && before.sa_handler == SIG_IGN;
}

static void install(void (*handler)(int)) {
    for (int i = 0; i < ROWS; i++) {
        if (rows[i].number == SIGHUP && is_ignored(SIGHUP)) continue;
        struct sigaction action = {.sa_handler = handler, .sa_flags = rows[i].flags | SA_RESTART};
        sigemptyset(&action.sa_mask);
        sigaction(rows[i].number, &action, NULL);
    }
}

void stop_install(void) {
    install(on_signal);
}

void stop_at_once(const char *text) {
    at_once = text;
    install(on_signal_at_once);
}

int stop_signal(void) {
    return received;
}

const char *stop_name(void) {
    for (int i = 0; i < ROWS; i++)
        if (rows[i].number == received) return rows[i].name;
    return "no signal";
}
