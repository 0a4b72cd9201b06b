/* Settings as rows. A Field describes one member of a plain config struct; from the rows come
 * defaults, parsing with range checks and "did you mean", help text, and the resolved config that
 * is written back. No other code knows a setting by name.
 *
 *     typedef struct SgdConfig { double momentum; bool nesterov; } SgdConfig;
 *     static const Field sgd_fields[] = {
 *         FIELD_FLOAT(SgdConfig, momentum, "0.9", 0, 0.9999, "velocity kept from step to step"),
 *         FIELD_BOOL(SgdConfig, nesterov, "false", "look ahead along the velocity"),
 *         FIELD_END,
 *     };
 *
 * A default is YAML text, read by the same parser as the user's; REQUIRED (NULL) means the user
 * must give the setting. Member types: bool, int64_t, double, const char *, int (choice), a struct,
 * a pointer to one, Variant, List, const Node *. */
#ifndef NIBBLE_CORE_SETTINGS_FIELD_H
#define NIBBLE_CORE_SETTINGS_FIELD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/arena.h"
#include "core/error.h"

typedef enum FieldType {
    FIELD_TYPE_END,
    FIELD_TYPE_BOOL,     /* bool */
    FIELD_TYPE_INT,      /* int64_t */
    FIELD_TYPE_FLOAT,    /* double */
    FIELD_TYPE_STRING,   /* const char * (empty text is NULL) */
    FIELD_TYPE_CHOICE,   /* int: index into `choices` */
    FIELD_TYPE_STRUCT,   /* a struct described by `fields`, in place */
    FIELD_TYPE_OPTIONAL, /* pointer to a struct described by `fields`; NULL: left out, and then it
                            is not written either, so that files of before it was known are the same
                          */
    FIELD_TYPE_VARIANT,  /* Variant: the key `kind` picks a row of `kinds`, its fields follow */
    FIELD_TYPE_LIST, /* List: of variants (`kinds`), structs (`fields`), or scalars (`element`); one
                        text stands for a list of it */
    FIELD_TYPE_TREE, /* const Node *: settings (`fields` or `kinds`) for later, over others
                        (fields_overlay); NULL: none given */
} FieldType;

typedef struct Field Field;
typedef struct KindTable KindTable;

struct Field {
    const char *name;
    FieldType type;
    size_t offset;
    const char *fallback; /* default as YAML text; NULL: required */
    double min, max; /* inclusive, for numbers and elements of lists; INFINITY or both 0: none */
    const char *const *choices; /* NULL-terminated, for choices */
    const Field *fields;
    const KindTable *kinds;
    FieldType element;    /* of a list of scalars: FIELD_TYPE_INT, _FLOAT or _STRING */
    size_t element_bytes; /* of a list of structs, or of an optional struct */
    const char *help;     /* one line, with the unit */
    bool may_change;      /* while a run goes on: what is trained does not depend on it */
    bool is_path;         /* a string, or strings, that name files or directories */
    bool omits_zero;      /* not written where it is the default: an integer 0, a choice the first,
                             a variant none; files of before it was known are the same */
    bool is_aside; /* of something else than training: it cannot change in a run, and nothing that
                      is trained depends on it */
};

/* What every registered thing that has settings begins with: layers, quantizers, optimizers, data
 * sets. The descriptor's first member is its Kind, so that a Kind found by name is cast back. */
typedef struct Kind {
    const char *name, *help;
    size_t config_bytes; /* 0: no settings */
    const Field *fields; /* NULL: no settings */
} Kind;

struct KindTable {
    const char *noun; /* "layer", for messages and help */
    const Kind *const *kinds;
    int count;
};

typedef struct Variant {
    const Kind *kind; /* NULL where an optional variant was left out */
    void *config;     /* the kind's config struct, or NULL when it has no settings */
} Variant;

/* Elements lie in an array: Variant, a struct, int64_t, double or const char *. */
typedef struct List {
    int count;
    void *items;
} List;

/* What follows the help text sets further members: FIELD_INT(..., "help", .may_change = true). */
#define REQUIRED NULL
#define FIELD_END                                                                                  \
    { .type = FIELD_TYPE_END }
#define FIELD_BOOL(Struct, member, fallback_, help_, ...)                                          \
    {                                                                                              \
        .name = #member, .type = FIELD_TYPE_BOOL, .offset = offsetof(Struct, member),              \
        .fallback = fallback_, .help = help_, __VA_ARGS__                                          \
    }
