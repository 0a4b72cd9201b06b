/* Files with a right digest and a wrong content, by chance: from a seed, always the same ones.
 *
 * A file of ours is taken apart into its objects; some are changed, and the file is written again.
 * Or some of its bytes are, wherever they lie, and its trailer is made anew. Texts lose, get and
 * change tokens and bytes. */
#ifndef NIBBLE_TESTS_MUTATE_H
#define NIBBLE_TESTS_MUTATE_H

#include "tests/program.h"

#include <float.h>
#include <math.h>

#include "data/envelope.h"
#include "data/h5.h"

/* ---- Chance: splitmix64 (Vigna) ---- */

static uint64_t chance;

static inline uint64_t draw(void) {
    uint64_t z = chance += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline int64_t below(int64_t count) {
    return (int64_t)(draw() % (uint64_t)count);
}

#define ANY(list) ((list)[below(sizeof(list) / sizeof *(list))])

static const int64_t odd_integers[] = {
    -5,        -1,        0,         1,         2,         3,
    7,         255,       256,       1 << 16,   INT32_MAX, (int64_t)1 << 32,
    1LL << 53, 1LL << 62, INT64_MAX, INT64_MIN, INT32_MIN};
static const double odd_reals[] = {-5,       -1,    0,        -0.0,      0.5,     1e-300, 5e-324,
                                   1e38,     1e300, DBL_MAX,  -DBL_MAX,  0x1p62,  1e-45,  FLT_MAX,
                                   -FLT_MAX, NAN,   INFINITY, -INFINITY, FLT_MIN, 1};
static const char *const odd_texts[] = {
    "",         "-5",
    "nan",      ".inf",
    "1e400",    "4611686018427387904",
    "null",     "[]",
    "{}",       "true",
    "\"",       "0",
    "\x1b[2J",  "\n",
    "\xff\xfe", "\xe2\x80\xae",
    "{",        "[[[[[[[[[[[[[[[[",
    "'",        "a: b",
    "\t",       "-",
    "&a *a",    "1",
    "2",        "relu",
    "conv",     "\n- {}\n",
    ": ",       "99999999",
};

/* ---- Objects ---- */

enum { OBJECTS_MAX = 1024, NUMBERS_MAX = 32 };

typedef struct Object {
    const char *name; /* its path */
    H5What what;
    H5Element element;
    Shape shape;
    int64_t bytes;
    unsigned char *data; /* of a tensor */
    const char *text;
    H5Number numbers[NUMBERS_MAX];
    int number_count;
} Object;

typedef struct Objects {
    Object *items;
    int count;
} Objects;

static inline void object_read(const H5Reader *r, const char *name, Objects *all) {
    Error err = {0};
    H5Info info;
    if (!h5_read_info(r, name, &info, &err)) fail_msg("%s", err.message);
    assert_true(all->count < OBJECTS_MAX);
    Object *o = &all->items[all->count++];
    *o = (Object){name, info.what, info.element, info.shape, info.bytes, .text = NULL};
    if (info.what == H5_TEXT) {
        o->text = h5_read_text(r, name, program_arena, &err);
        return;
    }
    H5Number *numbers;
    if (!h5_read_numbers(r, name, program_arena, &numbers, &o->number_count, &err))
        fail_msg("%s", err.message);
    assert_true(o->number_count <= NUMBERS_MAX);
    memcpy(o->numbers, numbers, sizeof *numbers * (size_t)o->number_count);
    if (info.what == H5_TENSOR) {
        o->data = arena_zalloc(program_arena, (size_t)info.bytes + 1);
        assert_true(h5_read_tensor(r, name, info.element, info.shape, o->data, &err));
        return;
    }
    const char **names;
    int count;
    assert_true(h5_read_names(r, name, program_arena, &names, &count, &err));
    for (int i = 0; i < count; i++)
        object_read(r, *name ? format("%s/%s", name, names[i]) : names[i], all);
}

static inline Objects objects_read(const char *path) {
    Error err = {0};
    Objects all = {arena_new_array(program_arena, Object, OBJECTS_MAX), 0};
    H5Reader *r = h5_read_open(path, program_arena, &err);
    if (!r) fail_msg("%s", err.message);
    object_read(r, "", &all);
    return all;
}

/* False: such a file cannot be written; nothing is left then. */
static inline bool objects_write(const Objects *all, const char *path) {
    Error err = {0};
    H5Writer *w = h5_write_begin(path, 0, program_arena, &err);
    if (!w) fail_msg("%s", err.message);
    for (int i = 0; i < all->count; i++) {
        const Object *o = &all->items[i];
        if (o->what == H5_TENSOR) h5_write_tensor(w, o->name, o->element, o->shape, o->data);
        if (o->what == H5_TEXT) h5_write_text(w, o->name, o->text);
        if (o->what == H5_GROUP) h5_write_group(w, o->name);
        for (int j = 0; j < o->number_count; j++) {
            const H5Number *n = &o->numbers[j];
            if (n->is_float)
                h5_write_float(w, o->name, n->name, n->real);
            else
                h5_write_int(w, o->name, n->name, n->integer);
        }
    }
    return h5_write_commit(w, NULL, &err);
}

/* ---- What is changed: each returns what it did, or NULL where the object has no such thing ----
 */

static inline const char *change_number(Object *o) {
    if (!o->number_count) return NULL;
    H5Number *n = &o->numbers[below(o->number_count)];
    const char *what = format("%s@%s", o->name, n->name);
    switch (below(8)) {
    case 0:
        n->is_float = !n->is_float;
        n->integer = ANY(odd_integers);
        n->real = ANY(odd_reals);
        return format("%s of another type", what);
    case 1:
        *n = o->numbers[--o->number_count];
        return format("%s removed", what);
    default:
        n->integer = below(3) ? ANY(odd_integers) : n->integer + below(3) - 1;
        n->real = ANY(odd_reals);
        return n->is_float ? format("%s = %g", what, n->real)
                           : format("%s = %ld", what, (long)n->integer);
    }
}

static inline void element_set(Object *o, int64_t i, double real, int64_t integer) {
    size_t bytes = h5_element_bytes(o->element);
    unsigned char *at = o->data + (size_t)i * bytes;
    float narrow = (float)real;
    if (o->element == H5_F32)
        memcpy(at, &narrow, bytes);
    else if (o->element == H5_F64)
        memcpy(at, &real, bytes);
    else
        memcpy(at, &integer, bytes);
}

static inline const char *change_elements(Object *o) {
    if (o->what != H5_TENSOR || !o->bytes) return NULL;
    int64_t count = o->bytes / (int64_t)h5_element_bytes(o->element), integer = ANY(odd_integers);
    double real = ANY(odd_reals);
    int64_t first = below(count), end = below(3) ? first + 1 : count;
    if (!below(4)) first = 0;
    for (int64_t i = first; i < end; i++) element_set(o, i, real, integer);
    return format("%s[%ld..%ld] = %g or %ld", o->name, (long)first, (long)end, real, (long)integer);
}

static inline const char *change_shape(Object *o) {
    if (o->what != H5_TENSOR) return NULL;
    int axis = o->shape.rank ? (int)below(o->shape.rank) : 0;
    int64_t dim = o->shape.rank ? o->shape.dim[axis] : 1;
    int64_t dims[] = {0, 1, dim + 1, dim - 1, 2 * dim, dim / 2, 4096};
    if (!below(4) && o->shape.rank < SHAPE_RANK_MAX)
        o->shape.dim[o->shape.rank++] = 1 + below(3);
    else if (!below(4) && o->shape.rank)
        o->shape.rank--;
    else if (o->shape.rank)
        o->shape.dim[axis] = ANY(dims);
    if (!below(4)) o->element = (H5Element)below(H5_ELEMENT_COUNT);
    int64_t bytes = (int64_t)h5_element_bytes(o->element);
    for (int i = 0; i < o->shape.rank; i++) bytes *= o->shape.dim[i];
    if (bytes < 0 || bytes > 1 << 24) return NULL;
    unsigned char *data = arena_zalloc(program_arena, (size_t)bytes + 1);
    memcpy(data, o->data, (size_t)(bytes < o->bytes ? bytes : o->bytes));
    o->data = data;
    o->bytes = bytes;
    char text[SHAPE_TEXT_BYTES];
    return format("%s is %s %s", o->name, h5_element_name(o->element), shape_text(o->shape, text));
}

static inline const char *text_changed(const char *text, size_t *bytes, bool is_binary);

static inline const char *change_text(Object *o) {
    size_t bytes = o->text ? strlen(o->text) : 0;
    if (!o->text) return NULL;
    o->text = text_changed(o->text, &bytes, false);
    return format("%s: another text", o->name);
}

static inline const char *change_type(Object *o) {
    static float number[1] = {1};
    H5What what = (H5What)below(3);
    if (what == o->what || !*o->name) return NULL;
    Object other = {.name = o->name, .what = what, .text = ANY(odd_texts)};
    other.element = H5_F32;
    other.shape = SHAPE(1);
    other.bytes = sizeof *number;
    other.data = (unsigned char *)number;
    *o = other;
    return format("%s of another type", o->name);
}

static inline const char *change_name(Object *o) {
    static const char *const names[] = {"x",     "\x1b[2J", "a\nb", "scales",
                                        "codes", "0",       "-",    "\xff"};
    if (!*o->name) return NULL;
    const char *old = o->name, *slash = strrchr(old, '/');
    o->name = slash ? format("%.*s/%s", (int)(slash - old), old, ANY(names)) : ANY(names);
    return format("%s renamed", old);
}

/* With all that is in it. */
static inline const char *remove_object(Objects *all, int i) {
    const char *name = all->items[i].name;
    size_t length = strlen(name);
    int kept = 0;
    if (!*name) return NULL;
    for (int j = 0; j < all->count; j++) {
        const char *other = all->items[j].name;
        bool is_inside = !strncmp(other, name, length) && (!other[length] || other[length] == '/');
        if (!is_inside) all->items[kept++] = all->items[j];
    }
    all->count = kept;
    return format("%s removed", name);
}

static inline const char *add_object(Objects *all, int i) {
    Object *o = &all->items[all->count];
    if (all->count == OBJECTS_MAX || !*all->items[i].name) return NULL;
    *o = all->items[i];
    o->name = format("%s%ld", o->name, (long)below(10));
    all->count++;
    return format("%s: there twice", o->name);
}

/* What one object of another has: a tensor of the same type and size. */
static inline const char *swap_objects(Objects *all, int i) {
    Object *a = &all->items[i], *b = &all->items[below(all->count)];
    const char *name = a->name;
    if (a == b || !*a->name || !*b->name) return NULL;
    a->name = b->name;
    b->name = name;
    return format("%s and %s swapped", a->name, b->name);
}

static inline const char *change_object(Objects *all) {
    int i = (int)below(all->count);
    Object *o = &all->items[i];
    switch (below(12)) {
    case 0:
        return remove_object(all, i);
    case 1:
        return add_object(all, i);
    case 2:
        return swap_objects(all, i);
    case 3:
        return change_type(o);
    case 4:
        return change_name(o);
    case 5:
        return change_shape(o);
    case 6:
        return change_text(o);
    case 7:
    case 8:
        return change_elements(o);
    default:
        return change_number(o);
    }
}

/* ---- Texts and bytes ---- */

static inline size_t token_end(const char *text, size_t bytes, size_t from) {
    static const char ends[] = " \n,:[]{}\"";
    while (from < bytes && !strchr(ends, text[from])) from++;
    return from;
}

/* Cuts [first, end) out of `text` and puts `instead` there. */
static inline const char *text_replaced(const char *text, size_t *bytes, size_t first, size_t end,
                                        const char *instead, size_t instead_bytes) {
    size_t rest = *bytes - end;
    char *copy = arena_zalloc(program_arena, first + instead_bytes + rest + 1);
    memcpy(copy, text, first);
    memcpy(copy + first, instead, instead_bytes);
    memcpy(copy + first + instead_bytes, text + end, rest);
    *bytes = first + instead_bytes + rest;
    return copy;
}

static inline const char *text_changed(const char *text, size_t *bytes, bool is_binary) {
    if (!*bytes) return text;
    size_t first = (size_t)below((int64_t)*bytes), end = first + 1;
    const char *instead = ANY(odd_texts);
    char byte[2] = {(char)(1 + below(255)), 0};
    switch (below(is_binary ? 4 : 8)) {
    case 0: /* some bytes */
        instead = byte;
        break;
    case 1: /* a part is lost */
        end = first + 1 + (size_t)below((int64_t)(*bytes - first));
        instead = "";
        break;
    case 2: /* a part stands twice */
        end = first + 1 + (size_t)below((int64_t)(*bytes - first));
        return text_replaced(text, bytes, first, first, text + first, end - first);
    case 3: /* the end is lost */
        end = *bytes;
        instead = "";
        break;
    default: /* a word, or a number, becomes another */
        while (first && !strchr(" \n,:[]{}\"", text[first - 1])) first--;
        end = token_end(text, *bytes, first);
    }
    return text_replaced(text, bytes, first, end, instead, strlen(instead));
}

static inline void bytes_change(unsigned char *body, size_t bytes) {
    int64_t count = 1 + below(below(4) ? 2 : 40);
    size_t at = (size_t)below((int64_t)bytes);
    for (int64_t i = 0; i < count; i++) {
        if (below(2)) at = (size_t)below((int64_t)bytes);
        if (at >= bytes) at = 0;
        body[at++] = below(3) ? (unsigned char)draw() : below(2) ? 0 : 0xff;
    }
}

/* ---- Files ---- */

static inline bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), count = strlen(end);
    return length >= count && !strcmp(text + length - count, end);
}

