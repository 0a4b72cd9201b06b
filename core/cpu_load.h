/* Whether other programs want this machine's cores. */
#ifndef NIBBLE_CORE_CPU_LOAD_H
#define NIBBLE_CORE_CPU_LOAD_H

#include <stdbool.h>

/* Threads that run or wait for a core, this one too, from the text of /proc/loadavg (proc(5)):
 * "0.20 0.18 0.12 RUNNING/ALL PID". 0: it is not such a text. */
int cpu_load_running(const char *text);

/* How many cores other programs want just now, by the kernel's count of threads that run, without
 * this process's own. */
int cpu_load_others(void);

#endif
