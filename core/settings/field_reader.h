/* What the parts of fields_read share; internal to it. */
#ifndef NIBBLE_CORE_SETTINGS_FIELD_READER_H
#define NIBBLE_CORE_SETTINGS_FIELD_READER_H

#include "core/settings/field.h"

/* Where we are, for messages: a chain on the stack, joined only when there is something to say. */
typedef struct Path {
    const struct Path *up;
    const char *name; /* NULL: an element of a list */
    int index;
} Path;

typedef struct Reader {
    Arena *arena;
    Faults *faults;
    bool may_miss; /* required settings may be left out: they stay zero */
} Reader;

/* ---- Messages (field_message.c), made in the reader's arena. ---- */

/* Messages are only counted from now on, so their text is not made: a file of 100,000 mistakes
 * costs little. */
bool reader_is_full(const Reader *r);
const char *reader_path(Reader *r, const Path *path);
const char *reader_shown(Reader *r, const char *text); /* in quotes, and short */
const char *reader_found(Reader *r, const Node *node); /* what stands there instead */
const char *reader_joined(Reader *r, const char *const *names, int count);
/* Both add a fault and are false: "'batch': expected an integer, found 'x'", and "unknown optimizer
 * 'sdg'; did you mean 'sgd'? Known: ...". */
bool reader_expected(Reader *r, const char *what, const Node *node, const Path *path);
bool reader_unknown(Reader *r, Mark mark, const char *noun, const Node *word_node,
                    const char *const *names, int count);

/* ---- Scalars (field_scalar.c). False: a fault was added. ---- */

bool scalar_read_bool(Reader *r, const Node *node, const Path *path, bool *out);
bool scalar_read_int(Reader *r, const Field *field, const Node *node, const Path *path,
                     int64_t *out);
bool scalar_read_float(Reader *r, const Field *field, const Node *node, const Path *path,
                       double *out);
/* Without text there is NULL, which is for settings that have a default. */
bool scalar_read_string(Reader *r, const Field *field, const Node *node, const Path *path,
                        const char **out);
bool scalar_read_choice(Reader *r, const Field *field, const Node *node, const Path *path,
                        int *out);

#endif
