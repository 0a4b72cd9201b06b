#include "experiments/train/saved.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file.h"
#include "core/log.h"
#include "experiments/train/run.h"

/* ---- The checkpoint ---- */

/* A file that is gone: absent, or provably damaged. */
typedef struct Lost {
    const char *why; /* NULL: it is not */
    bool is_absent;
} Lost;

/* Opens `path`, or says why it is lost. False: neither can be said. */
static bool open_or_lost(const char *path, Arena *arena, Checkpoint *out, Lost *lost, Error *err) {
    Error reason = {0};
    FileState state = file_find(path, err);
    *lost = (Lost){.is_absent = state == FILE_ABSENT};
    if (state == FILE_UNUSABLE) return false;
    if (lost->is_absent) lost->why = arena_format(arena, "%s is missing", path);
    if (lost->is_absent || checkpoint_open(path, arena, out, &reason)) return true;
    if (out->is_damaged)
        lost->why = arena_strdup(arena, reason.message);
    else
        *err = reason;
    return out->is_damaged;
}

/* Whether there is such a file, and anything in it. */
static bool has_content(const char *path, bool *out, Error *err) {
    FileState state = file_find(path, err);
    *out = false;
    if (state != FILE_REGULAR) return state == FILE_ABSENT;
    char byte;
    int fd = file_open(path, FILE_READ, err);
    if (fd < 0) return false;
    ssize_t got = file_read_bytes(fd, &byte, 1);
    if (got < 0) (void)FAIL(err, ERROR_SYSTEM, "%s: cannot read: %s", path, strerror(errno));
    close(fd);
    *out = got > 0;
    return got >= 0;
}

/* Neither checkpoint is there. */
static bool fail_lost(const char *directory, bool has_best, Error *err) {
    (void)FAIL(err, ERROR_INPUT,
               "%s has no checkpoint to go on from; start over with 'nibble train %s/" RUN_CONFIG
               " --out %s --force'",
               directory, directory, directory);
    if (has_best)
        error_append(err, ", or from its best network: --out NEW train.init=%s/" RUN_BEST,
                     directory);
    return false;
}

bool saved_open(const char *directory, Arena *arena, Saved *out, Error *err) {
    const char *before = run_path(arena, directory, RUN_PREVIOUS);
    Lost latest, previous;
    bool has_best, has_lines;
    *out = (Saved){0};
    TRY(open_or_lost(run_path(arena, directory, RUN_CHECKPOINT), arena, &out->checkpoint, &latest,
                     err));
    if (!latest.why) return true;
    TRY(open_or_lost(before, arena, &out->checkpoint, &previous, err));
    out->is_previous = !previous.why;
    if (out->is_previous) {
        log_warning("%s; %s of step %ld is taken instead", latest.why, before,
                    (long)out->checkpoint.cursor.step);
        return true;
    }
    TRY(has_content(run_path(arena, directory, RUN_BEST), &has_best, err));
    TRY(has_content(run_path(arena, directory, RUN_METRICS), &has_lines, err));
    out->is_new = latest.is_absent && previous.is_absent && !has_best && !has_lines;
    if (out->is_new) return true;
    log_warning("%s; %s", latest.why, previous.why);
    return fail_lost(directory, has_best, err);
}

/* ---- The best network ---- */

/* Before digests were kept, the step alone told. */
static bool is_named(const Cursor *cursor, const Checkpoint *best) {
    if (*cursor->best_digest) return !strcmp(cursor->best_digest, best->digest);
    return best->version < 3 && best->cursor.step == cursor->best_step;
}

bool saved_open_best(const char *directory, const Cursor *cursor, Arena *arena, Checkpoint *out,
                     const char **why, Error *err) {
    const char *path = run_path(arena, directory, RUN_BEST);
    *out = (Checkpoint){0};
    Lost lost;
    TRY(open_or_lost(path, arena, out, &lost, err));
    *why = lost.why;
    if (*why || is_named(cursor, out)) return true;
    *why = arena_format(arena,
                        "%s is a network of step %ld, not the one of step %ld that the "
                        "checkpoint of step %ld names",
                        path, (long)out->cursor.step, (long)cursor->best_step, (long)cursor->step);
    checkpoint_close(out);
    return true;
}

bool saved_open_network(const char *directory, Arena *arena, Checkpoint *out, Error *err) {
    Saved saved;
    const char *why = NULL;
    TRY(run_is_one(directory, err));
    TRY(saved_open(directory, arena, &saved, err));
    *out = saved.checkpoint;
    const Cursor cursor = out->cursor;
    if (cursor.step == 0) {
        checkpoint_close(out);
        return FAIL(err, ERROR_INPUT, "%s holds no trained network yet; train it first", directory);
    }
    if (!cursor.best_step) return true;
    const char *path = out->path;
    checkpoint_close(out);
    TRY(saved_open_best(directory, &cursor, arena, out, &why, err));
    if (!why) return true;
    log_warning("%s: the network of %s, of step %ld, is used instead", why, path,
                (long)cursor.step);
    return checkpoint_open(path, arena, out, err); /* again: one file at a time in memory */
}

bool saved_open_weights(const char *from, Arena *arena, Checkpoint *out, Error *err) {
    struct stat info;
    if (stat(from, &info))
        return FAIL(err, ERROR_INPUT,
                    "%s is no checkpoint, nor a run directory with one (%s); start a run whose "
                    "train.init says where it lies",
                    from, strerror(errno));
    if (S_ISDIR(info.st_mode)) return saved_open_network(from, arena, out, err);
    return checkpoint_open_weights(file_resolve(from, arena), arena, out, err);
}

bool saved_warn_quantized(const Checkpoint *network, const Model *model, Error *err) {
    bool is_quantized;
    TRY(checkpoint_is_quantized(network, model, &is_quantized, err));
    if (is_quantized)
        log_warning("%s is of a network that was quantized already: what is looked at is its "
                    "weights with nothing quantized, which nobody trained to be used so; a run "
                    "that was trained in FP32 is meant",
                    network->path);
    return true;
}
