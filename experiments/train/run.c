#include "experiments/train/run.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file.h"

const char *run_path(Arena *arena, const char *directory, const char *file) {
    return arena_format(arena, "%s/%s", directory, file);
}

static const char *const run_files[] = {RUN_CONFIG,     RUN_ENVIRONMENT, RUN_METRICS, RUN_SUMMARY,
                                        RUN_CHECKPOINT, RUN_PREVIOUS,    RUN_BEST,    RUN_QUANTIZED,
                                        RUN_LOGITS,     RUN_REPORT};

/* Whatever it is, somebody put it there; but an empty log is what a start that failed leaves. */
static bool is_taken(const char *path, const char *file) {
    Error ignored = {0};
    struct stat status;
    FileState state = file_find(path, &ignored);
    bool is_empty = state == FILE_REGULAR && !stat(path, &status) && status.st_size == 0;
    return state != FILE_ABSENT && !(is_empty && !strcmp(file, RUN_METRICS));
}

const char *run_find_file(const char *directory) {
    Arena *arena = arena_new("run directory");
    const char *found = NULL;
    for (size_t i = 0; !found && i < sizeof run_files / sizeof *run_files; i++)
        if (is_taken(run_path(arena, directory, run_files[i]), run_files[i])) found = run_files[i];
    arena_free(arena);
    return found;
}

bool run_is_free(const char *directory, Error *err) {
    const char *found = run_find_file(directory);
    if (!found) return true;
    return FAIL(err, ERROR_INPUT,
                "%s already holds a run (%s); go on with 'nibble train --resume %s', or replace it "
                "with --force",
                directory, found, directory);
}

/* "checkpoint.h5.tmp.123" and the like: what a writer that was killed leaves. What `convert` writes
 * is not a training's to remove. */
static bool is_leftover(const char *name) {
    for (size_t i = 0; i < sizeof run_files / sizeof *run_files; i++) {
        const char *file = run_files[i];
        if (!strcmp(file, RUN_QUANTIZED) || !strcmp(file, RUN_LOGITS)) continue;
        size_t length = strlen(file);
        if (!strncmp(name, file, length) && !strncmp(name + length, ".tmp.", 5)) return true;
    }
    return false;
}

bool run_claim(const char *directory, RunClaim *claim, Error *err) {
    claim->fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (claim->fd < 0)
        return FAIL(err, errno == EIO || errno == EMFILE ? ERROR_SYSTEM : ERROR_INPUT,
                    "cannot open the directory %s: %s", directory, strerror(errno));
    /* A file system without locks must not keep anyone from training. */
    if (flock(claim->fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK)
        return FAIL(err, ERROR_INPUT, "another process is training in %s; wait for it or stop it",
                    directory);
    DIR *listing = opendir(directory);
    if (!listing) return true;
    for (struct dirent *entry; (entry = readdir(listing));)
        if (is_leftover(entry->d_name)) unlinkat(claim->fd, entry->d_name, 0);
    closedir(listing);
    return true;
}

void run_release(RunClaim *claim) {
    if (claim->fd >= 0) close(claim->fd);
    claim->fd = -1;
}

bool run_clear(const char *directory, Error *err) {
    Arena *arena = arena_new("run directory");
    bool ok = true;
    for (size_t i = 0; ok && i < sizeof run_files / sizeof *run_files; i++) {
        const char *path = run_path(arena, directory, run_files[i]);
        if (unlink(path) && errno != ENOENT)
            ok = FAIL(err, ERROR_INPUT, "cannot remove %s: %s", path, strerror(errno));
    }
    arena_free(arena);
    return ok;
}

bool run_create(const char *directory, bool force, RunClaim *claim, Error *err) {
    if (!force) TRY(run_is_free(directory, err));
    return file_make_directories(directory, err) && run_claim(directory, claim, err) &&
           run_clear(directory, err);
}

bool run_check_files(const char *directory, Error *err) {
    static const char *const files[] = {RUN_METRICS, RUN_SUMMARY, RUN_CHECKPOINT, RUN_PREVIOUS,
                                        RUN_BEST};
    Arena *arena = arena_new("run directory");
    bool ok = true;
    for (size_t i = 0; ok && i < sizeof files / sizeof *files; i++)
        ok = file_find(run_path(arena, directory, files[i]), err) != FILE_UNUSABLE;
    arena_free(arena);
    return ok;
}

static bool is_directory(const char *path) {
    struct stat info;
    return !stat(path, &info) && S_ISDIR(info.st_mode);
}

bool run_is_one(const char *directory, Error *err) {
    Arena *arena = arena_new("run directory");
    bool is_comparison = is_directory(run_path(arena, directory, RUNS_FOLDER)) &&
                         is_directory(run_path(arena, directory, RUNS_EVALUATIONS));
    arena_free(arena);
    if (!is_comparison) return true;
    return FAIL(err, ERROR_INPUT,
                "%s is the directory of a comparison: name one of its runs, %s/" RUNS_FOLDER
                "/ROW-sSEED, or go on with all of it ('nibble compare --resume %s')",
                directory, directory, directory);
}

bool run_exists(const char *directory, Error *err) {
    struct stat info;
    int cause = stat(directory, &info) ? errno : 0;
    if (cause && cause != ENOENT && cause != ENOTDIR)
        return FAIL(err, ERROR_SYSTEM, "cannot look at %s: %s", directory, strerror(cause));
    if (cause || !S_ISDIR(info.st_mode))
        return FAIL(err, ERROR_INPUT, "%s is not a run directory: %s", directory,
                    cause ? "there is no such directory" : "it is a file");
    TRY(run_is_one(directory, err));
    Arena *arena = arena_new("run directory");
    FileState state = file_find(run_path(arena, directory, RUN_CONFIG), err);
    arena_free(arena);
    if (state != FILE_ABSENT) return state == FILE_REGULAR;
    return FAIL(err, ERROR_INPUT, "%s is not a run directory: it has no " RUN_CONFIG, directory);
}
