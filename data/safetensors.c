#include "data/safetensors.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file.h"
#include "core/json.h"
#include "data/envelope.h"

static const struct {
    const char *name;
    int bits;
    Dtype dtype;
} types[] = {
    {"F32", 32, DTYPE_F32},          {"F16", 16, DTYPE_F16},      {"BF16", 16, DTYPE_BF16},
    {"BOOL", 8, DTYPE_COUNT},        {"U8", 8, DTYPE_COUNT},      {"I8", 8, DTYPE_COUNT},
    {"U16", 16, DTYPE_COUNT},        {"I16", 16, DTYPE_COUNT},    {"U32", 32, DTYPE_COUNT},
    {"I32", 32, DTYPE_COUNT},        {"U64", 64, DTYPE_COUNT},    {"I64", 64, DTYPE_COUNT},
    {"F64", 64, DTYPE_COUNT},        {"C64", 64, DTYPE_COUNT},    {"F8_E4M3", 8, DTYPE_COUNT},
    {"F8_E5M2", 8, DTYPE_COUNT},     {"F8_E8M0", 8, DTYPE_COUNT}, {"F8_E4M3FNUZ", 8, DTYPE_COUNT},
    {"F8_E5M2FNUZ", 8, DTYPE_COUNT}, {"F6_E2M3", 6, DTYPE_COUNT}, {"F6_E3M2", 6, DTYPE_COUNT},
    {"F4", 4, DTYPE_COUNT},
};
enum { TYPE_COUNT = sizeof types / sizeof *types };

/* ---- One header ---- */

typedef struct Reading {
    SafeTensors *st;
    int capacity;
    int file, first;    /* and its first tensor */
    int64_t data_bytes; /* of the file, behind the header */
    int64_t data_start;
    Error *err;
} Reading;

static int type_of(const char *name) {
    for (int i = 0; i < TYPE_COUNT; i++)
        if (name && !strcmp(name, types[i].name)) return i;
    return -1;
}

static bool read_shape(const Json *json, Shape *shape, Error *err) {
    int rank = json_count(json, "shape");
    if (json_type_at(json, "shape") != JSON_LIST)
        return FAIL(err, ERROR_INPUT, "'shape' must be a list");
    if (rank > SHAPE_RANK_MAX)
        return FAIL(err, ERROR_INPUT, "has %d dimensions; nibble reads up to %d", rank,
                    SHAPE_RANK_MAX);
    *shape = (Shape){.rank = rank};
    for (int i = 0; i < rank; i++) {
        char path[16] = "shape.0";
        path[6] = (char)('0' + i);
        if (!json_get_int(json, path, &shape->dim[i]) || shape->dim[i] < 0)
            return FAIL(err, ERROR_INPUT, "dimension %d is no count", i);
    }
    return true;
}

/* How many bytes a tensor of this shape has; a dimension may be 0. */
static bool count_bytes(Shape shape, int bits, int64_t *bytes) {
    int64_t count = 1, all;
    for (int i = 0; i < shape.rank; i++)
        if (shape.dim[i] == 0) return *bytes = 0, true;
    for (int i = 0; i < shape.rank; i++)
        if (__builtin_mul_overflow(count, shape.dim[i], &count)) return false;
    if (__builtin_mul_overflow(count, (int64_t)bits, &all) || all % 8) return false;
    *bytes = all / 8;
    return true;
}

static bool read_place(const Reading *r, const Json *json, SafeTensor *tensor, int bits) {
    int64_t begin, end, wanted;
    if (json_count(json, "data_offsets") != 2 || !json_get_int(json, "data_offsets.0", &begin) ||
        !json_get_int(json, "data_offsets.1", &end))
        return FAIL(r->err, ERROR_INPUT, "'data_offsets' must be two counts");
    if (begin < 0 || end < begin || end > r->data_bytes)
        return FAIL(
            r->err, ERROR_INPUT,
            "lies at %ld to %ld, but the file has %ld bytes of data: it is cut short, or damaged",
            (long)begin, (long)end, (long)r->data_bytes);
    char text[SHAPE_TEXT_BYTES];
    if (!count_bytes(tensor->shape, bits, &wanted) || wanted != end - begin)
        return FAIL(r->err, ERROR_INPUT, "%s of %s does not have the %ld bytes that it is given",
                    shape_text(tensor->shape, text), tensor->type, (long)(end - begin));
    tensor->offset = r->data_start + begin;
    tensor->bytes = end - begin;
    return true;
}

