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

/* A list of structs shows the settings of an element as comments: they have no place of their own
 * in the YAML of the defaults. */
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
