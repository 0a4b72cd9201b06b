/* Text for people. What comes from a file, a command line or another library may hold anything;
 * shown as it is, it would move a terminal's cursor, begin a line of its own, or turn its
 * neighbours around. So whatever is printed, logged or put into an Error goes through here.
 *
 * Written out: control characters (also DEL and U+0080 to U+009F), line and paragraph separators,
 * what changes the direction of writing, and bytes that are no UTF-8: "\n", "\x1b", "\u202e". All
 * other text stays as it is. */
#ifndef NIBBLE_CORE_PRINT_H
#define NIBBLE_CORE_PRINT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "core/arena.h"

/* As printf and fprintf. Line breaks of the format are kept; where the arguments have some too,
 * only one at the end is. */
void print_out(const char *format, ...) __attribute__((format(printf, 1, 2))); /* to stdout */
void print_to(FILE *stream, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* As vsnprintf, into `room` > 0 bytes, on one line: every line break is written out. What does not
 * fit is left out, from a whole character on. */
void print_format(char *to, size_t room, const char *format, va_list args)
    __attribute__((format(printf, 3, 0)));

/* A text of several lines: line breaks and tabs are kept. */
void print_text(FILE *stream, const char *text, size_t bytes);
/* The same in `arena`, on one line or with line breaks and tabs. */
const char *print_line(const char *text, size_t bytes, Arena *arena);
const char *print_lines(const char *text, size_t bytes, Arena *arena);

/* The character at `text`, of `left` > 0 bytes, and how many it takes. False: there is none;
 * `code` is then the byte, *bytes 1. */
bool print_decode(const char *text, size_t left, unsigned *code, size_t *bytes);
bool print_is_hidden(unsigned code); /* to be written out */

#endif
