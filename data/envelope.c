#include "data/envelope.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <xxhash.h>

#include "core/file.h"

static const char magic[8] = "NIBBLEH5";

enum { VERSION = 1, PIECE_BYTES = 1 << 16 };

/* ---- Names ---- */

static const char *directory_of(const char *path, Arena *arena) {
    const char *slash = strrchr(path, '/');
    if (!slash) return ".";
    if (slash == path) return "/";
    return arena_format(arena, "%.*s", (int)(slash - path), path);
}

static const char *file_of(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The process that a leftover belongs to, if `name` is one of `file`; else 0. */
static long leftover_owner(const char *name, const char *file) {
    size_t length = strlen(file);
    if (strncmp(name, file, length) != 0 || strncmp(name + length, ".tmp.", 5) != 0) return 0;
    const char *digits = name + length + 5;
    char *end;
    long owner = strtol(digits, &end, 10);
    return *digits >= '1' && *digits <= '9' && *end == '\0' ? owner : 0;
}

static void remove_leftovers(const char *path, Arena *arena) {
    const char *directory = directory_of(path, arena);
    DIR *listing = opendir(directory);
    if (!listing) return;
    for (struct dirent *entry; (entry = readdir(listing));) {
        long owner = leftover_owner(entry->d_name, file_of(path));
        bool is_dead =
            owner > 0 && (owner == getpid() || (kill((pid_t)owner, 0) && errno == ESRCH));
        if (is_dead) unlink(arena_format(arena, "%s/%s", directory, entry->d_name));
    }
    closedir(listing);
}

const char *envelope_begin(const char *path, Arena *arena) {
    ArenaMark mark = arena_mark(arena);
    remove_leftovers(path, arena);
    arena_rewind(arena, mark);
    return arena_format(arena, "%s.tmp.%ld", path, (long)getpid());
}

bool envelope_check_room(const char *path, uint64_t bytes, Error *err) {
    char directory[4096] = ".";
    size_t length = (size_t)(file_of(path) - path);
    if (length >= sizeof directory)
        return FAIL(err, ERROR_INPUT, "%.200s...: the path is too long", path);
    if (length > 0) {
        memcpy(directory, path, length);
        directory[length] = '\0';
    }
    struct statvfs room;
    if (statvfs(directory, &room))
        return FAIL(err, ERROR_SYSTEM, "%s: cannot write here: %s", directory, strerror(errno));
    uint64_t available;
    if (__builtin_mul_overflow((uint64_t)room.f_bavail, (uint64_t)room.f_frsize, &available))
        available = UINT64_MAX;
    if (bytes > available)
        return FAIL(
            err, ERROR_SYSTEM,
            "%s: saving takes %llu bytes, the disk has %llu free; make room or save elsewhere",
            path, (unsigned long long)bytes, (unsigned long long)available);
    return true;
}

/* ---- Bytes ---- */

static void put_little(unsigned char *to, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) to[i] = (unsigned char)(value >> 8 * i);
}

static uint64_t get_little(const unsigned char *from, int bytes) {
    uint64_t value = 0;
    for (int i = bytes - 1; i >= 0; i--) value = value << 8 | from[i];
    return value;
}

static void trailer_fill(unsigned char trailer[ENVELOPE_TRAILER_BYTES], uint64_t body_bytes,
                         XXH128_hash_t hash) {
    memcpy(trailer, magic, sizeof magic);
    put_little(trailer + 8, VERSION, 4);
    put_little(trailer + 12, 0, 4);
    put_little(trailer + 16, body_bytes, 8);
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, hash);
    memcpy(trailer + 24, canonical.digest, ENVELOPE_DIGEST_BYTES);
}

static void digest_print(const unsigned char digest[ENVELOPE_DIGEST_BYTES],
                         char text[ENVELOPE_DIGEST_TEXT]) {
    for (int i = 0; i < ENVELOPE_DIGEST_BYTES; i++) snprintf(text + 2 * i, 3, "%02x", digest[i]);
}

