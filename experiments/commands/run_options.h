/* What commands that open a run directory share: overrides behind DIR, and --calibrate. */
#ifndef NIBBLE_EXPERIMENTS_COMMANDS_RUN_OPTIONS_H
#define NIBBLE_EXPERIMENTS_COMMANDS_RUN_OPTIONS_H

#include "experiments/commands/commands.h"
#include "experiments/train/experiment.h"

#define RUN_OPTION_CALIBRATE                                                                       \
    {                                                                                              \
        "--calibrate", "N",                                                                        \
            "quantizers that training gave no range take it from the first N training images "     \
            "(validation left out, not augmented), learned ranges from the first batch of them"    \
    }

/* From the arguments behind the first, DIR, and the value of --calibrate or NULL. */
bool run_options_read(const Arguments *a, const char *calibrate, RunOptions *out, Error *err);

/* The value of an option that takes a count of at least `low`. */
bool run_option_count(const char *option, const char *text, int64_t low, int64_t *out, Error *err);

#endif
