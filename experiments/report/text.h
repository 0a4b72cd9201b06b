/* Text files that are replaced whole: a reader, or a crash, sees the old file or the new one. */
#ifndef NIBBLE_EXPERIMENTS_REPORT_TEXT_H
#define NIBBLE_EXPERIMENTS_REPORT_TEXT_H

#include <stdbool.h>

#include "core/arena.h"
#include "core/error.h"
#include "core/json.h"

/* Written beside `path`, synced, renamed (data/envelope.h, without its trailer). */
bool text_write(const char *path, const char *text, Error *err);
bool text_write_json(const Json *object, const char *path, Error *err); /* json_indented */

/* The last name of a path, or of a directory's with slashes at its end: where a file lies is no
 * part of a report. Of "/" it is "". */
const char *text_last_name(const char *path, Arena *arena);

/* "accuracy" as "Accuracy" */
const char *text_capital(const char *word, Arena *arena);

#endif
