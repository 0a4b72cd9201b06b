#include "core/json.h"

#include <assert.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/print.h"
#include "core/settings/field.h"

/* A Json is a json_t that is an object; jansson counts references, we hold the root's only. */
static json_t *inside(const Json *object) {
    return (json_t *)(uintptr_t)object;
}
static Json *outside(json_t *object) {
    return (Json *)object;
}

/* jansson answers NULL only when memory is out; then the program ends as arenas end it. */
static json_t *must(json_t *value) {
    if (value) return value;
    fprintf(stderr, "nibble: out of memory in JSON\n");
    exit(1);
}

static void *allocate(size_t bytes) {
    return checked_malloc("JSON", bytes);
}

/* Without memory jansson would find fault with the text. */
static void start(void) {
    json_set_alloc_funcs(allocate, free);
}

Json *json_new(void) {
    start();
    return outside(must(json_object()));
}

void json_free(Json *object) {
    json_decref(inside(object));
}

/* ---- Paths ---- */

/* The first name of a path into `name`; returns the rest of the path, or NULL after the last. */
static const char *first_name(const char *path, char name[JSON_NAME_MAX]) {
    size_t length = strcspn(path, ".");
    assert(length && length < JSON_NAME_MAX);
    memcpy(name, path, length);
    name[length] = '\0';
    return path[length] ? path + length + 1 : NULL;
}

static json_t *element_of(const json_t *list, const char *name) {
    char *end;
    unsigned long i = strtoul(name, &end, 10);
    return *end ? NULL : json_array_get(list, i);
}

static json_t *find(const Json *object, const char *path) {
    json_t *at = inside(object);
    char name[JSON_NAME_MAX];
    while (path && *path && at) {
        path = first_name(path, name);
        /* NULL where `at` is neither */
        at = json_is_array(at) ? element_of(at, name) : json_object_get(at, name);
    }
    return at;
}

/* The object that holds the path's last name, which goes to `name`. */
static json_t *parent_of(Json *object, const char *path, char name[JSON_NAME_MAX]) {
    json_t *at = inside(object);
    for (path = first_name(path, name); path; path = first_name(path, name)) {
        json_t *next = json_object_get(at, name);
        if (!json_is_object(next)) {
            next = must(json_object());
            if (json_object_set_new(at, name, next)) must(NULL);
        }
        at = next;
    }
    return at;
}

static void set(Json *object, const char *path, json_t *value) {
    char name[JSON_NAME_MAX];
    json_t *parent = parent_of(object, path, name);
    if (json_object_set_new(parent, name, must(value))) must(NULL);
}

void json_set_number(Json *object, const char *path, double value) {
    set(object, path, isfinite(value) ? json_real(value) : json_null());
}

void json_set_int(Json *object, const char *path, int64_t value) {
    set(object, path, json_integer(value));
}

void json_set_shortest(Json *object, const char *path, double value) {
    bool is_whole = fabs(value) < 0x1p53 && value == nearbyint(value);
    if (is_whole)
        json_set_int(object, path, (int64_t)value);
    else
        json_set_number(object, path, value);
}

void json_set_bool(Json *object, const char *path, bool value) {
    set(object, path, json_boolean(value));
}

static json_t *text_of(const char *value) {
    json_t *text = value ? json_string(value) : json_null();
    if (!text) { /* not UTF-8 */
        Arena *arena = arena_new("JSON");
        char *ascii = arena_strdup(arena, value);
        for (char *c = ascii; *c; c++) {
            if ((unsigned char)*c > 0x7f) *c = '?';
        }
        text = json_string(ascii);
        arena_free(arena);
    }
    return must(text);
}

void json_set_text(Json *object, const char *path, const char *value) {
    set(object, path, text_of(value));
}

static void append(Json *object, const char *path, json_t *element) {
    char name[JSON_NAME_MAX];
    json_t *parent = parent_of(object, path, name);
    json_t *list = json_object_get(parent, name);
    if (!json_is_array(list)) {
        list = must(json_array());
        if (json_object_set_new(parent, name, list)) must(NULL);
    }
    if (json_array_append_new(list, element)) must(NULL);
}

Json *json_append(Json *object, const char *path) {
    json_t *element = must(json_object());
    append(object, path, element);
    return outside(element);
}

void json_append_text(Json *object, const char *path, const char *value) {
    append(object, path, text_of(value));
}

static json_t *list_of(const int64_t *values, int count) {
    json_t *list = must(json_array());
    for (int i = 0; i < count; i++) {
        if (json_array_append_new(list, must(json_integer(values[i])))) must(NULL);
    }
    return list;
}

void json_append_ints(Json *object, const char *path, const int64_t *values, int count) {
    append(object, path, list_of(values, count));
}

void json_set_ints(Json *object, const char *path, const int64_t *values, int count) {
    set(object, path, list_of(values, count));
}

