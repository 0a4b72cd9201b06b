/* nibble help [topic]: walked from the rows. */
#include <stdio.h>
#include <string.h>

#include "autograd/ops.h"
#include "core/print.h"
#include "data/dataset.h"
#include "experiments/commands/commands.h"
#include "experiments/compare/comparison.h"
#include "experiments/models/models.h"
#include "experiments/settings/config.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "qat/adapter.h"
#include "qat/ptq.h"

/* A topic that is a table of kinds. */
typedef struct Topic {
    const char *name, *help;
    const KindTable *kinds;
} Topic;

static const Topic topics[] = {
    {"models", "model.kind", &model_kinds},
    {"layers", "what a sequential model is written with", &layer_kinds},
    {"datasets", "data.kind", &dataset_kinds},
    {"quantizers", "quant.weights.quantizer, quant.activations.quantizer", &quantizer_kinds},
    {"methods", "quantize: what 'nibble quantize' does one after the other", &ptq_kinds},
    {"adapters", "adapter.kind", &adapter_kinds},
    {"optimizers", "optimizer.kind", &optimizer_kinds},
    {"schedules", "schedule.kind", &schedule_kinds},
    {"contenders", "methods of a comparison", &compare_method_kinds},
};
enum { TOPIC_COUNT = sizeof topics / sizeof *topics };

static void write_line(void *context, const char *text) {
    (void)context;
    puts(text);
}

static void print_overview(void) {
    puts("nibble trains neural networks that fit in a few bits.\n");
    puts("Commands");
    for (int i = 0; i < command_count; i++) {
        print_out("  nibble %s\n", command_rows[i]->synopsis);
        printf("      %s\n", command_rows[i]->help);
    }
    puts("\nTopics (nibble help TOPIC, or the name of a setting or of anything listed there)");
    puts("  config       every setting of a configuration, with its default");
    puts("  comparison   every setting of a comparison (nibble compare)");
    for (int i = 0; i < TOPIC_COUNT; i++) print_out("  %-12s %s\n", topics[i].name, topics[i].help);
    puts("  ops          differentiable operations");
    puts("\nEnvironment");
    puts("  NIBBLE_ISA   baseline, avx2 or avx512: the instructions to use instead of the best");
    puts("  NIBBLE_CPU   the same names: the most that the processor is taken to have");
    puts("\nOptions are written --out DIR, --out=DIR or -o DIR; behind -- there are none.");
    puts("Exit codes: 0 done, 1 failed, 2 the input is wrong, 129, 130 and 143 stopped by a "
         "signal.");
}

static void print_option(const CommandOption *option) {
    char usage[64];
    snprintf(usage, sizeof usage, "%s %s", option->name, option->value ? option->value : "");
    printf("  %-16s %s\n", usage, option->help);
}

static void print_command(const Command *command) {
    printf("nibble %s\n\n%s\n", command->synopsis, command->help);
    for (int i = 0; i < COMMAND_OPTIONS_MAX && command->options[i].name; i++)
        print_option(&command->options[i]);
    if (command->is_parallel) print_option(&command_threads);
}

/* Settings may have the same name, and follow. */
static bool print_command_called(const char *name) {
    for (int i = 0; i < command_count; i++) {
        if (strcmp(name, command_rows[i]->name)) continue;
        print_command(command_rows[i]);
        puts("");
        return true;
    }
    return false;
}

static bool print_kind(const char *name) {
    bool found = false;
    for (int i = 0; i < TOPIC_COUNT; i++) {
        const Kind *kind = kind_find(topics[i].kinds, name);
        if (!kind) continue;
        if (found) print_out("\n");
        print_out("# %s '%s': %s\n", topics[i].kinds->noun, name, kind->help);
        kind_help(kind, 0, write_line, NULL);
        found = true;
    }
    return found;
}

static bool print_topic(const char *name) {
    if (!strcmp(name, "config")) {
        fields_help(experiment_fields, 0, write_line, NULL);
        return true;
    }
    if (!strcmp(name, "comparison")) {
        fields_help(comparison_fields, 0, write_line, NULL);
        return true;
    }
    if (!strcmp(name, "ops")) {
        for (int i = 0; i < op_row_count; i++) puts(op_rows[i]->name);
        return true;
    }
    for (int i = 0; i < TOPIC_COUNT; i++) {
        if (strcmp(name, topics[i].name)) continue;
        kinds_help(topics[i].kinds, 0, write_line, NULL);
        return true;
    }
    bool is_command = print_command_called(name), is_kind = print_kind(name);
    return fields_help_topic(experiment_fields, name, write_line, NULL) || is_kind || is_command;
}

static bool run(const Arguments *a, Error *err) {
    if (!a->count) {
        print_overview();
        return true;
    }
    if (print_topic(a->items[0])) return true;
    return FAIL(err, ERROR_INPUT, "no help on '%s'; 'nibble help' lists the topics", a->items[0]);
}

const Command command_help = {
    .name = "help",
    .synopsis = "help [TOPIC]",
    .help = "commands, settings, and everything that can be named in a configuration",
    .min_items = 0,
    .max_items = 1,
    .run = run,
};
