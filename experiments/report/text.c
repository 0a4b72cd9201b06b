#include "experiments/report/text.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "core/file.h"
#include "data/envelope.h"

static bool write_plainly(const char *path, const char *text, Error *err) {
    int fd = file_open(path, FILE_CREATE, err);
    if (fd < 0) return false;
    bool is_written = file_write_bytes(fd, text, strlen(text));
    int cause = errno;
    if (close(fd) && is_written) {
        is_written = false;
        cause = errno;
    }
    if (is_written) return true;
    return FAIL(err, ERROR_SYSTEM, "%s: cannot write: %s", path, strerror(cause));
}

bool text_write(const char *path, const char *text, Error *err) {
    Arena *arena = arena_new("file names");
    const char *temporary = envelope_begin(path, arena);
    bool is_done =
        write_plainly(temporary, text, err) && envelope_publish(temporary, path, NULL, err);
    if (!is_done) unlink(temporary);
    arena_free(arena);
    return is_done;
}

const char *text_last_name(const char *path, Arena *arena) {
    size_t end = strlen(path);
    while (end && path[end - 1] == '/') end--;
    size_t start = end;
    while (start && path[start - 1] != '/') start--;
    return arena_format(arena, "%.*s", (int)(end - start), path + start);
}

bool text_write_json(const Json *object, const char *path, Error *err) {
    Arena *arena = arena_new("JSON");
    bool is_done = text_write(path, json_indented(object, arena), err);
    arena_free(arena);
    return is_done;
}

const char *text_capital(const char *word, Arena *arena) {
    return arena_format(arena, "%c%s", toupper((unsigned char)*word), word + 1);
}
