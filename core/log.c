#include "core/log.h"

#include <stdarg.h>
#include <stddef.h>

#include "core/print.h"

static LogTarget target;

LogTarget log_set_sink(LogSink sink, void *context) {
    LogTarget before = target;
    target = (LogTarget){sink, context};
    return before;
}

void log_write(LogLevel level, const char *format, ...) {
    if (!target.sink) return;
    char message[1024];
    va_list args;
    va_start(args, format);
    print_format(message, sizeof message, format, args);
    va_end(args);
    target.sink(target.context, level, message);
}