void envelope_digest(const void *bytes, size_t count, char text[ENVELOPE_DIGEST_TEXT]) {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, count));
    digest_print(canonical.digest, text);
}

/* Digest of the file from its current position to its end, and how many bytes that were. */
static bool digest_file(int fd, XXH128_hash_t *hash, uint64_t *bytes) {
    unsigned char piece[PIECE_BYTES];
    XXH3_state_t *state = XXH3_createState();
    if (!state) {
        errno = ENOMEM;
        return false;
    }
    XXH3_128bits_reset(state);
    ssize_t got;
    *bytes = 0;
    while ((got = file_read_bytes(fd, piece, sizeof piece)) > 0) {
        XXH3_128bits_update(state, piece, (size_t)got);
        *bytes += (uint64_t)got;
    }
    int cause = errno;
    *hash = XXH3_128bits_digest(state);
    XXH3_freeState(state);
    errno = cause;
    return got == 0;
}

/* ---- Writing ---- */

static bool seal_fd(int fd) {
    XXH128_hash_t hash;
    uint64_t bytes;
    if (!digest_file(fd, &hash, &bytes)) return false;
    unsigned char trailer[ENVELOPE_TRAILER_BYTES];
    trailer_fill(trailer, bytes, hash);
    if (!file_write_bytes(fd, trailer, sizeof trailer)) return false;
    return ftruncate(fd, (off_t)(bytes + sizeof trailer)) ==
           0; /* gives back room reserved beyond */
}

bool envelope_seal(const char *temporary, Error *err) {
    int fd = file_open(temporary, FILE_CHANGE, err);
    if (fd < 0) return false;
    bool is_sealed = seal_fd(fd);
    int cause = errno;
    if (close(fd) && is_sealed) {
        is_sealed = false;
        cause = errno;
    }
    if (!is_sealed)
        return FAIL(err, ERROR_SYSTEM, "%s: cannot finish the file: %s", temporary,
                    strerror(cause));
    return true;
}

/* `path` gets a second name, so that it never lacks one; a plain rename where links do not exist.
 * What came in its place and is no file is replaced, not kept. */
static bool keep_previous(const char *path, const char *previous, Arena *arena, Error *err) {
    Error found = {0};
    if (file_find(path, &found) != FILE_REGULAR) {
        if (found.code == ERROR_SYSTEM) *err = found;
        return found.code != ERROR_SYSTEM;
    }
    const char *link_name = envelope_begin(previous, arena);
    bool is_kept =
        link(path, link_name) == 0 ? rename(link_name, previous) == 0 : rename(path, previous) == 0;
    int cause = errno;
    unlink(link_name); /* renaming one name of a file to another name of it leaves both */
    if (!is_kept)
        return FAIL(err, ERROR_SYSTEM, "%s: cannot keep the old file as %s: %s", path, previous,
                    strerror(cause));
    return true;
}

bool envelope_publish(const char *temporary, const char *path, const char *previous, Error *err) {
    TRY(file_sync(temporary, err));
    Arena *arena = arena_new("file names");
    bool is_done = !previous || keep_previous(path, previous, arena, err);
    if (is_done && rename(temporary, path))
        is_done = FAIL(err, ERROR_SYSTEM, "%s: cannot replace the file: %s", path, strerror(errno));
    if (is_done) is_done = file_sync_directory(directory_of(path, arena), err);
    arena_free(arena);
    return is_done;
}

/* ---- Reading ---- */