#define FIELD_INT(Struct, member, fallback_, min_, max_, help_, ...)                               \
    {                                                                                              \
        .name = #member, .type = FIELD_TYPE_INT, .offset = offsetof(Struct, member),               \
        .fallback = fallback_, .min = min_, .max = max_, .help = help_, __VA_ARGS__                \
    }
#define FIELD_FLOAT(Struct, member, fallback_, min_, max_, help_, ...)                             \
    {                                                                                              \
        .name = #member, .type = FIELD_TYPE_FLOAT, .offset = offsetof(Struct, member),             \
        .fallback = fallback_, .min = min_, .max = max_, .help = help_, __VA_ARGS__                \
    }
#define FIELD_STRING(Struct, member, fallback_, help_, ...)                                        \
    {                                                                                              \
        .name = #member, .type = FIELD_TYPE_STRING, .offset = offsetof(Struct, member),            \
        .fallback = fallback_, .help = help_, __VA_ARGS__                                          \
    }
#define FIELD_CHOICE(Struct, member, fallback_, choices_, help_, ...)                              \
    {                                                                                              \
        .name = #member, .type = FIELD_TYPE_CHOICE, .offset = offsetof(Struct, member),            \
        .fallback = fallback_, .choices = choices_, .help = help_, __VA_ARGS__                     \
    }
#define FIELD_STRUCT(Struct, member, fields_, help_, ...)                                          \
    {                                                                                              \
        .name = #member, .type = FIELD_TYPE_STRUCT, .offset = offsetof(Struct, member),            \
        .fallback = "{}", .fields = fields_, .help = help_, __VA_ARGS__                            \
    }
#define FIELD_OPTIONAL(Struct, member, Element, fields_, help_, ...)                               \
    {                                                                                              \
        .name = #member, .type = FIELD_TYPE_OPTIONAL, .offset = offsetof(Struct, member),          \
        .fallback = "null", .fields = fields_, .element_bytes = sizeof(Element), .help = help_,    \
        __VA_ARGS__                                                                                \
    }
#define FIELD_VARIANT(Struct, member, fallback_, kinds_, help_, ...)                               \
    {                                                                                              \
        .name = #member, .type = FIELD_TYPE_VARIANT, .offset = offsetof(Struct, member),           \
        .fallback = fallback_, .kinds = kinds_, .help = help_, __VA_ARGS__                         \
    }
#define FIELD_VARIANTS(Struct, member, fallback_, kinds_, help_, ...) /* a list of variants */     \
    {                                                                                              \
        .name = #member, .type = FIELD_TYPE_LIST, .offset = offsetof(Struct, member),              \
        .fallback = fallback_, .kinds = kinds_, .help = help_, __VA_ARGS__                         \
    }
#define FIELD_STRUCTS(Struct, member, fallback_, Element, fields_, help_,                          \
                      ...) /* a list of structs */                                                 \
    {                                                                                              \
        .name = #member, .type = FIELD_TYPE_LIST, .offset = offsetof(Struct, member),              \
        .fallback = fallback_, .fields = fields_, .element_bytes = sizeof(Element), .help = help_, \
        __VA_ARGS__                                                                                \
    }
#define FIELD_TREE(Struct, member, help_, ...) /* with .fields or .kinds */                        \
    {                                                                                              \
        .name = #member, .type = FIELD_TYPE_TREE, .offset = offsetof(Struct, member),              \
        .fallback = "null", .help = help_, __VA_ARGS__                                             \
    }
#define FIELD_NUMBERS(Struct, member, fallback_, element_, min_, max_, help_,                      \
                      ...) /* list of scalars */                                                   \
    {                                                                                              \
        .name = #member, .type = FIELD_TYPE_LIST, .offset = offsetof(Struct, member),              \
        .fallback = fallback_, .element = element_, .min = min_, .max = max_, .help = help_,       \
        __VA_ARGS__                                                                                \
    }

/* ---- The tree that a YAML file or an override is read into, with places for messages. ---- */

typedef struct Mark {
    const char *file; /* or "command line" */
    int line, column; /* from 1; 0 where there is none */
} Mark;

typedef enum NodeType { NODE_SCALAR, NODE_LIST, NODE_MAP } NodeType;

