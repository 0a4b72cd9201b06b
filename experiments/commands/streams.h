/* The standard streams of the program: open from the start, and what was printed arrives. */
#ifndef NIBBLE_EXPERIMENTS_COMMANDS_STREAMS_H
#define NIBBLE_EXPERIMENTS_COMMANDS_STREAMS_H

#include <stdbool.h>

#include "core/error.h"

/* Opens those of 0, 1, 2 that are closed on /dev/null: else the next file would get that number,
 * and what is printed. Before any file is opened; false: it cannot be. */
bool streams_open(void);

/* What was printed must have arrived: a full disk is not a success. Where nobody is left to read, a
 * terminal or pipe that was closed, that is a failure only if `is_result`, when there is no other
 * place where it stands. */
bool streams_flush(bool is_result, Error *err);

#endif