void json_set_numbers(Json *object, const char *path, const double *values, int count) {
    json_t *list = must(json_array());
    for (int i = 0; i < count; i++) {
        bool is_number = isfinite(values[i]);
        json_t *number = must(is_number ? json_real(values[i]) : json_null());
        if (json_array_append_new(list, number)) must(NULL);
    }
    set(object, path, list);
}

void json_set_member(Json *object, const char *path, const char *name, double value) {
    char last[JSON_NAME_MAX];
    json_t *parent = parent_of(object, path, last), *at = json_object_get(parent, last);
    if (!json_is_object(at)) {
        at = must(json_object());
        if (json_object_set_new(parent, last, at)) must(NULL);
    }
    if (!name) return;
    bool is_whole = fabs(value) < 0x1p53 && value == nearbyint(value);
    json_t *number = is_whole ? json_integer((int64_t)value) : json_real(value);
    if (json_object_set_new(at, name, must(number))) must(NULL);
}

bool json_get_number(const Json *object, const char *path, double *value) {
    const json_t *found = find(object, path);
    if (!json_is_number(found)) return false;
    *value = json_number_value(found);
    return true;
}

double json_number(const Json *object, const char *path) {
    double value = NAN;
    if (object) json_get_number(object, path, &value);
    return value;
}

bool json_get_int(const Json *object, const char *path, int64_t *value) {
    const json_t *found = find(object, path);
    if (!json_is_integer(found)) return false;
    *value = json_integer_value(found);
    return true;
}

bool json_get_bool(const Json *object, const char *path, bool *value) {
    const json_t *found = find(object, path);
    if (!json_is_boolean(found)) return false;
    *value = json_is_true(found);
    return true;
}

bool json_get_ints(const Json *object, const char *path, int64_t *values, int64_t count) {
    const json_t *list = find(object, path);
    bool is_whole = json_is_array(list) && json_array_size(list) == (size_t)count;
    for (int64_t i = 0; is_whole && i < count; i++) {
        const json_t *element = json_array_get(list, (size_t)i);
        is_whole = json_is_integer(element);
        values[i] = json_integer_value(element);
    }
    return is_whole;
}

const char *json_get_text(const Json *object, const char *path) {
    return json_string_value(find(object, path));
}

int json_count(const Json *object, const char *path) {
    return (int)json_array_size(find(object, path));
}

Json *json_element(const Json *object, const char *path, int i) {
    json_t *element = i < 0 ? NULL : json_array_get(find(object, path), (size_t)i);
    return json_is_object(element) ? outside(element) : NULL;
}

const Json *json_inside(const Json *object, const char *path) {
    json_t *found = find(object, path);
    return json_is_object(found) ? outside(found) : NULL;
}

/* ---- Members of an object whose names are not known ---- */

static JsonType type_of(const json_t *value) {
    if (!value) return JSON_ABSENT;
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return JSON_MEMBERS;
    case JSON_ARRAY:
        return JSON_LIST;
    case JSON_STRING:
        return JSON_TEXT;
    case JSON_INTEGER:
        return JSON_INT;
    case JSON_REAL:
        return JSON_NUMBER;
    case JSON_TRUE:
    case JSON_FALSE:
        return JSON_BOOL;
    case JSON_NULL:
        return JSON_NOTHING;
    }
    return JSON_ABSENT;
}

JsonType json_type_at(const Json *object, const char *path) {
    return type_of(find(object, path));
}

bool json_has(const Json *object, const char *path) {
    json_t *found = find(object, path);
    return found && !json_is_null(found);
}

static JsonMember member_of(const char *name, json_t *value) {
    bool has_members = json_is_object(value) || json_is_array(value);
    return (JsonMember){.name = name,
                        .type = type_of(value),
                        .integer = json_integer_value(value),
                        .number = json_number_value(value),
                        .is_true = json_is_true(value),
                        .text = json_string_value(value),
                        .inside = has_members ? outside(value) : NULL};
}

bool json_each_element(const Json *object, const char *path, JsonVisit visit, void *context) {
    json_t *found = find(object, path);
    for (size_t i = 0; i < json_array_size(found); i++) {
        JsonMember element = member_of("", json_array_get(found, i));
        if (!visit(context, &element)) return false;
    }
    return true;
}

bool json_each_member(const Json *object, const char *path, JsonVisit visit, void *context) {
    json_t *found = find(object, path);
    for (void *at = json_object_iter(found); at; at = json_object_iter_next(found, at)) {
        JsonMember member = member_of(json_object_iter_key(at), json_object_iter_value(at));
        if (!visit(context, &member)) return false;
    }
    return true;
}

/* ---- Reading ---- */

