#include "core/cpu_load.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

enum { TEXT_BYTES = 256 };

int cpu_load_running(const char *text) {
    int running, all;
    bool is_read = sscanf(text, "%*f %*f %*f %d/%d", &running, &all) == 2;
    return is_read && running > 0 ? running : 0;
}

static int running_now(void) {
    char text[TEXT_BYTES];
    FILE *file = fopen("/proc/loadavg", "re");
    if (!file) return 0;
    bool is_read = fgets(text, sizeof text, file);
    fclose(file);
    return is_read ? cpu_load_running(text) : 0;
}

int cpu_load_own(void) {
    DIR *tasks = opendir("/proc/self/task");
    int running = 0;
    for (struct dirent *task; tasks && (task = readdir(tasks));) {
        char path[TEXT_BYTES], text[TEXT_BYTES];
        snprintf(path, sizeof path, "/proc/self/task/%.20s/stat", task->d_name);
        FILE *file = fopen(path, "re");
        if (!file) continue;
        const char *name_end = fgets(text, sizeof text, file) ? strrchr(text, ')') : NULL;
        running += name_end && !strncmp(name_end, ") R", 3);
        fclose(file);
    }
    if (tasks) closedir(tasks);
    return running;
}

int cpu_load_others(void) {
    int others = running_now() - cpu_load_own();
    return others > 0 ? others : 0;
}

bool cpu_load_is_due(const CpuLoad *load, double now) {
    const double seconds_between = 0.25;
    return load->looked == 0 || now - load->looked >= seconds_between;
}

void cpu_load_add(CpuLoad *load, double now, int others) {
    const double share = load->looked == 0 ? 1 : 0.25;
    load->others += share * (others - load->others);
    load->looked = now;
}

int cpu_load_left(const CpuLoad *load, int cores, int most) {
    int left = cores - (int)(load->others + 0.5);
    return left < 1 ? 1 : left < most ? left : most;
}
