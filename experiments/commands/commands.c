#include "experiments/commands/commands.h"

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/parallel.h"
#include "core/print.h"
#include "core/settings/field.h"
#include "experiments/commands/streams.h"
#include "experiments/train/stop.h"

const Command *const command_rows[] = {
#define COMMAND(name) &command_##name,
#include "experiments/commands/commands.def"
#undef COMMAND
};
const int command_count = sizeof command_rows / sizeof *command_rows;

const CommandOption command_threads = {
    "--threads", "N", "threads to compute with (default: all); no result depends on it"};

enum { ITEMS_MAX = 1 << 16 }; /* files that a shell lists */

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

/* ---- Options ---- */

enum { OPTION_BYTES = 64, OPTIONS_ALL = COMMAND_OPTIONS_MAX + 1 };

/* The command's own, then what all parallel commands take. */
static int options_of(const Command *command, const CommandOption *options[OPTIONS_ALL]) {
    int count = 0;
    while (count < COMMAND_OPTIONS_MAX && command->options[count].name) {
        options[count] = &command->options[count];
        count++;
    }
    if (command->is_parallel) options[count++] = &command_threads;
    return count;
}

/* "--out", or "-o" where no other option begins with that letter. */
static const CommandOption *option_find(const Command *command, const char *name) {
    const CommandOption *options[OPTIONS_ALL], *found = NULL;
    int count = options_of(command, options), alike = 0;
    bool is_letter = name[0] == '-' && name[1] && name[1] != '-' && !name[2];
    for (int i = 0; i < count; i++) {
        if (!strcmp(options[i]->name, name)) return options[i];
        if (!is_letter || options[i]->name[2] != name[1]) continue;
        found = options[i];
        alike++;
    }
    return alike == 1 ? found : NULL;
}

static bool fail_option(const Command *command, const char *name, Error *err) {
    const CommandOption *options[OPTIONS_ALL];
    const char *names[OPTIONS_ALL];
    int count = options_of(command, options);
    for (int i = 0; i < count; i++) names[i] = options[i]->name;
    const char *near = nearest_name(name, names, count);
    return FAIL(err, ERROR_INPUT, "unknown option '%s'%s%s%s; 'nibble help %s' lists them", name,
                near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "", command->name);
}

static bool parse_threads(const char *text, int *threads, Error *err) {
    char *end;
    long value = strtol(text, &end, 10);
    if (*end || value < 1 || value > PARALLEL_THREADS_MAX)
        return FAIL(err, ERROR_INPUT, "%s must be a number from 1 to %d, not '%s'",
                    command_threads.name, PARALLEL_THREADS_MAX, text);
    *threads = (int)value;
    return true;
}

/* The option at arguments[*at], with its value behind "=" or in the next argument. */
static bool parse_option(const Command *command, int count, char *const *arguments, int *at,
                         Arguments *out, Error *err) {
    const char *word = arguments[*at];
    size_t length = strcspn(word, "=");
    const char *value = word[length] ? word + length + 1 : NULL;
    char name[OPTION_BYTES];
    snprintf(name, sizeof name, "%.*s", (int)length, word);
    const CommandOption *option = option_find(command, name);
    if (!option) return fail_option(command, name, err);
    if (!option->value && value)
        return FAIL(err, ERROR_INPUT, "%s takes no value, but '%s' was given", option->name, value);
    if (option->value && !value) {
        if (*at + 1 == count)
            return FAIL(err, ERROR_INPUT, "%s needs %s", option->name, option->value);
        value = arguments[++*at];
    }
    if (option == &command_threads) return parse_threads(value, &out->threads, err);
    out->values[option - command->options] = value ? value : option->name;
    return true;
}

static bool parse(const Command *command, int count, char *const *arguments, char **items,
                  Arguments *out, Error *err) {
    *out = (Arguments){.items = items};
    bool has_options = true;
    for (int i = 0; i < count; i++) {
        char *word = arguments[i];
        if (has_options && !strcmp(word, "--")) {
            has_options = false;
        } else if (has_options && word[0] == '-' && word[1]) {
            TRY(parse_option(command, count, arguments, &i, out, err));
        } else {
            if (out->count == ITEMS_MAX) return FAIL(err, ERROR_INPUT, "too many arguments");
            items[out->count++] = word;
        }
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
    print_to(stderr, "%s%s\n", level == LOG_WARNING ? "warning: " : "", message);
}

static bool asks_help(const char *word) {
    return !strcmp(word, "--help") || !strcmp(word, "-h");
}

/* "nibble train --help" is "nibble help train". */
static bool run_help(const char *topic, Error *err) {
    char *items[] = {(char *)(uintptr_t)topic};
    return command_help.run(&(Arguments){.count = topic != NULL, .items = items}, err);
}

/* `prints_result`: what was printed stands nowhere else. */
static bool run(int count, char *const *arguments, bool *prints_result, Error *err) {
    static char *items[ITEMS_MAX];
    Arguments parsed;
    const Command *command;
    if (!count || asks_help(arguments[0])) return run_help(count > 1 ? arguments[1] : NULL, err);
    if (!strcmp(arguments[0], "--version")) {
        puts("nibble " NIBBLE_VERSION);
        return true;
    }
    TRY(find(arguments[0], &command, err));
    for (int i = 1; i < count && strcmp(arguments[i], "--") != 0; i++)
        if (asks_help(arguments[i])) return run_help(command->name, err);
    TRY(parse(command, count - 1, arguments + 1, items, &parsed, err));
    if (command->is_parallel) TRY(parallel_init(parsed.threads, err));
    *prints_result = !command->writes_files;
    return command->run(&parsed, err);
}

bool commands_call(int count, char *const *arguments, Error *err) {
    bool prints_result;
    return run(count, arguments, &prints_result, err);
}

int commands_main(int count, char *const *arguments) {
    if (!streams_open()) return 1;
    signal(SIGXFSZ, SIG_IGN); /* a file-size limit is an error like a full disk */
    signal(SIGPIPE, SIG_IGN);
    log_set_sink(print_message, NULL);
    Error err = {0};
    bool prints_result = true;
    if (!run(count, arguments, &prints_result, &err) || !streams_flush(prints_result, &err))
        print_to(stderr, "nibble: %s\n", err.message);
    return exit_code(&err);
}
