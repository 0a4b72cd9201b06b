#include "core/error.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void error_set(Error *err, ErrorCode code, const char *file, int line, const char *format, ...) {
    assert(err && code != ERROR_NONE);
    if (err->code != ERROR_NONE) return;
    err->code = code;
    err->file = file;
    err->line = line;
    va_list args;
    va_start(args, format);
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
}

bool error_blame(Error *err, const char *format, ...) {
    va_list args;
    va_start(args, format);
    if (!err->setting[0]) vsnprintf(err->setting, sizeof err->setting, format, args);
    va_end(args);
    return false;
}

void error_prefix(Error *err, const char *format, ...) {
    char text[sizeof err->message] = "";
    va_list args;
    va_start(args, format);
    int used = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (used < 0) return;
    size_t room = sizeof text - 3, prefix = (size_t)used < room ? (size_t)used : room;
    memcpy(text + prefix, ": ", 2);
    size_t rest = strnlen(err->message, room - prefix);
    memcpy(text + prefix + 2, err->message, rest);
    text[prefix + 2 + rest] = 0;
    memcpy(err->message, text, sizeof text);
}

void error_append(Error *err, const char *format, ...) {
    size_t used = strnlen(err->message, sizeof err->message - 1);
    va_list args;
    va_start(args, format);
    vsnprintf(err->message + used, sizeof err->message - used, format, args);
    va_end(args);
}
