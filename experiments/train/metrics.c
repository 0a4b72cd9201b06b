#include "experiments/train/metrics.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/file.h"
#include "core/log.h"

static bool fail(const Metrics *m, const char *what, Error *err) {
    return FAIL(err, ERROR_SYSTEM, "%s: cannot %s: %s", m->path, what, strerror(errno));
}

/* Counts lines up to `most`, and the bytes up to the end of the last of them. */
static bool find_end(Metrics *m, int64_t most, off_t *bytes, Error *err) {
    char buffer[4096];
    ssize_t got = 0;
    off_t at = 0;
    *bytes = 0;
    while (m->lines < most && (got = file_read_bytes(m->file, buffer, sizeof buffer)) > 0) {
        for (ssize_t i = 0; i < got && m->lines < most; i++) {
            if (buffer[i] != '\n') continue;
            m->lines++;
            *bytes = at + i + 1;
        }
        at += got;
    }
    return got >= 0 || fail(m, "read", err);
}

static bool mark_missing(Metrics *m, int64_t count, Error *err) {
    if (m->lines >= count) return true;
    log_warning("%s: %ld of the %ld lines before the checkpoint are missing; the run goes on, and "
                "the log has " METRICS_MISSING " in their place",
                m->path, (long)(count - m->lines), (long)count);
    while (m->lines < count) TRY(metrics_add(m, METRICS_MISSING, err));
    return true;
}

bool metrics_open(Metrics *m, const char *path, int64_t keep_lines, Error *err) {
    FileState state = file_find(path, err);
    off_t end;
    *m = (Metrics){.path = path, .file = -1};
    if (state == FILE_UNUSABLE) return false;
    m->file = file_open(path, state == FILE_ABSENT ? FILE_CREATE : FILE_CHANGE, err);
    if (m->file < 0) return false;
    TRY(find_end(m, keep_lines, &end, err));
    if (ftruncate(m->file, end) || lseek(m->file, end, SEEK_SET) < 0)
        return fail(m, "cut it back", err);
    return mark_missing(m, keep_lines, err);
}

bool metrics_add(Metrics *m, const char *line, Error *err) {
    char text[4096];
    int length = snprintf(text, sizeof text, "%s\n", line);
    if (length < 0 || length >= (int)sizeof text)
        return FAIL(err, ERROR_SYSTEM, "%s: a line is too long", m->path);
    if (!file_write_bytes(m->file, text, (size_t)length)) return fail(m, "write", err);
    m->lines++;
    return true;
}

bool metrics_sync(const Metrics *m, Error *err) {
    return !fsync(m->file) || fail(m, "sync", err);
}

void metrics_close(Metrics *m) {
    if (m->file >= 0) close(m->file);
    m->file = -1;
}
