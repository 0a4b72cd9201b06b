/* Files of a run directory: regular files under their own name. Nothing else is read or written
 * there: no link is followed, so that no foreign file changes or passes for one of the run, and
 * opening never waits, as it would for a FIFO. Folders above a file may be links.
 *
 * Errors name the file, what was found and the remedy. ERROR_INPUT: it does not exist, or is no
 * regular file. ERROR_SYSTEM: it could not be looked at (no permission, a device that fails): what
 * is in it is unknown, and no reason to give it up. */
#ifndef NIBBLE_CORE_FILE_H
#define NIBBLE_CORE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "core/arena.h"
#include "core/error.h"

typedef enum FileState {
    FILE_ABSENT,
    FILE_REGULAR,
    FILE_UNUSABLE, /* it could not be looked at, or is a link, directory, FIFO, device, socket */
} FileState;

/* `err` is filled for FILE_UNUSABLE alone. */
FileState file_find(const char *path, Error *err);

typedef enum FileUse {
    FILE_READ,
    FILE_CHANGE, /* read and written in place: must have no other name (hard link) */
    FILE_CREATE, /* written and read; whatever is there already is an error */
} FileUse;

/* A descriptor, closed by the caller; -1: failed. */
int file_open(const char *path, FileUse use, Error *err);

/* The whole file with a zero behind it; NULL: failed, or it has more than `bytes_max`. */
char *file_read(const char *path, size_t bytes_max, Arena *arena, size_t *bytes, Error *err);

/* The bytes of a file of a user's own, links followed, without reading them: for who must not open
 * anything (data/sandbox.h). An access fails with SIGBUS where the device does, or where the file
 * became shorter. Ends with file_unmap. An empty file has no bytes, and no mapping. */
typedef struct FileMap {
    const unsigned char *bytes;
    size_t count;
} FileMap;
bool file_map(const char *path, FileMap *out, Error *err);
void file_unmap(FileMap map);

/* What a user names himself may be a link: the path of what it leads to. Of anything else, and of a
 * link that leads nowhere, `path` as it is. */
const char *file_resolve(const char *path, Arena *arena);

/* Gets what was written to `path` to the disk; of a directory, the names in it. File systems that
 * cannot sync directories are left alone. */
bool file_sync(const char *path, Error *err);
bool file_sync_directory(const char *path, Error *err);

/* Makes a directory and those above it, where they are missing; none of them is lost when the
 * machine stops. */
bool file_make_directories(const char *path, Error *err);

/* On any descriptor, signals or not. Reading stops at the end of the file: how many bytes there
 * were; -1, or false: failed, with errno set. */
ssize_t file_read_bytes(int fd, void *buffer, size_t bytes);
bool file_write_bytes(int fd, const void *buffer, size_t bytes);

#endif
