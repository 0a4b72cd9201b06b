#include "core/error.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/print.h"

enum {
    PREFIX_MIN = 64, /* bytes that a prefix may have in any case */
    PREFIX_MAX = 8192,
};

void error_set(Error *err, ErrorCode code, const char *file, int line, const char *format, ...) {
    assert(err && code != ERROR_NONE);
    if (err->code != ERROR_NONE) return;
    err->code = code;
    err->file = file;
    err->line = line;
    va_list args;
    va_start(args, format);
    print_format(err->message, sizeof err->message, format, args);
    va_end(args);
}

bool error_blame(Error *err, const char *format, ...) {
    va_list args;
    va_start(args, format);
    if (!err->setting[0]) vsnprintf(err->setting, sizeof err->setting, format, args);
    va_end(args);
    return false;
}

/* Whether it is a later byte of a character. */
static bool is_inside(char byte) {
    return ((unsigned char)byte & 0xc0) == 0x80;
}

/* Where there is no room for both, the prefix loses its middle: the message ends with a remedy. */
void error_prefix(Error *err, const char *format, ...) {
    char prefix[PREFIX_MAX] = "", text[sizeof err->message];
    va_list args;
    va_start(args, format);
    print_format(prefix, sizeof prefix, format, args);
    va_end(args);
    size_t length = strlen(prefix), taken = strlen(err->message) + sizeof ": ";
    size_t room = taken + PREFIX_MIN < sizeof text ? sizeof text - taken : PREFIX_MIN;
    if (length > room) {
        size_t kept = (room - strlen("...")) / 2, end = length - kept;
        while (is_inside(prefix[kept])) kept--;
        while (is_inside(prefix[end])) end++;
        memmove(prefix + kept + strlen("..."), prefix + end, length - end + 1);
        memcpy(prefix + kept, "...", strlen("..."));
    }
    int used = snprintf(text, sizeof text, "%.*s: ", (int)room, prefix);
    snprintf(text + used, sizeof text - (size_t)used, "%.*s", (int)(sizeof text - 1) - used,
             err->message);
    memcpy(err->message, text, sizeof text);
}

void error_append(Error *err, const char *format, ...) {
    size_t used = strnlen(err->message, sizeof err->message - 1);
    va_list args;
    va_start(args, format);
    print_format(err->message + used, sizeof err->message - used, format, args);
    va_end(args);
}
