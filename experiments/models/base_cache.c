/* A base that was quantized once, in a file of safetensors: every plane of every weight as U8 or
 * F32, a text that says of what it was made, and the digests of the planes.
 *
 *     NAME.codes                   the codes
 *     NAME.scales.codes ...        the plane of scales, in the same way
 *     NAME.zeros, NAME.offset      where there are any
 *     nibble.base                  what the source was, and how it is stored
 *     nibble.digests               XXH3-128 of each plane, in the file's order, 32 digits each
 *
 * The source is known by its files' numbers, sizes and times: reading it to be sure would take as
 * long as the cache saves. */
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/floats.h"
#include "core/log.h"
#include "data/envelope.h"
#include "experiments/models/base.h"

static const char key_name[] = "nibble.base", digests_name[] = "nibble.digests";
enum { DIGITS = ENVELOPE_DIGEST_TEXT - 1 };

struct Base {
    const Variant *variant;
    const char *path; /* NULL: no cache */
    const SafeTensors *files;
    const char *key;
    SafeTensors cache; /* what an earlier start left; file_count 0: nothing that serves */
    const char *digests;
    Arena *arena;
    SafeTensorData *planes; /* of the weights so far, in order */
    int plane_count, plane_capacity;
    bool is_new; /* some weight did not come from the cache */
};

/* ---- Planes ---- */

static void add_plane(Base *b, const char *name, Dtype dtype, int64_t count, void *data) {
    if (b->plane_count == b->plane_capacity) {
        b->plane_capacity = b->plane_capacity ? 2 * b->plane_capacity : 64;
        SafeTensorData *wider = arena_new_array(b->arena, SafeTensorData, b->plane_capacity);
        if (b->plane_count) memcpy(wider, b->planes, sizeof *wider * (size_t)b->plane_count);
        b->planes = wider;
    }
    b->planes[b->plane_count++] =
        (SafeTensorData){name, {.dtype = dtype, .shape = SHAPE(count), .data = data}};
}

static void add_planes(Base *b, const char *name, const Tensor *t) {
    add_plane(b, arena_format(b->arena, "%s.codes", name), DTYPE_BYTE,
              (int64_t)dtype_bytes(t->dtype, tensor_count(t)), t->data);
    const Scales *s = t->scales;
    if (!s) return;
    add_planes(b, arena_format(b->arena, "%s.scales", name), s->stored);
    if (s->zero)
        add_plane(b, arena_format(b->arena, "%s.zeros", name), DTYPE_F32, s->count,
                  (void *)(uintptr_t)s->zero);
    if (s->stored->scales)
        add_plane(b, arena_format(b->arena, "%s.offset", name), DTYPE_F32, 1,
                  (void *)(uintptr_t)&s->offset);
}

static size_t plane_bytes(const SafeTensorData *plane) {
    return dtype_bytes(plane->tensor.dtype, tensor_count(&plane->tensor));
}

/* False, without an error: it is not in the cache as it should be. */
static bool read_plane(Base *b, int number) {
    const SafeTensorData *plane = &b->planes[number];
    const SafeTensor *found = safetensors_find(&b->cache, plane->name);
    char digest[ENVELOPE_DIGEST_TEXT];
    Error ignored = {0};
    if (!found || found->bytes != (int64_t)plane_bytes(plane) ||
        !safetensors_read_bytes(&b->cache, found, plane->tensor.data, &ignored))
        return false;
    envelope_digest(plane->tensor.data, plane_bytes(plane), digest);
    return strlen(b->digests) >= (size_t)(number + 1) * DIGITS &&
           !memcmp(digest, b->digests + number * DIGITS, DIGITS);
}

/* ---- Opening ---- */

/* Of which files the weights are, and how they are kept. */
static const char *make_key(const Variant *base, const SafeTensors *files, Arena *arena) {
    Storage s = base_storage(base, DTYPE_F32);
    const char *key = arena_format(arena, "1 %s %ld %s %ld %d", dtype_name(s.dtype), (long)s.block,
                                   dtype_name(s.scale_dtype), (long)s.scale_block, s.is_affine);
    for (int i = 0; i < files->file_count; i++) {
        struct stat f = {0};
        fstat(files->descriptors[i], &f);
        key = arena_format(arena, "%s\n%lu %ld %ld.%09ld %ld.%09ld", key, (unsigned long)f.st_ino,
                           (long)f.st_size, (long)f.st_mtim.tv_sec, f.st_mtim.tv_nsec,
                           (long)f.st_ctim.tv_sec, f.st_ctim.tv_nsec);
    }
    return key;
}

