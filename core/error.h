/* Failures that are not our fault: the user's input or the world is wrong.
 *
 * A function that can fail returns bool and takes an Error *, filled once by the first failure and
 * carried up. The message, a line of printable text, says what is wrong, where, and what to do.
 * Our own mistakes are asserts; lack of memory is handled by the arena (core/arena.h). */
#ifndef NIBBLE_CORE_ERROR_H
#define NIBBLE_CORE_ERROR_H

#include <stdbool.h>

typedef enum ErrorCode {
    ERROR_NONE,
    ERROR_INPUT,    /* configuration, arguments or files are wrong: the program exits with 2 */
    ERROR_SYSTEM,   /* the machine failed: full disk, unreadable device; exits with 1 */
    ERROR_NUMERIC,  /* a non-finite value, named by step and layer; exits with 1 */
    ERROR_MISMATCH, /* verify found a difference; exits with 1 */
    ERROR_STOPPED,  /* a signal asked us to stop; exits with 130 or 143 */
} ErrorCode;

typedef struct Error {
    ErrorCode code;
    const char *file; /* where in nibble's source it was noticed */
    int line;
    char message[480];
    char setting[96]; /* dotted path of the setting at fault, such as "quant.rules.0", or "" */
} Error;

/* Fills `err` unless it already holds an earlier failure. */
void error_set(Error *err, ErrorCode code, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* Names the setting at fault, so that who read the configuration can say where it stands. Returns
 * false: `return FAIL(...) || error_blame(err, "model.depth");` */
bool error_blame(Error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts "prefix: " before the message; for callers that know the place (a file's name, a layer). A
 * long prefix is shortened in its middle, so that the message keeps its end. */
void error_prefix(Error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts more behind the message; for callers that know what follows from it. */
void error_append(Error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define FAIL(err, code, ...) (error_set((err), (code), __FILE__, __LINE__, __VA_ARGS__), false)
#define TRY(call)                                                                                  \
    do {                                                                                           \
        if (!(call)) return false;                                                                 \
    } while (0)

#endif
