/* JSON objects for reports and logs. The only door to jansson.
 *
 * A name with dots is a path: json_set_number(j, "test.accuracy", x) puts {"test": {"accuracy":
 * x}}. Where a list stands in the way of a json_get_, a number chooses an element:
 * "confusion.2.0". Members keep the order in which they were first set. A number that is not finite
 * becomes null: JSON has no word for it. Numbers are printed with the fewest digits that read back
 * the same. */
#ifndef NIBBLE_CORE_JSON_H
#define NIBBLE_CORE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/arena.h"
#include "core/error.h"

enum {
    JSON_BYTES_MAX = 64 << 20,   /* of a file or text that is read */
    JSON_SETTINGS_MAX = 1 << 20, /* of a file that says what others are: it is read at once */
    JSON_NAME_MAX = 128,         /* bytes of one name in a path */
};

typedef struct Json Json; /* an object; a member's object belongs to what it is in */

Json *json_new(void);
void json_free(Json *object); /* of json_new and json_read_*; accepts NULL */

/* Each replaces what has that path; objects on the way are made, and replace what is none. Text
 * must be UTF-8; other bytes become '?'. */
void json_set_number(Json *object, const char *path, double value);
void json_set_int(Json *object, const char *path, int64_t value);
/* 4 and 1.58: an integer where it is one. */
void json_set_shortest(Json *object, const char *path, double value);
void json_set_bool(Json *object, const char *path, bool value);
void json_set_text(Json *object, const char *path, const char *value); /* NULL: null */
void json_set_ints(Json *object, const char *path, const int64_t *values, int count); /* a list */
void json_set_numbers(Json *object, const char *path, const double *values, int count);

/* The member `name`, dots and all, of the object at `path`; an integer where it is one. NULL: only
 * the object is made. */
void json_set_member(Json *object, const char *path, const char *name, double value);

/* A new empty object at the end of the list at `path`, which is made if it is not there. */
Json *json_append(Json *object, const char *path);
void json_append_text(Json *object, const char *path, const char *value);
void json_append_ints(Json *object, const char *path, const int64_t *values,
                      int count); /* a list */

/* True if there is such a member of that type; else `*value` stays as it is. */
bool json_get_number(const Json *object, const char *path, double *value); /* also integers */
bool json_get_int(const Json *object, const char *path, int64_t *value);
bool json_get_bool(const Json *object, const char *path, bool *value);
/* A list of exactly `count` integers; else false, and `values` is undefined. */
bool json_get_ints(const Json *object, const char *path, int64_t *values, int64_t count);
const char *json_get_text(const Json *object, const char *path); /* NULL; lives with the object */
double json_number(const Json *object, const char *path); /* NAN: no such number, or no object */
int json_count(const Json *object, const char *path);     /* elements of a list; 0 if none */
Json *json_element(const Json *object, const char *path, int i); /* NULL if it is not an object */
const Json *json_inside(const Json *object, const char *path);   /* the same of a member */

typedef enum JsonType {
    JSON_ABSENT,
    JSON_NOTHING, /* null */
    JSON_BOOL,
    JSON_INT,
    JSON_NUMBER, /* with a point or an exponent */
    JSON_TEXT,
    JSON_LIST,
    JSON_MEMBERS, /* an object */
} JsonType;

JsonType json_type_at(const Json *object, const char *path);
bool json_has(const Json *object, const char *path); /* anything but null */

/* A member of an object, or an element of a list; lives with it. */
typedef struct JsonMember {
    const char *name; /* "": of a list */
    JsonType type;
    int64_t integer;    /* of JSON_INT */
    double number;      /* of JSON_INT and JSON_NUMBER */
    bool is_true;       /* of JSON_BOOL */
    const char *text;   /* of JSON_TEXT */
    const Json *inside; /* of JSON_MEMBERS and JSON_LIST, for the calls above */
} JsonMember;

/* Every member of the object, or element of the list, at `path` ("": itself), in order, until
 * `visit` returns false; false then. Where there is none, or the other of the two, nothing is
 * visited. */
typedef bool (*JsonVisit)(void *context, const JsonMember *member);
bool json_each_member(const Json *object, const char *path, JsonVisit visit, void *context);
bool json_each_element(const Json *object, const char *path, JsonVisit visit, void *context);

/* Objects only; duplicate names, deep nesting (over 2,048 levels) and sizes over JSON_BYTES_MAX are
 * errors. Files are those of run directories (core/file.h). */
Json *json_read_text(const char *text, size_t bytes, const char *name, Error *err);
Json *json_read_file(const char *path, Error *err);
/* The same of a file that has at most so many bytes: reading takes about 0.1 s for a million. */
Json *json_read_small(const char *path, size_t bytes_max, Error *err);

/* On one line, without a line break, as for JSON Lines; or indented, with a line break at the end.
 */
const char *json_line(const Json *object, Arena *arena);
const char *json_indented(const Json *object, Arena *arena);

#endif
