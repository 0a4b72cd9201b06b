#include "experiments/commands/commands.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/parallel.h"
#include "core/settings/field.h"
#include "experiments/train/stop.h"

const Command *const command_rows[] = {
#define COMMAND(name) &command_##name,
#include "experiments/commands/commands.def"
#undef COMMAND
};
const int command_count = sizeof command_rows / sizeof *command_rows;

const CommandOption command_threads = {
    "--threads", "N", "threads to compute with (default: all); no result depends on it"};

enum { ITEMS_MAX = 256 };

static bool find(const char *name, const Command **out, Error *err) {
    const char *names[sizeof command_rows / sizeof *command_rows];
    for (int i = 0; i < command_count; i++) {
        names[i] = command_rows[i]->name;
        *out = command_rows[i];
        if (!strcmp(name, names[i])) return true;
    }
    const char *near = nearest_name(name, names, command_count);
    return FAIL(err, ERROR_INPUT, "unknown command '%s'%s%s%s; 'nibble help' lists them", name,
                near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

static int option_index(const Command *command, const char *name) {
    for (int i = 0; i < COMMAND_OPTIONS_MAX && command->options[i].name; i++)
        if (!strcmp(command->options[i].name, name)) return i;
    return -1;
}

static bool parse_threads(const char *text, int *threads, Error *err) {
    char *end;
    long value = strtol(text, &end, 10);
    if (end == text || *end || value < 1 || value > PARALLEL_THREADS_MAX)
        return FAIL(err, ERROR_INPUT, "%s must be a number from 1 to %d, not '%s'",
                    command_threads.name, PARALLEL_THREADS_MAX, text);
    *threads = (int)value;
    return true;
}

static bool parse(const Command *command, int count, char *const *arguments, char **items,
                  Arguments *out, Error *err) {
    *out = (Arguments){.items = items};
    for (int i = 0; i < count; i++) {
        char *word = arguments[i];
        if (word[0] != '-' || word[1] != '-') {
            if (out->count == ITEMS_MAX) return FAIL(err, ERROR_INPUT, "too many arguments");
            items[out->count++] = word;
            continue;
        }
        if (command->is_parallel && !strcmp(word, command_threads.name)) {
            if (i + 1 == count)
                return FAIL(err, ERROR_INPUT, "%s needs %s", word, command_threads.value);
            TRY(parse_threads(arguments[++i], &out->threads, err));
            continue;
        }
        int row = option_index(command, word);
        if (row < 0)
            return FAIL(err, ERROR_INPUT, "unknown option '%s'; 'nibble help %s' lists them", word,
                        command->name);
        out->values[row] = word;
        if (!command->options[row].value) continue;
        if (i + 1 == count)
            return FAIL(err, ERROR_INPUT, "%s needs %s", word, command->options[row].value);
        out->values[row] = arguments[++i];
    }
    if (out->count < command->min_items ||
        (command->max_items >= 0 && out->count > command->max_items))
        return FAIL(err, ERROR_INPUT, "usage: nibble %s", command->synopsis);
    return true;
}

static int exit_code(const Error *err) {
    switch (err->code) {
    case ERROR_NONE:
        return 0;
    case ERROR_INPUT:
        return 2;
    case ERROR_STOPPED:
        return 128 + stop_signal();
    default:
        return 1;
    }
}

static void print_message(void *context, LogLevel level, const char *message) {
    (void)context;
    fprintf(stderr, "%s%s\n", level == LOG_WARNING ? "warning: " : "", message);
}

/* What was printed must have arrived: a full disk is not a success. */
static bool flush_output(Error *err) {
    if (!fflush(stdout) && !ferror(stdout)) return true;
    return FAIL(err, ERROR_SYSTEM, "cannot write to standard output: %s", strerror(errno));
}

static bool run(int count, char *const *arguments, Error *err) {
    char *items[ITEMS_MAX];
    Arguments parsed;
    const Command *command = &command_help;
    bool asks_help = count && (!strcmp(arguments[0], "--help") || !strcmp(arguments[0], "-h"));
    if (count && !asks_help) TRY(find(arguments[0], &command, err));
    TRY(parse(command, count && !asks_help ? count - 1 : 0, arguments + 1, items, &parsed, err));
    if (command->is_parallel) TRY(parallel_init(parsed.threads, err));
    return command->run(&parsed, err) && flush_output(err);
}

int commands_main(int count, char *const *arguments) {
    signal(SIGXFSZ, SIG_IGN); /* a file-size limit is an error like a full disk */
    signal(SIGPIPE, SIG_IGN);
    log_set_sink(print_message, NULL);
    Error err = {0};
    if (!run(count, arguments, &err)) fprintf(stderr, "nibble: %s\n", err.message);
    return exit_code(&err);
}
