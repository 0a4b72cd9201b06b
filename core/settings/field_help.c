/* Settings as text for people, in the form in which they are written: valid YAML with comments. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/settings/field.h"

enum { LINE_BYTES = 1024, COMMENT_COLUMN = 32 };

typedef struct Printer {
    FieldLine line;
    void *context;
} Printer;

/* Adds to what stands in a line; what does not fit is cut. */
static void add(char *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(char *text, const char *format, ...) {
    size_t used = strlen(text);
    va_list args;
    va_start(args, format);
    vsnprintf(text + used, LINE_BYTES - used, format, args);
    va_end(args);
}

static const char *type_noun(FieldType type) {
    return type == FIELD_TYPE_INT ? "integer" : type == FIELD_TYPE_FLOAT ? "number" : "text";
}

static void add_range(char *text, FieldType type, double min, double max) {
    const double huge = 9e18; /* the same as in field_read.c: as good as no limit */
    char low[NUMBER_TEXT_BYTES], high[NUMBER_TEXT_BYTES];
    add(text, "%s", type_noun(type));
    if (type == FIELD_TYPE_STRING || (min == 0 && max == 0)) return;
    number_print(min, low);
    number_print(max, high);
    if (max < huge && min > -huge) add(text, " from %s to %s", low, high);
    if (max >= huge && min > -huge) add(text, ", at least %s", low);
    if (max < huge && min <= -huge) add(text, ", at most %s", high);
}

static void add_kinds(char *text, const KindTable *table) {
    for (int i = 0; i < table->count; i++) add(text, "%s%s", i ? ", " : "", table->kinds[i]->name);
}

static void add_type(char *text, const Field *field) {
    switch (field->type) {
    case FIELD_TYPE_BOOL:
        add(text, "true or false");
        break;
    case FIELD_TYPE_CHOICE:
        for (int i = 0; field->choices[i]; i++) add(text, "%s%s", i ? ", " : "", field->choices[i]);
        break;
    case FIELD_TYPE_VARIANT:
        add(text, "kinds: ");
        add_kinds(text, field->kinds);
        break;
    case FIELD_TYPE_LIST:
        add(text, "list of ");
        if (field->kinds) {
            add_kinds(text, field->kinds);
        } else if (field->fields) {
            add(text, "maps, each with the settings shown");
        } else {
            add_range(text, field->element, field->min, field->max);
        }
        break;
    case FIELD_TYPE_TREE:
        add(text, "settings that differ");
        break;
    case FIELD_TYPE_OPTIONAL:
        add(text, "or a map with the settings shown");
        break;
    default:
        add_range(text, field->type, field->min, field->max);
        break;
    }
}

static void add_comment(char *text, const char *comment) {
    size_t used = strlen(text);
    int spaces = used < COMMENT_COLUMN ? (int)(COMMENT_COLUMN - used) : 1;
    add(text, "%*s# %s", spaces, "", comment);
}

/* A list of structs shows the settings of an element as comments, and so does an optional struct:
 * they have no place of their own in the YAML of the defaults. */
static void print_field(const Printer *p, const Field *field, int indent, const char *prefix) {
    char text[LINE_BYTES] = "";
    add(text, "%s%*s%s:", prefix, indent, "", field->name);
    if (field->fallback && *field->fallback && field->type != FIELD_TYPE_STRUCT) {
        add(text, " %s", field->fallback);
    }
    add_comment(text, field->help ? field->help : "");
    if (field->type != FIELD_TYPE_STRUCT) {
        add(text, " (");
        add_type(text, field);
        add(text, "%s%s)", field->fallback ? "" : "; required",
            field->may_change ? "; may change in a run" : "");
    }
    p->line(p->context, text);
}

static void print_fields(const Printer *p, const Field *fields, int indent, const char *prefix) {
    for (const Field *f = fields; f && f->type != FIELD_TYPE_END; f++) {
        print_field(p, f, indent, prefix);
        if (f->type == FIELD_TYPE_STRUCT) print_fields(p, f->fields, indent + 2, prefix);
        if (f->type == FIELD_TYPE_LIST && f->fields) {
            print_fields(p, f->fields, indent + 4, *prefix ? prefix : "#");
        }
        if (f->type == FIELD_TYPE_OPTIONAL) {
            print_fields(p, f->fields, indent + 2, *prefix ? prefix : "#");
        }
    }
}

void fields_help(const Field *fields, int indent, FieldLine line, void *context) {
    Printer printer = {line, context};
    print_fields(&printer, fields, indent, "");
}

/* `dash` is "- " in a list of kinds; the settings then stand two columns further right. */
static void print_kind(const Printer *p, const Kind *kind, int indent, const char *dash) {
    char text[LINE_BYTES] = "";
    add(text, "%*s%skind: %s", indent, "", dash, kind->name);
    add_comment(text, kind->help ? kind->help : "");
    p->line(p->context, text);
    print_fields(p, kind->fields, indent + (int)strlen(dash), "");
}

void kind_help(const Kind *kind, int indent, FieldLine line, void *context) {
    Printer printer = {line, context};
    print_kind(&printer, kind, indent, "");
}

void kinds_help(const KindTable *table, int indent, FieldLine line, void *context) {
    Printer printer = {line, context};
    for (int i = 0; i < table->count; i++) print_kind(&printer, table->kinds[i], indent, "- ");
}

/* ---- A setting by its name, wherever it is ---- */

enum { MATCHES_MAX = 64, PATH_BYTES = 256, TABLES_MAX = 8 };

typedef struct Match {
    const Field *field;
    char path[PATH_BYTES], kinds[PATH_BYTES]; /* kinds: those that have it; "" where all do */
} Match;

typedef struct Finder {
    const char *topic;
    Match matches[MATCHES_MAX];
    int count;
    const KindTable *tables[TABLES_MAX]; /* on the way here: layers hold layers */
    int table_count;
} Finder;

static bool is_topic(const char *path, const char *topic) {
    size_t whole = strlen(path), wanted = strlen(topic);
    if (whole < wanted || strcmp(path + whole - wanted, topic) != 0) return false;
    return whole == wanted || path[whole - wanted - 1] == '.';
}

static bool is_same(const char *a, const char *b) {
    return a == b || (a && b && !strcmp(a, b));
}

/* Kinds that share a setting share its line. */
static void add_match(Finder *f, const Field *field, const char *path, const char *kind) {
    for (int i = 0; i < f->count; i++) {
        Match *m = &f->matches[i];
        if (strcmp(m->path, path) != 0 || !is_same(m->field->fallback, field->fallback)) continue;
        size_t used = strlen(m->kinds);
        if (kind) snprintf(m->kinds + used, PATH_BYTES - used, ", %s", kind);
        return;
    }
    if (f->count == MATCHES_MAX) return;
    Match *m = &f->matches[f->count++];
    m->field = field;
    snprintf(m->path, PATH_BYTES, "%s", path);
    snprintf(m->kinds, PATH_BYTES, "%s", kind ? kind : "");
}

static bool enter(Finder *f, const KindTable *table) {
    for (int i = 0; i < f->table_count; i++)
        if (f->tables[i] == table) return false;
    if (f->table_count == TABLES_MAX) return false;
    f->tables[f->table_count++] = table;
    return true;
}

static void find_below(Finder *f, const Field *fields, const char *above, const char *kind) {
    for (const Field *field = fields; field && field->type != FIELD_TYPE_END; field++) {
        char path[PATH_BYTES];
        snprintf(path, sizeof path, "%s%s%s", above, *above ? "." : "", field->name);
        if (is_topic(path, f->topic)) add_match(f, field, path, kind);
        if (field->fields) find_below(f, field->fields, path, kind);
        if (!field->kinds || !enter(f, field->kinds)) continue;
        for (int i = 0; i < field->kinds->count; i++)
            find_below(f, field->kinds->kinds[i]->fields, path, field->kinds->kinds[i]->name);
        f->table_count--;
    }
}

static void print_match(const Printer *p, const Match *m) {
    char text[LINE_BYTES] = "";
    add(text, "# %s%s%s", m->path, *m->kinds ? ", of " : "", m->kinds);
    p->line(p->context, text);
    print_field(p, m->field, 0, "");
    if (m->field->type == FIELD_TYPE_STRUCT) print_fields(p, m->field->fields, 2, "");
    if (m->field->type == FIELD_TYPE_LIST && m->field->fields)
        print_fields(p, m->field->fields, 4, "#");
    if (m->field->type == FIELD_TYPE_OPTIONAL) print_fields(p, m->field->fields, 2, "#");
    if (m->field->type == FIELD_TYPE_VARIANT) kinds_help(m->field->kinds, 0, p->line, p->context);
}

int fields_help_topic(const Field *fields, const char *topic, FieldLine line, void *context) {
    Printer printer = {line, context};
    Finder finder = {.topic = topic};
    find_below(&finder, fields, "", NULL);
    for (int i = 0; i < finder.count; i++) print_match(&printer, &finder.matches[i]);
    return finder.count;
}
