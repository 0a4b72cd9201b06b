/* Regular expressions over UTF-8, as tokenizers write them: Perl's, with Unicode's classes. The
 * only door to PCRE2. What a pattern may cost is limited: one that needs more is an error. */
#ifndef NIBBLE_DATA_TEXT_REGEX_H
#define NIBBLE_DATA_TEXT_REGEX_H

#include "core/error.h"
#include "data/text/unicode.h"

typedef struct Regex Regex;

/* Closed by the caller; NULL: ERROR_INPUT that says where the pattern fails. */
Regex *regex_new(const char *pattern, Error *err);
void regex_free(Regex *regex); /* accepts NULL */

/* How many steps a match may take, instead of a million: where there are many. */
void regex_limit(Regex *regex, int steps);

/* The first match in valid text from byte `from` on: [*start, *end); *start = -1: there is none.
 * False: it costs too much. One thread at a time. */
bool regex_find(Regex *regex, Span text, int64_t from, int64_t *start, int64_t *end, Error *err);

#endif
