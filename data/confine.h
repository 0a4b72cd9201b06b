/* A process that can do nothing any more but compute, ask for memory, write to the descriptors that
 * it holds, and end.
 *
 * confine() takes for good from the calling thread: new privileges (no_new_privs), capabilities,
 * and every system call but those of a table (seccomp). What is not in the table fails with EPERM
 * and does not kill: libraries try calls that they can do without, and others do so in each of
 * their versions; who wants to break out gains nothing by trying again. A call of another
 * architecture's numbers kills the process. Memory that can be executed cannot be had.
 *
 * x86-64 and aarch64. Elsewhere, and where the kernel lets no process be confined, confine() fails,
 * and what should have been confined must not be done. */
#ifndef NIBBLE_DATA_CONFINE_H
#define NIBBLE_DATA_CONFINE_H

#include "core/error.h"

/* Descriptors, limits and signals are the caller's affair (data/sandbox.h). ERROR_SYSTEM. */
bool confine(Error *err);

/* False under the sanitizers whose shadow memory is larger than any bound. They need their standard
 * error, and a few calls more. */
bool confine_has_shadow_memory(void);

#endif
