/* Work on bytes that nobody checked, in a child process that may crash, stall or swell.
 *
 * Before the work begins, the child gives up for good (data/confine.h) files, network, processes,
 * privileges and descriptors: it computes on memory that the parent had before, and writes its
 * result to a pipe and at most one message to another. It leaves no core dump, and dies at limits
 * of memory and processor time, and with its parent. Where the system cannot do all of that, the
 * work is not begun: ERROR_SYSTEM.
 *
 * Best started before OpenMP and BLAS have threads; the work itself must use neither, nor open
 * anything: a file is mapped beforehand (core/file.h). What comes out of the pipe is as untrusted
 * as the file. */
#ifndef NIBBLE_DATA_SANDBOX_H
#define NIBBLE_DATA_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/error.h"

typedef struct Sandbox {
    pid_t child;
    int output, errors; /* ends of pipes */
    const char *name;
} Sandbox;

typedef struct SandboxLimits {
    int64_t memory_bytes;  /* beyond what this process has now */
    int processor_seconds; /* until sandbox_allow_time gives more */
    int stall_seconds;     /* longest wait for the next byte */
} SandboxLimits;

/* False under the sanitizers whose shadow memory is larger than any bound. */
bool sandbox_bounds_memory(void);

/* Runs in the child; writes its result with sandbox_write. */
typedef bool (*SandboxWork)(const void *context, int output, Error *err);
bool sandbox_write(int output, const void *bytes, size_t count, Error *err);

/* `name` is for messages and must outlive the sandbox. */
bool sandbox_start(SandboxWork work, const void *context, SandboxLimits limits, const char *name,
                   Sandbox *out, Error *err);
/* Exactly `count` bytes of the result, or the child's own error, or how it died. */
bool sandbox_read(Sandbox *sandbox, const SandboxLimits *limits, void *bytes, size_t count,
                  Error *err);
/* More processor time, for work whose size has become known. */
void sandbox_allow_time(const Sandbox *sandbox, int64_t processor_seconds);
/* Ends the child, whether it was done or not. */
void sandbox_stop(Sandbox *sandbox);

#endif
