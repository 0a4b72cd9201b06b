/* Messages for people. The library itself never prints: it calls the sink, which a program sets.
 * Without a sink, messages go nowhere. A message is one line of printable text (core/print.h). */
#ifndef NIBBLE_CORE_LOG_H
#define NIBBLE_CORE_LOG_H

typedef enum LogLevel { LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERROR } LogLevel;

typedef void (*LogSink)(void *context, LogLevel level, const char *message);

typedef struct LogTarget {
    LogSink sink;
    void *context;
} LogTarget;

/* Returns the target before, for putting it back. */
LogTarget log_set_sink(LogSink sink, void *context);
void log_write(LogLevel level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_info(...)    log_write(LOG_INFO, __VA_ARGS__)
#define log_warning(...) log_write(LOG_WARNING, __VA_ARGS__)

#endif
