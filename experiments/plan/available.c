#include "experiments/plan/available.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "core/counts.h"

enum { PATH_BYTES = 4096, LINE_BYTES = 4400 };

/* The number after `key` and blanks at the start of a line; "" takes the first line's. False where
 * there is none ("max": no limit). */
static bool number_in(const char *path, const char *key, int64_t *value) {
    FILE *file = fopen(path, "re");
    if (!file) return false;
    char line[LINE_BYTES];
    bool found = false;
    long long number;
    size_t length = strlen(key);
    while (!found && fgets(line, sizeof line, file))
        found = !strncmp(line, key, length) && sscanf(line + length, " %lld", &number) == 1;
    fclose(file);
    if (found) *value = number;
    return found;
}

/* Names of the files of one version of control groups. */
typedef struct Version {
    const char *root, *limit, *usage, *reclaimable;
} Version;

static const Version version_1 = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                  "memory.usage_in_bytes", "total_inactive_file "};
static const Version version_2 = {"/sys/fs/cgroup", "memory.max", "memory.current",
                                  "inactive_file "};

/* What one group has left; cached files that nobody uses are given up for it. */
static int64_t left_in(const Version *version, const char *group) {
    char path[PATH_BYTES];
    int64_t limit, usage, cached = 0;
    snprintf(path, sizeof path, "%s%s/%s", version->root, group, version->limit);
    if (!number_in(path, "", &limit)) return INT64_MAX;
    snprintf(path, sizeof path, "%s%s/%s", version->root, group, version->usage);
    if (!number_in(path, "", &usage)) return INT64_MAX;
    snprintf(path, sizeof path, "%s%s/memory.stat", version->root, group);
    number_in(path, version->reclaimable, &cached);
    int64_t left = limit - usage + cached;
    return left < 0 ? 0 : left;
}

/* A group and those that it is in. In a container the path may be the host's and not be found; what
 * is mounted is then its own group. */
static int64_t left_in_path(const Version *version, char *group) {
    int64_t left = left_in(version, "");
    for (char *slash; (slash = strrchr(group, '/')); *slash = '\0')
        if (slash[1]) left = count_least(left, left_in(version, group));
    return left;
}

/* Lines are "number:controllers:path"; those of version 2 name no controllers. */
static int64_t left_in_groups(void) {
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (!file) return INT64_MAX;
    char line[LINE_BYTES], controllers[256], group[PATH_BYTES / 2];
    int64_t left = INT64_MAX;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%*d::%2047[^\n]", group) == 1)
            left = count_least(left, left_in_path(&version_2, group));
        else if (sscanf(line, "%*d:%255[^:]:%2047[^\n]", controllers, group) == 2 &&
                 strstr(controllers, "memory"))
            left = count_least(left, left_in_path(&version_1, group));
    }
    fclose(file);
    return left;
}

int64_t available_bytes(void) {
    int64_t kilobytes, left = left_in_groups();
    if (number_in("/proc/meminfo", "MemAvailable:", &kilobytes))
        left = count_least(left, kilobytes * 1024);
    return left;
}