static bool read_tensor(const Reading *r, const JsonMember *member, SafeTensor *tensor) {
    const Json *json = member->inside;
    if (member->type != JSON_MEMBERS) return FAIL(r->err, ERROR_INPUT, "is no object");
    int type = type_of(json_get_text(json, "dtype"));
    if (type < 0) return FAIL(r->err, ERROR_INPUT, "has a dtype that nibble does not know");
    tensor->type = types[type].name;
    tensor->dtype = types[type].dtype;
    tensor->file = r->file;
    return read_shape(json, &tensor->shape, r->err) &&
           read_place(r, json, tensor, types[type].bits);
}

static bool add_tensor(void *context, const JsonMember *member) {
    Reading *r = context;
    SafeTensors *st = r->st;
    if (!strcmp(member->name, "__metadata__")) return true;
    if (st->count - r->first == SAFETENSORS_COUNT_MAX)
        return FAIL(r->err, ERROR_INPUT, "has more than %d tensors", SAFETENSORS_COUNT_MAX);
    if (st->count == r->capacity) {
        r->capacity = 2 * r->capacity + 256;
        SafeTensor *items = arena_new_array(st->arena, SafeTensor, r->capacity);
        if (st->count) memcpy(items, st->items, sizeof *items * (size_t)st->count);
        st->items = items;
    }
    SafeTensor tensor = {.name = arena_strdup(st->arena, member->name)};
    if (!read_tensor(r, member, &tensor)) {
        error_prefix(r->err, "tensor '%s'", member->name);
        return false;
    }
    st->items[st->count++] = tensor;
    return true;
}

static int by_place(const void *a, const void *b) {
    const SafeTensor *m = a, *n = b;
    if (m->offset != n->offset) return m->offset < n->offset ? -1 : 1;
    return (m->bytes > n->bytes) - (m->bytes < n->bytes);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const SafeTensor *)a)->name, ((const SafeTensor *)b)->name);
}

/* Every byte belongs to one tensor. */
static bool check_places(const Reading *r) {
    SafeTensors *st = r->st;
    int first = r->first;
    int64_t at = r->data_start;
    if (st->count > first)
        qsort(st->items + first, (size_t)(st->count - first), sizeof *st->items, by_place);
    for (int i = first; i < st->count; i++) {
        const SafeTensor *t = &st->items[i];
        if (t->offset != at)
            return FAIL(r->err, ERROR_INPUT, "tensor '%s' %s", t->name,
                        t->offset < at ? "lies over the one before it"
                                       : "leaves bytes before it that belong to none");
        at += t->bytes;
    }
    int64_t end = r->data_start + r->data_bytes;
    return at == end ||
           FAIL(r->err, ERROR_INPUT, "%ld bytes at its end belong to no tensor", (long)(end - at));
}

/* N, which must be what the file has. */
static bool read_length(int descriptor, int64_t file_bytes, uint64_t *count, Error *err) {
    unsigned char head[8];
    if (file_bytes < 8 || pread(descriptor, head, 8, 0) != 8)
        return FAIL(err, ERROR_INPUT, "is too short to be of safetensors");
    *count = 0;
    for (int i = 7; i >= 0; i--) *count = *count << 8 | head[i];
    if (*count > (uint64_t)file_bytes - 8)
        return FAIL(err, ERROR_INPUT,
                    "its header claims %llu bytes, but the file has %ld: it is cut short, or no "
                    "safetensors",
                    (unsigned long long)*count, (long)file_bytes);
    return *count <= SAFETENSORS_HEADER_MAX ||
           FAIL(err, ERROR_INPUT, "its header has %llu bytes; nibble reads up to %d",
                (unsigned long long)*count, SAFETENSORS_HEADER_MAX);
}

