#include "experiments/train/environment.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "core/blas.h"
#include "core/file.h"
#include "core/kernels.h"
#include "core/log.h"
#include "core/parallel.h"
#include "experiments/report/text.h"

double environment_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int64_t environment_peak_rss_bytes(void) {
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage)) return 0;
    return (int64_t)usage.ru_maxrss * 1024; /* Linux counts in KiB */
}

int64_t environment_rss_bytes(void) {
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file) return 0;
    long size, resident; /* pages */
    bool is_read = fscanf(file, "%ld %ld", &size, &resident) == 2;
    fclose(file);
    return is_read ? (int64_t)resident * (int64_t)sysconf(_SC_PAGESIZE) : 0;
}

/* The value behind the first line "key <blanks><separator>value" of a text file, without blanks and
 * quotes around it; NULL if there is none. */
static const char *file_value(const char *path, const char *key, char separator, char text[256]) {
    FILE *file = fopen(path, "r");
    if (!file) return NULL;
    const char *value = NULL;
    while (!value && fgets(text, 256, file)) {
        size_t length = strlen(key);
        if (strncmp(text, key, length)) continue;
        char *at = text + length;
        at += strspn(at, " \t");
        if (*at != separator) continue;
        at += 1 + strspn(at + 1, " \t\"");
        at[strcspn(at, "\"\n")] = '\0';
        value = at;
    }
    fclose(file);
    return value;
}

static int usable_cores(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) ? 0 : CPU_COUNT(&set);
}

static void set_count(Json *json, const char *path, int64_t count) {
    if (count > 0) {
        json_set_int(json, path, count);
    } else {
        json_set_text(json, path, NULL);
    }
}

static void set_machine(Json *json) {
    char text[256];
    json_set_text(json, "machine.cpu", file_value("/proc/cpuinfo", "model name", ':', text));
    set_count(json, "machine.cores", sysconf(_SC_NPROCESSORS_ONLN));
    set_count(json, "machine.usable_cores", usable_cores());
    set_count(json, "machine.memory_bytes",
              (int64_t)sysconf(_SC_PHYS_PAGES) * (int64_t)sysconf(_SC_PAGESIZE));
}

static void set_system(Json *json) {
    char text[256];
    struct utsname kernel;
    bool is_known = !uname(&kernel);
    if (is_known)
        snprintf(text, sizeof text, "%.60s %.60s %.60s", kernel.sysname, kernel.release,
                 kernel.machine);
    json_set_text(json, "system.kernel", is_known ? text : NULL);
    json_set_text(json, "system.name", file_value("/etc/os-release", "PRETTY_NAME", '=', text));
}

static const char *compiler(void) {
#ifdef __clang__
    return __VERSION__; /* begins with its name */
#else
    return "gcc " __VERSION__;
#endif
}

void environment_describe(Json *json) {
    json_set_text(json, "nibble.version", NIBBLE_VERSION);
    json_set_text(json, "nibble.compiler", compiler());
    set_machine(json);
    set_system(json);
    json_set_int(json, "threads", parallel_threads());
    json_set_text(json, "blas", blas_description());
    json_set_text(json, "kernels", kernels_description());
}

bool environment_write(const char *path, Error *err) {
    Json *json = json_new();
    environment_describe(json);
    bool is_written = text_write_json(json, path, err);
    json_free(json);
    return is_written;
}

static void compare_field(const Json *before, const Json *now, const char *field) {
    const char *was = json_get_text(before, field), *is = json_get_text(now, field);
    if (was && is && strcmp(was, is) != 0)
        log_warning(
            "this run was made with %s '%s' and goes on with '%s': its last bits will differ "
            "from those of a run that stayed",
            field, was, is);
}

void environment_compare(const char *path) {
    Error err = {0};
    if (file_find(path, &err) == FILE_ABSENT) return;
    Json *before = json_read_file(path, &err), *now = json_new();
    environment_describe(now);
    if (!before) log_warning("%s", err.message);
    if (before) compare_field(before, now, "kernels");
    json_free(before);
    json_free(now);
}
