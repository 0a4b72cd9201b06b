#include "core/cpu_quota.h"

#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_BYTES = 4096, PATH_BYTES = 4096 };

/* The beginning of a small file; false: it cannot be read. */
static bool read_text(const char *path, char text[TEXT_BYTES]) {
    FILE *file = fopen(path, "re");
    if (!file) return false;
    size_t bytes = fread(text, 1, TEXT_BYTES - 1, file);
    text[bytes] = '\0';
    fclose(file);
    return true;
}

static bool read_in(const char *folder, const char *name, char text[TEXT_BYTES]) {
    char path[PATH_BYTES];
    int length = snprintf(path, sizeof path, "%s/%s", folder, name);
    return length > 0 && length < PATH_BYTES && read_text(path, text);
}

/* 0: no limit. */
static double quota_over(const char *quota, const char *period) {
    double time = strtod(quota, NULL), of = strtod(period, NULL);
    return time > 0 && of > 0 ? time / of : 0;
}

/* The limit of one group. */
static double quota_in(const char *folder) {
    char quota[TEXT_BYTES], period[TEXT_BYTES];
    if (read_in(folder, "cpu.max", quota)) {
        const char *space = strchr(quota, ' ');
        return space ? quota_over(quota, space) : 0;
    }
    bool is_v1 =
        read_in(folder, "cpu.cfs_quota_us", quota) && read_in(folder, "cpu.cfs_period_us", period);
    return is_v1 ? quota_over(quota, period) : 0;
}

static double least(double a, double b) {
    if (a == 0 || b == 0) return a + b;
    return a < b ? a : b;
}

/* Of `group` under `root`, and of the groups around it. */
static double quota_up(const char *root, const char *group) {
    char folder[PATH_BYTES];
    int length = snprintf(folder, sizeof folder, "%s%s", root, group);
    if (length < 0 || length >= PATH_BYTES) return 0;
    double quota = 0;
    for (size_t top = strlen(root); strlen(folder) >= top;) {
        quota = least(quota, quota_in(folder));
        char *slash = strrchr(folder, '/');
        if (!slash) break;
        *slash = '\0';
    }
    return quota;
}

/* Whether the comma-separated list of controllers, which ends at `end`, names the cpu's. */
static bool has_cpu(const char *list, const char *end) {
    while (list < end) {
        size_t length = strcspn(list, ",:");
        if (length == 3 && !strncmp(list, "cpu", 3)) return true;
        list += length + 1;
    }
    return false;
}

/* Lines are "ID:CONTROLLERS:GROUP"; of v2 there is one, without controllers. */
double cpu_quota_of(const char *groups, const char *root) {
    double quota = 0;
    for (const char *line = groups; *line;) {
        size_t length = strcspn(line, "\n");
        char group[PATH_BYTES], v1[PATH_BYTES];
        const char *list = memchr(line, ':', length);
        const char *colon = list ? memchr(list + 1, ':', length - (size_t)(list + 1 - line)) : NULL;
        if (colon) {
            snprintf(group, sizeof group, "%.*s", (int)(line + length - colon - 1), colon + 1);
            snprintf(v1, sizeof v1, "%s/cpu", root);
            if (colon == list + 1) quota = least(quota, quota_up(root, group));
            if (has_cpu(list + 1, colon)) quota = least(quota, quota_up(v1, group));
        }
        line += length + (line[length] == '\n');
    }
    return quota;
}

double cpu_quota(void) {
    char groups[TEXT_BYTES];
    return read_text("/proc/self/cgroup", groups) ? cpu_quota_of(groups, "/sys/fs/cgroup") : 0;
}

int cpu_quota_threads(double quota) {
    return (int)fmin(ceil(quota), INT_MAX);
}