static const char *read_note(Base *b, const char *name) {
    enum { NOTE_MAX = 64 << 20 };
    const SafeTensor *t = safetensors_find(&b->cache, name);
    Error ignored = {0};
    if (!t || t->bytes > NOTE_MAX) return NULL;
    char *text = arena_zalloc(b->arena, (size_t)t->bytes + 1);
    return safetensors_read_bytes(&b->cache, t, text, &ignored) ? text : NULL;
}

static void forget(Base *b, const char *why) {
    log_warning("%s %s; it is made anew", b->path, why);
    safetensors_close(&b->cache);
    b->digests = NULL;
}

static void open_cache(Base *b) {
    Error err = {0};
    if (access(b->path, F_OK)) return;
    if (!safetensors_open(b->path, b->arena, &b->cache, &err)) {
        forget(b, "is no cache that can be read");
        return;
    }
    const char *key = read_note(b, key_name);
    b->digests = read_note(b, digests_name);
    if (!key || !b->digests)
        forget(b, "is no cache of nibble's");
    else if (strcmp(key, b->key) != 0)
        forget(b, "was made of other weights, or for another base");
}

bool base_open(const Variant *base, const char *cache, const SafeTensors *files, Arena *arena,
               Base **out, Error *err) {
    Base *b = *out = arena_new_array(arena, Base, 1);
    *b = (Base){.variant = base, .path = cache, .files = files, .arena = arena};
    if (!cache) return true;
    bool is_quantized = base->kind && ((const BaseFormat *)base->kind)->storage &&
                        dtype_codec(base_storage(base, DTYPE_F32).dtype)->stores != CODE_NUMBER;
    if (!is_quantized)
        return FAIL(err, ERROR_INPUT,
                    "model.cache keeps what was quantized; base '%s' needs none: leave it out",
                    base->kind ? base->kind->name : "stored") ||
               error_blame(err, "model.cache");
    b->key = make_key(base, files, arena);
    open_cache(b);
    return true;
}

/* ---- Weights ---- */

/* Scales and what goes with them; the digest tells damage, this a file that somebody made. */
static bool is_sound(const Tensor *t) {
    const Scales *s = t->scales;
    if (!s) return true;
    for (int64_t i = 0; i < s->count; i++) {
        float scale = scales_read(s, i);
        if (!(scale >= -FLT_MAX && scale <= FLT_MAX)) return false;
    }
    return !s->zero || floats_find_unfit(s->zero, s->count, 0) < 0;
}

static bool read_cached(Base *b, const char *name, Shape shape, Arena *arena, Tensor *out) {
    int first = b->plane_count;
    Storage storage = base_storage(b->variant, DTYPE_F32);
    *out = storage_new(arena, shape, &storage);
    add_planes(b, name, out);
    bool ok = true;
    for (int i = first; ok && i < b->plane_count; i++) ok = read_plane(b, i);
    if (ok && is_sound(out)) return true;
    b->plane_count = first;
    forget(b, "is damaged");
    return false;
}

bool base_weight(Base *b, const char *name, Shape shape, Arena *arena, Tensor *out, Error *err) {
    if (b->digests && read_cached(b, name, shape, arena, out)) return true;
    TRY(base_read(b->variant, b->files, name, shape, arena, out, err));
    b->is_new = true;
    if (b->path) add_planes(b, name, out);
    return true;
}

static bool write_cache(Base *b, Error *err) {
    char *digests = arena_zalloc(b->arena, (size_t)b->plane_count * DIGITS + 1);
    uint64_t room = 0;
    int count = b->plane_count;
    for (int i = 0; i < count; i++) {
        char digest[ENVELOPE_DIGEST_TEXT];
        envelope_digest(b->planes[i].tensor.data, plane_bytes(&b->planes[i]), digest);
        memcpy(digests + (size_t)i * DIGITS, digest, DIGITS);
        room += plane_bytes(&b->planes[i]);
    }
    add_plane(b, key_name, DTYPE_BYTE, (int64_t)strlen(b->key), (void *)(uintptr_t)b->key);
    add_plane(b, digests_name, DTYPE_BYTE, (int64_t)count * DIGITS, digests);
    return envelope_check_room(b->path, room, err) &&
           safetensors_write(b->path, b->planes, b->plane_count, NULL, err);
}

bool base_close(Base *b, bool is_whole, Error *err) {
    bool ok = true;
    if (b->path && b->is_new && is_whole) ok = write_cache(b, err);
    safetensors_close(&b->cache);
    return ok;
}