static bool read_header(Reading *r, int descriptor, int64_t file_bytes, Arena *arena) {
    uint64_t count;
    r->first = r->st->count;
    TRY(read_length(descriptor, file_bytes, &count, r->err));
    char *text = arena_alloc(arena, (size_t)count + 1);
    if (pread(descriptor, text, (size_t)count, 8) != (ssize_t)count)
        return FAIL(r->err, ERROR_SYSTEM, "cannot be read: %s", strerror(errno));
    Json *json = json_read_text(text, (size_t)count, "header", r->err);
    r->data_start = 8 + (int64_t)count;
    r->data_bytes = file_bytes - r->data_start;
    bool ok = json && json_each_member(json, "", add_tensor, r) && check_places(r);
    json_free(json);
    return ok;
}

static bool add_file(Reading *r, const char *path) {
    SafeTensors *st = r->st;
    int descriptor = file_open(path, FILE_READ, r->err);
    if (descriptor < 0) return false;
    r->file = st->file_count;
    st->files[st->file_count] = path;
    st->descriptors[st->file_count++] = descriptor;
    struct stat status;
    bool ok = !fstat(descriptor, &status) ||
              FAIL(r->err, ERROR_SYSTEM, "cannot be looked at: %s", strerror(errno));
    Arena *arena = arena_new("header of safetensors");
    ok = ok && read_header(r, descriptor, status.st_size, arena);
    arena_free(arena);
    if (!ok) error_prefix(r->err, "%s", path);
    return ok;
}

/* ---- Directories ---- */

typedef struct Index {
    Reading *reading;
    const char *directory, *path;
} Index;

/* A name that a file beside the index can have. */
static bool is_plain(const char *name) {
    return *name && strlen(name) <= NAME_MAX && *name != '.' && !strchr(name, '/') &&
           !strchr(name, '\\');
}

/* Each file once, in the order in which the index names them. */
static bool add_part(void *context, const JsonMember *member) {
    Index *index = context;
    SafeTensors *st = index->reading->st;
    Error *err = index->reading->err;
    if (!member->text || !is_plain(member->text))
        return FAIL(err, ERROR_INPUT,
                    "%s: '%.80s' lies in a file that is not beside the index: '%.80s'", index->path,
                    member->name, member->text ? member->text : "");
    const char *path = arena_format(st->arena, "%s/%s", index->directory, member->text);
    for (int i = 0; i < st->file_count; i++)
        if (!strcmp(st->files[i], path)) return true;
    if (st->file_count == SAFETENSORS_FILES_MAX)
        return FAIL(err, ERROR_INPUT, "%s: more than %d files", index->path, SAFETENSORS_FILES_MAX);
    return add_file(index->reading, file_resolve(path, st->arena));
}

static bool check_part(void *context, const JsonMember *member) {
    Index *index = context;
    const SafeTensors *st = index->reading->st;
    const SafeTensor *tensor = safetensors_find(st, member->name);
    const char *path = arena_format(st->arena, "%s/%s", index->directory, member->text);
    return (tensor && !strcmp(st->files[tensor->file], file_resolve(path, st->arena))) ||
           FAIL(index->reading->err, ERROR_INPUT, "%s: '%.80s' is not in %.80s", index->path,
                member->name, member->text);
}

static bool sort_names(SafeTensors *st, Error *err) {
    if (st->count) qsort(st->items, (size_t)st->count, sizeof *st->items, by_name);
    for (int i = 1; i < st->count; i++)
        if (!strcmp(st->items[i - 1].name, st->items[i].name))
            return FAIL(err, ERROR_INPUT, "tensor '%s' is in %s and in %s", st->items[i].name,
                        st->files[st->items[i - 1].file], st->files[st->items[i].file]);
    return true;
}

static bool read_index(Reading *r, const char *directory, const char *path) {
    Index index = {r, directory, path};
    Json *json = json_read_small(file_resolve(path, r->st->arena), SAFETENSORS_HEADER_MAX, r->err);
    bool ok = json != NULL;
    if (ok && json_type_at(json, "weight_map") != JSON_MEMBERS)
        ok = FAIL(r->err, ERROR_INPUT, "%s: has no 'weight_map'", path);
    ok = ok && json_each_member(json, "weight_map", add_part, &index) &&
         sort_names(r->st, r->err) && json_each_member(json, "weight_map", check_part, &index);
    json_free(json);
    return ok;
}

