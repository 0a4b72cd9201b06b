#include "data/idx.h"

#include <stdlib.h>
#include <string.h>

#include <zlib.h>

#include "data/bytes.h"
#include "data/dataset.h"

/* The bytes of a file as they are, or as they inflate. */
typedef struct Source {
    const char *name;
    const unsigned char *next;
    size_t left;
    bool is_gzip, is_ended; /* ended: the last gzip member is over, its checksum was right */
    z_stream stream;
} Source;

enum {
    DEFLATE_RATIO = 1032, /* zlib's technical page: deflate cannot do better */
    PIECE_BYTES = 1 << 30,
};

/* ---- Taking bytes ---- */

static voidpf inflate_malloc(voidpf unused, uInt count, uInt bytes) {
    (void)unused;
    return checked_malloc("gzip", checked_mul(count, bytes));
}

static void inflate_free(voidpf unused, voidpf memory) {
    (void)unused;
    free(memory);
}

static bool source_open(Source *source, const char *name, const unsigned char *file, size_t bytes,
                        Error *err) {
    *source = (Source){.name = name, .next = file, .left = bytes};
    source->stream.zalloc = inflate_malloc;
    source->stream.zfree = inflate_free;
    source->is_gzip = bytes >= 2 && file[0] == 0x1f && file[1] == 0x8b;
    if (source->is_gzip && inflateInit2(&source->stream, 15 + 16) != Z_OK)
        return FAIL(err, ERROR_SYSTEM, "%s: zlib cannot start", name);
    return true;
}

static void source_close(Source *source) {
    if (source->is_gzip) inflateEnd(&source->stream);
}

static size_t at_most(size_t bytes) {
    return bytes < PIECE_BYTES ? bytes : PIECE_BYTES;
}

/* A file may have several members (RFC 1952, 2.2), and behind them zeros that fill a block. */
static bool next_member(Source *source) {
    if (source->left >= 2 && source->next[0] == 0x1f && source->next[1] == 0x8b)
        return inflateReset(&source->stream) == Z_OK;
    while (source->left && !*source->next) {
        source->next++;
        source->left--;
    }
    return false;
}

/* How many of `bytes` there were; damaged streams are an error, short ones are not. */
static bool inflate_some(Source *source, unsigned char *to, size_t bytes, size_t *taken,
                         Error *err) {
    z_stream *stream = &source->stream;
    for (*taken = 0; *taken < bytes && !source->is_ended;) {
        size_t input = at_most(source->left), output = at_most(bytes - *taken);
        stream->next_in = (unsigned char *)(uintptr_t)source->next;
        stream->avail_in = (uInt)input;
        stream->next_out = to + *taken;
        stream->avail_out = (uInt)output;
        int status = inflate(stream, Z_NO_FLUSH);
        size_t used = input - stream->avail_in, made = output - stream->avail_out;
        source->next += used;
        source->left -= used;
        *taken += made;
        source->is_ended = status == Z_STREAM_END && !next_member(source);
        if (status == Z_BUF_ERROR || (status == Z_OK && used + made == 0)) return true;
        if (status != Z_OK && status != Z_STREAM_END)
            return FAIL(err, ERROR_INPUT, "%s: damaged gzip data: %s", source->name,
                        stream->msg ? stream->msg : "invalid stream");
    }
    return true;
}

static bool source_take(Source *source, const char *what, unsigned char *to, size_t bytes,
                        Error *err) {
    size_t taken = bytes < source->left ? bytes : source->left;
    if (source->is_gzip) {
        TRY(inflate_some(source, to, bytes, &taken, err));
    } else {
        memcpy(to, source->next, taken);
        source->next += taken;
        source->left -= taken;
    }
    if (taken < bytes)
        return FAIL(err, ERROR_INPUT, "%s: cut short: %zu bytes of %s, expected %zu", source->name,
                    taken, what, bytes);
    return true;
}

/* Nothing may follow; for gzip this also checks the checksum. */
static bool source_check_end(Source *source, Error *err) {
    unsigned char more;
    size_t taken = source->left;
    if (source->is_gzip) {
        TRY(inflate_some(source, &more, 1, &taken, err));
        if (taken == 0 && !source->is_ended)
            return FAIL(err, ERROR_INPUT, "%s: cut short: the gzip stream has no end",
                        source->name);
        taken += source->left;
    }
    if (taken > 0)
        return FAIL(err, ERROR_INPUT, "%s: %s%zu bytes after those that its header announces",
                    source->name, source->is_gzip ? "at least " : "", taken);
    return true;
}

/* ---- The format ---- */

static bool header_read(Source *source, IdxArray *out, int64_t *count, Error *err) {
    unsigned char magic[4], dims[4 * IDX_RANK_MAX];
    TRY(source_take(source, "header", magic, 4, err));
    if (magic[0] != 0 || magic[1] != 0 || magic[2] != 0x08 || magic[3] < 1 ||
        magic[3] > IDX_RANK_MAX)
        return FAIL(err, ERROR_INPUT,
                    "%s: not an IDX file of bytes: begins with %02x %02x %02x %02x, expected "
                    "00 00 08 and a rank of 1 to %d",
                    source->name, magic[0], magic[1], magic[2], magic[3], IDX_RANK_MAX);
    out->rank = magic[3];
    TRY(source_take(source, "header", dims, (size_t)out->rank * 4, err));
    for (int i = 0; i < out->rank; i++) {
        const unsigned char *d = dims + 4 * i;
        out->dim[i] = (int64_t)d[0] << 24 | d[1] << 16 | d[2] << 8 | d[3];
    }
    return dataset_bytes(source->name, out->dim, out->rank, 1, count, err);
}

static bool size_check(const Source *source, int64_t count, Error *err) {
    uint64_t bytes = (uint64_t)count;
    if (!source->is_gzip && bytes != source->left)
        return FAIL(err, ERROR_INPUT,
                    "%s: its header announces %llu bytes of values, the file has %zu", source->name,
                    (unsigned long long)bytes, source->left);
    if (source->is_gzip && bytes / DEFLATE_RATIO > source->left)
        return FAIL(err, ERROR_INPUT,
                    "%s: its header announces %llu bytes, more than %zu compressed bytes can hold",
                    source->name, (unsigned long long)bytes, source->left);
    return true;
}

static bool array_read(Source *source, Arena *arena, IdxArray *out, Error *err) {
    int64_t count;
    TRY(header_read(source, out, &count, err));
    TRY(size_check(source, count, err));
    unsigned char *values = arena_alloc(arena, (size_t)count);
    out->values = values;
    TRY(source_take(source, "values", values, (size_t)count, err));
    return source_check_end(source, err);
}

bool idx_decode(const char *name, const unsigned char *file, size_t bytes, Arena *arena,
                IdxArray *out, Error *err) {
    Source source;
    *out = (IdxArray){0};
    TRY(source_open(&source, name, file, bytes, err));
    bool is_read = array_read(&source, arena, out, err);
    source_close(&source);
    return is_read;
}

bool idx_read(const char *path, Arena *arena, IdxArray *out, Error *err) {
    Arena *file = arena_new("data file");
    Bytes bytes;
    bool is_read = bytes_read(path, file, &bytes, err) &&
                   idx_decode(path, bytes.data, bytes.count, arena, out, err);
    arena_free(file);
    return is_read;
}