static bool trailer_check(const unsigned char *trailer, uint64_t body_bytes, const char *path,
                          Error *err) {
    if (memcmp(trailer, magic, sizeof magic) != 0)
        return FAIL(err, ERROR_INPUT,
                    "%s: has no digest at its end: cut short, or not a file of ours", path);
    uint64_t version = get_little(trailer + 8, 4), bytes = get_little(trailer + 16, 8);
    if (version != VERSION || get_little(trailer + 12, 4) != 0)
        return FAIL(err, ERROR_INPUT,
                    "%s: damaged, or of a later version: trailer version %llu, "
                    "this program reads %d",
                    path, (unsigned long long)version, VERSION);
    if (bytes != body_bytes)
        return FAIL(err, ERROR_INPUT,
                    "%s: damaged: %llu bytes before the trailer, written were %llu", path,
                    (unsigned long long)body_bytes, (unsigned long long)bytes);
    return true;
}

/* Exactly these bytes, from `offset` on. */
static bool read_at(int fd, const char *path, size_t offset, void *buffer, size_t bytes,
                    Error *err) {
    ssize_t got = lseek(fd, (off_t)offset, SEEK_SET) < 0 ? -1 : file_read_bytes(fd, buffer, bytes);
    if (got < 0) return FAIL(err, ERROR_SYSTEM, "%s: cannot read: %s", path, strerror(errno));
    if ((size_t)got < bytes)
        return FAIL(err, ERROR_SYSTEM, "%s: became shorter while it was read", path);
    return true;
}

/* The trailer, after a look at all of it but the digest. */
static bool trailer_read(int fd, const char *path, unsigned char trailer[ENVELOPE_TRAILER_BYTES],
                         size_t *body_bytes, Error *err) {
    struct stat status;
    if (fstat(fd, &status)) return FAIL(err, ERROR_SYSTEM, "%s: %s", path, strerror(errno));
    uint64_t size = (uint64_t)status.st_size;
    if (size < ENVELOPE_TRAILER_BYTES)
        return FAIL(err, ERROR_INPUT, "%s: cut short: %llu bytes, at least %d expected", path,
                    (unsigned long long)size, ENVELOPE_TRAILER_BYTES);
    *body_bytes = (size_t)size - ENVELOPE_TRAILER_BYTES;
    TRY(read_at(fd, path, *body_bytes, trailer, ENVELOPE_TRAILER_BYTES, err));
    return trailer_check(trailer, *body_bytes, path, err);
}

static bool open_fd(int fd, const char *path, Arena *arena, Envelope *out, Error *err) {
    unsigned char trailer[ENVELOPE_TRAILER_BYTES], expected[ENVELOPE_TRAILER_BYTES];
    size_t body_bytes;
    TRY(trailer_read(fd, path, trailer, &body_bytes, err));
    unsigned char *body = arena_alloc(arena, body_bytes);
    TRY(read_at(fd, path, 0, body, body_bytes, err));
    trailer_fill(expected, body_bytes, XXH3_128bits(body, body_bytes));
    if (memcmp(trailer, expected, sizeof trailer) != 0)
        return FAIL(err, ERROR_INPUT, "%s: damaged: its digest does not match its contents", path);
    *out = (Envelope){.body = body, .bytes = body_bytes};
    memcpy(out->digest, trailer + 24, ENVELOPE_DIGEST_BYTES);
    return true;
}

bool envelope_open(const char *path, Arena *arena, Envelope *out, Error *err) {
    int fd = file_open(path, FILE_READ, err);
    if (fd < 0) return false;
    ArenaMark mark = arena_mark(arena);
    bool is_open = open_fd(fd, path, arena, out, err);
    close(fd);
    if (!is_open) arena_rewind(arena, mark);
    return is_open;
}

bool envelope_claim(const char *path, char text[ENVELOPE_DIGEST_TEXT], Error *err) {
    int fd = file_open(path, FILE_READ, err);
    if (fd < 0) return false;
    unsigned char trailer[ENVELOPE_TRAILER_BYTES];
    size_t body_bytes;
    bool is_read = trailer_read(fd, path, trailer, &body_bytes, err);
    close(fd);
    if (is_read) digest_print(trailer + 24, text);
    return is_read;
}