bool safetensors_open(const char *path, Arena *arena, SafeTensors *out, Error *err) {
    *out = (SafeTensors){.arena = arena};
    out->files = arena_new_array(arena, const char *, SAFETENSORS_FILES_MAX);
    out->descriptors = arena_new_array(arena, int, SAFETENSORS_FILES_MAX);
    Reading r = {.st = out, .err = err};
    struct stat status;
    bool is_directory = !stat(path, &status) && S_ISDIR(status.st_mode);
    if (!is_directory)
        return add_file(&r, file_resolve(arena_strdup(arena, path), arena)) && sort_names(out, err);
    const char *whole = arena_format(arena, "%s/model.safetensors", path);
    const char *index = arena_format(arena, "%s/model.safetensors.index.json", path);
    if (!access(whole, F_OK))
        return add_file(&r, file_resolve(whole, arena)) && sort_names(out, err);
    if (!access(index, F_OK)) return read_index(&r, path, index);
    return FAIL(err, ERROR_INPUT,
                "%s holds neither model.safetensors nor model.safetensors.index.json", path);
}

void safetensors_close(SafeTensors *st) {
    for (int i = 0; i < st->file_count; i++) close(st->descriptors[i]);
    st->file_count = 0;
}

const SafeTensor *safetensors_find(const SafeTensors *st, const char *name) {
    SafeTensor wanted = {.name = name};
    if (!st->count) return NULL; /* an array of none has no address */
    return bsearch(&wanted, st->items, (size_t)st->count, sizeof wanted, by_name);
}

/* ---- Data ---- */

static bool read_part(const SafeTensors *st, const SafeTensor *t, int64_t from, int64_t bytes,
                      void *out, Error *err) {
    for (int64_t done = 0; done < bytes;) {
        ssize_t got = pread(st->descriptors[t->file], (char *)out + done, (size_t)(bytes - done),
                            t->offset + from + done);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0)
            return FAIL(err, ERROR_SYSTEM, "%s: tensor '%s' cannot be read: %s", st->files[t->file],
                        t->name, got < 0 ? strerror(errno) : "the file has become shorter");
        done += got;
    }
    return true;
}

bool safetensors_read(const SafeTensors *st, const SafeTensor *t, int64_t first, int64_t count,
                      float *values, Error *err) {
    enum { PART = 1 << 15 }; /* elements: what is decoded is in cache */
    if (t->dtype == DTYPE_COUNT)
        return FAIL(err, ERROR_INPUT, "%s: tensor '%s' is of %s, of which nibble reads no numbers",
                    st->files[t->file], t->name, t->type);
    int64_t size = (int64_t)dtype_bytes(t->dtype, 1);
    if (t->dtype == DTYPE_F32) return read_part(st, t, size * first, size * count, values, err);
    uint16_t part[PART];
    for (int64_t done = 0; done < count; done += PART) {
        int64_t now = count - done < PART ? count - done : PART;
        TRY(read_part(st, t, size * (first + done), size * now, part, err));
        dtype_decode(t->dtype, part, NULL, 0, now, values + done);
    }
    return true;
}

bool safetensors_read_bytes(const SafeTensors *st, const SafeTensor *t, void *bytes, Error *err) {
    return read_part(st, t, 0, t->bytes, bytes, err);
}

/* ---- Writing ---- */

static const char *type_name(Dtype dtype) {
    for (int i = 0; i < TYPE_COUNT; i++)
        if (types[i].dtype == dtype) return types[i].name;
    assert(dtype == DTYPE_BYTE);
    return "U8";
}

/* Names may hold dots, which paths of json.h take apart: so the header is put together as text. */
static const char *quoted(const char *text, Arena *arena) {
    Json *json = json_new();
    json_set_text(json, "x", text);
    const char *line = json_line(json, arena); /* {"x": "text"} */
    json_free(json);
    size_t length = strlen(line);
    return arena_format(arena, "%.*s", (int)(length - 7), line + 6);
}

static const char *metadata_item(const char *const *metadata, Arena *arena) {
    const char *item = "";
    for (const char *const *m = metadata; *m; m += 2)
        item = arena_format(arena, "%s%s%s: %s", item, *item ? ", " : "", quoted(m[0], arena),
                            quoted(m[1], arena));
    return arena_format(arena, "\"__metadata__\": {%s}", item);
}

