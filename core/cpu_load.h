/* Whether other programs want this machine's cores. */
#ifndef NIBBLE_CORE_CPU_LOAD_H
#define NIBBLE_CORE_CPU_LOAD_H

#include <stdbool.h>

/* Threads that run or wait for a core, this one too, from the text of /proc/loadavg (proc(5)):
 * "0.20 0.18 0.12 RUNNING/ALL PID". 0: it is not such a text. */
int cpu_load_running(const char *text);

/* Threads of this process that run or wait for a core now. Those that wait for work may spin, of
 * libraries too. */
int cpu_load_own(void);

/* How many cores other programs want just now, by the kernel's count of threads that run, without
 * this process's own. */
int cpu_load_others(void);

/* The same over some time: the first look, then of each a quarter more than of all before it. */
typedef struct CpuLoad {
    double others;
    double looked; /* seconds of a clock that does not go back; 0: not yet */
} CpuLoad;

bool cpu_load_is_due(const CpuLoad *load, double now); /* a look, four times a second */
void cpu_load_add(CpuLoad *load, double now, int others);
/* How many of `cores` are left, at least 1 and at most `most`. */
int cpu_load_left(const CpuLoad *load, int cores, int most);

#endif