Json *json_read_text(const char *text, size_t bytes, const char *name, Error *err) {
    start();
    json_error_t problem;
    json_t *value =
        bytes <= JSON_BYTES_MAX ? json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &problem) : NULL;
    if (json_is_object(value)) return outside(value);
    if (bytes > JSON_BYTES_MAX) {
        error_set(err, ERROR_INPUT, __FILE__, __LINE__, "%s: larger than %d bytes", name,
                  JSON_BYTES_MAX);
    } else if (value) {
        error_set(err, ERROR_INPUT, __FILE__, __LINE__, "%s: expected a JSON object", name);
    } else {
        error_set(err, ERROR_INPUT, __FILE__, __LINE__, "%s:%d:%d: not valid JSON: %s", name,
                  problem.line, problem.column, problem.text);
    }
    json_decref(value);
    return NULL;
}

Json *json_read_small(const char *path, size_t bytes_max, Error *err) {
    Arena *arena = arena_new("JSON");
    size_t bytes;
    const char *text = file_read(path, bytes_max, arena, &bytes, err);
    Json *object = text ? json_read_text(text, bytes, path, err) : NULL;
    arena_free(arena);
    return object;
}

Json *json_read_file(const char *path, Error *err) {
    return json_read_small(path, JSON_BYTES_MAX, err);
}

/* ---- Writing: ours, since jansson 2.14 prints 0.1 as 0.10000000000000001 ---- */

typedef struct Writer {
    Arena *arena;
    char *text;
    size_t used, capacity;
    int spaces; /* per level; 0: all on one line */
} Writer;

static char *writer_room(Writer *w, size_t count) {
    if (w->capacity - w->used <= count) {
        w->capacity = 2 * checked_add(w->capacity, count) + 256;
        char *larger = arena_alloc(w->arena, w->capacity);
        if (w->used) memcpy(larger, w->text, w->used);
        w->text = larger;
    }
    return w->text + w->used;
}

static void writer_put(Writer *w, const char *text) {
    size_t count = strlen(text);
    memcpy(writer_room(w, count), text, count + 1);
    w->used += count;
}

static void writer_break(Writer *w, int depth) {
    if (!w->spaces) return;
    writer_put(w, "\n");
    for (int i = 0; i < depth * w->spaces; i++) writer_put(w, " ");
}

/* A number with a point or an exponent, so that it is read back as a real. */
static void write_real(Writer *w, double value) {
    char text[NUMBER_TEXT_BYTES];
    number_print(value, text);
    writer_put(w, text);
    if (!strpbrk(text, ".e")) writer_put(w, ".0");
}

/* jansson writes out what JSON asks for; a terminal obeys more (core/print.h). */
static void write_shown(Writer *w, const char *text, size_t count) {
    for (size_t at = 0, bytes; at < count; at += bytes) {
        char shown[16] = "";
        unsigned code;
        print_decode(text + at, count - at, &code, &bytes);
        memcpy(shown, text + at, bytes);
        if (print_is_hidden(code)) snprintf(shown, sizeof shown, "\\u%04x", code & 0xffff);
        writer_put(w, shown);
    }
}

/* Text, integers, true, false, null: jansson's own. */
static void write_small(Writer *w, const json_t *value) {
    char *text = json_dumps(value, JSON_ENCODE_ANY);
    if (!text) must(NULL);
    write_shown(w, text, strlen(text));
    free(text);
}

static void write_value(Writer *w, json_t *value, int depth) {
    bool is_object = json_is_object(value);
    size_t count = is_object ? json_object_size(value) : json_array_size(value);
    if (json_is_real(value)) {
        write_real(w, json_real_value(value));
    } else if (!is_object && !json_is_array(value)) {
        write_small(w, value);
    } else if (!count) {
        writer_put(w, is_object ? "{}" : "[]");
    } else {
        writer_put(w, is_object ? "{" : "[");
        void *member = json_object_iter(value); /* in the order of insertion; NULL for a list */
        for (size_t i = 0; i < count; i++) {
            if (i) writer_put(w, w->spaces ? "," : ", ");
            writer_break(w, depth + 1);
            json_t *child = is_object ? json_object_iter_value(member) : json_array_get(value, i);
            if (is_object) {
                json_t *key = must(json_string(json_object_iter_key(member)));
                write_small(w, key);
                json_decref(key);
                writer_put(w, ": ");
                member = json_object_iter_next(value, member);
            }
            write_value(w, child, depth + 1);
        }
        writer_break(w, depth);
        writer_put(w, is_object ? "}" : "]");
    }
}

const char *json_line(const Json *object, Arena *arena) {
    Writer writer = {.arena = arena};
    write_value(&writer, inside(object), 0);
    return writer.text;
}

const char *json_indented(const Json *object, Arena *arena) {
    Writer writer = {.arena = arena, .spaces = 2};
    write_value(&writer, inside(object), 0);
    writer_put(&writer, "\n");
    return writer.text;
}
