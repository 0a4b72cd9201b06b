/* How much processor time a container grants: threads beyond it only wait for each other.
 * cgroup v2: cpu.max, "QUOTA PERIOD" or "max PERIOD" (Linux, Documentation/admin-guide/cgroup-v2).
 * cgroup v1: cpu.cfs_quota_us and cpu.cfs_period_us of the cpu controller; a quota of -1: none. */
#ifndef NIBBLE_CORE_CPU_QUOTA_H
#define NIBBLE_CORE_CPU_QUOTA_H

/* Processors' worth of time, the least of the process's group and of those around it; 0: no limit,
 * or none that can be read. */
double cpu_quota(void);

/* The same with the text of /proc/self/cgroup, and the folder where groups are mounted. */
double cpu_quota_of(const char *groups, const char *root);

/* Whole threads that this much time, above 0, keeps busy. */
int cpu_quota_threads(double quota);

#endif