typedef struct Node {
    NodeType type;
    const char *key; /* within a map, else NULL */
    Mark key_mark, mark;
    const char *text;          /* of a scalar; NULL: unreadable, and reported already */
    bool is_quoted;            /* quoted scalars are strings */
    struct Node *first, *last; /* children, in the order of the file */
    struct Node *next;         /* sibling */
    int count;                 /* children */
} Node;

Node *node_new(Arena *arena, NodeType type, const char *key, const char *text, Mark mark);
void node_append(Node *parent, Node *child);
Node *node_find(const Node *map, const char *key); /* NULL if absent */
Node *node_copy(Arena *arena, const Node *node);
void node_remove(Node *parent, Node *child);
bool node_is_null(const Node *node); /* a plain scalar that is empty, ~ or null */

/* ---- Faults: every mistake of a config in one pass. ---- */

typedef struct Fault {
    Mark mark;
    const char *message;
    struct Fault *next;
} Fault;

typedef struct Faults {
    Arena *arena;
    Fault *first, *last;
    int count;   /* all that were added; only the first FAULTS_KEPT are in the list */
    int missing; /* required settings without a value, whose members are zero */
} Faults;

enum { FAULTS_KEPT = 100 };

/* Control characters in the message become '?', so that a fault is one line whatever it quotes. */
void faults_add(Faults *faults, Mark mark, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* One line each, sorted by place, the command line last: "file:line:column: message". */
typedef void (*FieldLine)(void *context, const char *text);
void faults_print(const Faults *faults, Arena *arena, FieldLine line, void *context);

/* ---- What is done with rows. ---- */

/* Fills the struct at `config` from `map` (NULL: all defaults). Unknown, duplicate, missing,
 * mistyped and out-of-range settings are added to `faults`; the struct is then usable for going on
 * looking for further faults, not for running. Memory for strings, lists and variants comes from
 * `arena`. A variant is written as a map with `kind:`, as `{name: {settings}}`, or, where nothing
 * but the kind is given, as the bare name. */
void fields_read(const Field *fields, const Node *map, Mark place, void *config, Arena *arena,
                 Faults *faults);

/* The way back: a tree that fields_read turns into the same struct, every setting written out. */
Node *fields_write(const Field *fields, const void *config, Arena *arena);
/* Paths that are relative are written as lying in `directory`. */
Node *fields_write_in(const Field *fields, const void *config, const char *directory, Arena *arena);
/* Without the settings that may change or stand aside, and without paths: files may move. */
Node *fields_write_fixed(const Field *fields, const void *config, Arena *arena);

/* A new tree: the settings `above`, and of `below` those that it does not give. Sections join,
 * variants of one kind too; lists, scalars and variants of another kind take the place of what was.
 * Neither tree need be right: who reads the result finds what is wrong, at its place. */
Node *fields_overlay(const Field *fields, const Node *below, const Node *above, Arena *arena);

/* One setting by its dotted path; for defaults and overrides built by programs. */
const Field *fields_find(const Field *fields, const char *dotted_path);

/* The dotted paths of all settings that may change, but for those in lists, with ", " between. */
const char *fields_changeable(const Field *fields, Arena *arena);

const Kind *kind_find(const KindTable *table, const char *name); /* NULL if absent */

/* The nearest of `count` names within a third of the word's length in edits, or NULL. */
const char *nearest_name(const char *word, const char *const *names, int count);

/* A config struct of this kind with every default in place (required settings stay zero). */
void *kind_defaults(const Kind *kind, Arena *arena);

/* Settings as lines of valid YAML: name, default, and a comment with help, type and range. Required
 * settings have no value. `indent` counts spaces. */
void fields_help(const Field *fields, int indent, FieldLine line, void *context);
void kind_help(const Kind *kind, int indent, FieldLine line, void *context);
void kinds_help(const KindTable *table, int indent, FieldLine line, void *context);
/* The settings that are called `topic`, a dotted path or its end ("optimizer.lr", "lr"), each with
 * where it stands, and what is below it. How many there are. */
int fields_help_topic(const Field *fields, const char *topic, FieldLine line, void *context);

/* The shortest decimal text that reads back as the same double. Numbers are read and printed in the
 * C locale, in which every program is that does not call setlocale. */
enum { NUMBER_TEXT_BYTES = 32 };
const char *number_print(double number, char text[NUMBER_TEXT_BYTES]);

#endif