static const char *tensor_item(const SafeTensorData *data, int64_t at, int64_t bytes,
                               Arena *arena) {
    const Shape *shape = &data->tensor.shape;
    const char *dims = "";
    for (int i = 0; i < shape->rank; i++)
        dims = arena_format(arena, "%s%s%ld", dims, i ? ", " : "", (long)shape->dim[i]);
    return arena_format(arena,
                        "%s: {\"dtype\": \"%s\", \"shape\": [%s], \"data_offsets\": [%ld, %ld]}",
                        quoted(data->name, arena), type_name(data->tensor.dtype), dims, (long)at,
                        (long)(at + bytes));
}

/* Ends in spaces, so that what follows is aligned. */
static const char *join_items(const char *const *items, int count, Arena *arena) {
    size_t bytes = 2 + 8 + 1;
    for (int i = 0; i < count; i++) bytes += strlen(items[i]) + 1;
    char *text = arena_alloc(arena, bytes), *at = text;
    *at++ = '{';
    for (int i = 0; i < count; i++) {
        if (i) *at++ = ',';
        at = stpcpy(at, items[i]);
    }
    *at++ = '}';
    while ((at - text) % 8) *at++ = ' ';
    *at = '\0';
    return text;
}

static int64_t data_bytes(const Tensor *tensor) {
    return (int64_t)dtype_bytes(tensor->dtype, tensor_count(tensor));
}

static const char *write_header(const SafeTensorData *tensors, int count,
                                const char *const *metadata, Arena *arena) {
    const char **items = arena_new_array(arena, const char *, count + 1);
    int item_count = 0;
    int64_t at = 0;
    if (metadata) items[item_count++] = metadata_item(metadata, arena);
    for (int i = 0; i < count; i++) {
        int64_t bytes = data_bytes(&tensors[i].tensor);
        items[item_count++] = tensor_item(&tensors[i], at, bytes, arena);
        at += bytes;
    }
    return join_items(items, item_count, arena);
}

static bool fail_writing(const SafeTensorsWriter *w, Error *err) {
    return FAIL(err, ERROR_SYSTEM, "%s: cannot write: %s", w->temporary, strerror(errno));
}

bool safetensors_write_begin(const char *path, const SafeTensorData *tensors, int count,
                             const char *const *metadata, SafeTensorsWriter *out, Error *err) {
    Arena *arena = arena_new("safetensors");
    *out = (SafeTensorsWriter){.path = arena_strdup(arena, path), .arena = arena};
    const char *header = write_header(tensors, count, metadata, arena);
    for (int i = 0; i < count; i++) out->due += data_bytes(&tensors[i].tensor);
    out->temporary = envelope_begin(path, arena);
    out->descriptor = file_open(out->temporary, FILE_CREATE, err);
    if (out->descriptor < 0) return false;
    uint64_t bytes = strlen(header);
    unsigned char head[8];
    for (int i = 0; i < 8; i++) head[i] = (unsigned char)(bytes >> 8 * i);
    return (file_write_bytes(out->descriptor, head, 8) &&
            file_write_bytes(out->descriptor, header, bytes)) ||
           fail_writing(out, err);
}

bool safetensors_write_part(SafeTensorsWriter *w, const void *bytes, size_t count, Error *err) {
    w->due -= (int64_t)count;
    assert(w->due >= 0);
    return file_write_bytes(w->descriptor, bytes, count) || fail_writing(w, err);
}

bool safetensors_write_end(SafeTensorsWriter *w, bool is_whole, Error *err) {
    bool is_open = w->descriptor >= 0;
    assert(!is_whole || (is_open && !w->due));
    if (is_open && close(w->descriptor) && is_whole) is_whole = fail_writing(w, err);
    is_whole = is_whole && envelope_publish(w->temporary, w->path, NULL, err);
    if (is_open && !is_whole) unlink(w->temporary);
    arena_free(w->arena);
    return is_whole;
}

bool safetensors_write(const char *path, const SafeTensorData *tensors, int count,
                       const char *const *metadata, Error *err) {
    SafeTensorsWriter w;
    bool ok = safetensors_write_begin(path, tensors, count, metadata, &w, err);
    for (int i = 0; ok && i < count; i++)
        ok = safetensors_write_part(&w, tensors[i].tensor.data,
                                    (size_t)data_bytes(&tensors[i].tensor), err);
    return safetensors_write_end(&w, ok, err);
}