/* `content` was the file at `path`; returns what was done to it. */
static inline const char *mutate_sealed(const char *path, const unsigned char *content,
                                        size_t bytes) {
    Error err = {0};
    size_t body = bytes - ENVELOPE_TRAILER_BYTES;
    unsigned char *copy = arena_alloc(program_arena, body + 1);
    memcpy(copy, content, body);
    bytes_change(copy, body);
    if (!below(20)) body = (size_t)below((int64_t)body);
    file_write(path, copy, body);
    if (!envelope_seal(path, &err)) fail_msg("%s", err.message);
    return "bytes";
}

static inline const char *mutate_objects(const char *path, const Objects *original) {
    Objects all = {arena_new_array(program_arena, Object, OBJECTS_MAX), original->count};
    memcpy(all.items, original->items, sizeof *all.items * (size_t)all.count);
    const char *what = "";
    for (int64_t changes = 1 + (below(5) == 0); changes > 0;) {
        const char *done = change_object(&all);
        if (!done) continue;
        what = format("%s%s%s", what, *what ? "; " : "", done);
        changes--;
    }
    return objects_write(&all, path) ? what : NULL;
}

static inline const char *mutate_text(const char *path, const unsigned char *content,
                                      size_t bytes) {
    const char *text = (const char *)content;
    bool is_binary = ends_with(path, ".safetensors");
    for (int64_t changes = 1 + below(3); changes > 0; changes--)
        text = text_changed(text, &bytes, is_binary);
    file_write(path, text, bytes);
    return "text";
}

#endif
