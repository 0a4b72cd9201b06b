#include "experiments/train/stop.h"

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

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

static bool is_ignored(int number) {
    struct sigaction before;
    return !sigaction(number, NULL, &before) && before.sa_handler == SIG_IGN;
}

void stop_install(void) {
    for (int i = 0; i < ROWS; i++) {
        if (rows[i].number == SIGHUP && is_ignored(SIGHUP)) continue;
        struct sigaction action = {.sa_handler = on_signal, .sa_flags = rows[i].flags | SA_RESTART};
        sigemptyset(&action.sa_mask);
        sigaction(rows[i].number, &action, NULL);
    }
}

int stop_signal(void) {
    return received;
}

const char *stop_name(void) {
    for (int i = 0; i < ROWS; i++)
        if (rows[i].number == received) return rows[i].name;
    return "no signal";
}
