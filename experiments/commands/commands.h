/* The commands of the program. A row says what it is called, takes and does; parsing, usage text
 * and exit codes come from the rows. */
#ifndef NIBBLE_EXPERIMENTS_COMMANDS_COMMANDS_H
#define NIBBLE_EXPERIMENTS_COMMANDS_COMMANDS_H

#include <stdbool.h>

#include "core/error.h"

enum { COMMAND_OPTIONS_MAX = 8 };

typedef struct CommandOption {
    const char *name;  /* "--out"; NULL ends the list */
    const char *value; /* what it takes, "DIR"; NULL: nothing */
    const char *help;
} CommandOption;

typedef struct Arguments {
    int count;
    char *const *items;                      /* what is no option */
    const char *values[COMMAND_OPTIONS_MAX]; /* by row of the option table; NULL: not given; an
                                                option without a value: its own name */
    int threads;                             /* 0: as many as there are */
} Arguments;

typedef struct Command {
    const char *name, *synopsis, *help;
    int min_items, max_items; /* of Arguments.count; max -1: any number */
    CommandOption options[COMMAND_OPTIONS_MAX];
    bool writes_files; /* its results; what it prints is for who watches */
    bool is_parallel;  /* takes --threads N, which is set before run */
    bool (*run)(const Arguments *arguments, Error *err);
} Command;

/* What every command with is_parallel takes besides its own options. */
extern const CommandOption command_threads;

#define COMMAND(name) extern const Command command_##name;
#include "experiments/commands/commands.def"
#undef COMMAND

extern const Command *const command_rows[];
extern const int command_count;

/* Finds the command and runs it. The exit code: 0 done, 1 failed, 2 the user's input is wrong, 129,
 * 130 or 143 stopped by a signal. Messages go to stderr. */
int commands_main(int count, char *const *arguments);

/* The same from within the program, in a process of its own: the failure goes to who called. */
bool commands_call(int count, char *const *arguments, Error *err);

#endif
