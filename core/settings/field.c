#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core/settings/field.h"

enum { NAME_LENGTH_MAX = 64 }; /* longer words are not compared: no setting is called so */

static int smaller(int a, int b) {
    return a < b ? a : b;
}

/* Edits from one word to the other: insert, delete, replace, swap two neighbours (optimal string
 * alignment, three rows of the table at a time). */
static int edit_distance(const char *a, const char *b) {
    int m = (int)strlen(a), n = (int)strlen(b);
    int rows[3][NAME_LENGTH_MAX + 1];
    for (int j = 0; j <= n; j++) rows[0][j] = j;
    for (int i = 1; i <= m; i++) {
        int *row = rows[i % 3], *above = rows[(i + 2) % 3], *two_above = rows[(i + 1) % 3];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            int replaced = above[j - 1] + (a[i - 1] != b[j - 1]);
            row[j] = smaller(replaced, smaller(above[j], row[j - 1]) + 1);
            bool is_swap = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (is_swap) row[j] = smaller(row[j], two_above[j - 2] + 1);
        }
    }
    return rows[m % 3][n];
}

const char *nearest_name(const char *word, const char *const *names, int count) {
    size_t length = strlen(word);
    if (!length || length > NAME_LENGTH_MAX) return NULL;
    int best_distance = length < 3 ? 1 : (int)length / 3;
    if (best_distance >= (int)length) best_distance = (int)length - 1;
    const char *best = NULL;
    for (int i = 0; i < count; i++) {
        if (strlen(names[i]) > NAME_LENGTH_MAX) continue;
        if (!strcasecmp(word, names[i])) return names[i];
        int distance = edit_distance(word, names[i]);
        if (distance > best_distance || (best && distance == best_distance)) continue;
        best = names[i];
        best_distance = distance;
    }
    return best;
}

const Kind *kind_find(const KindTable *table, const char *name) {
    for (int i = 0; i < table->count; i++) {
        if (!strcmp(table->kinds[i]->name, name)) return table->kinds[i];
    }
    return NULL;
}

static const Field *field_named(const Field *fields, const char *name, size_t length) {
    for (const Field *f = fields; f && f->type != FIELD_TYPE_END; f++) {
        if (!strncmp(f->name, name, length) && !f->name[length]) return f;
    }
    return NULL;
}

/* The rest of the path within a field: through list indices, and through any kind that fits. */
static const Field *field_within(const Field *field, const char *rest) {
    if (field->type == FIELD_TYPE_LIST) {
        size_t digits = strspn(rest, "0123456789");
        if (digits && rest[digits] == '.') rest += digits + 1;
    }
    if (field->fields) return fields_find(field->fields, rest);
    for (int i = 0; field->kinds && i < field->kinds->count; i++) {
        const Field *found = fields_find(field->kinds->kinds[i]->fields, rest);
        if (found) return found;
    }
    return NULL;
}

const Field *fields_find(const Field *fields, const char *dotted_path) {
    size_t length = strcspn(dotted_path, ".");
    const Field *field = field_named(fields, dotted_path, length);
    if (!field || !dotted_path[length]) return field;
    return field_within(field, dotted_path + length + 1);
}

/* `list` and what is not in it yet, for kinds share settings. Elements of lists have no names. */
static const char *add_changeable(const Field *fields, const char *section, const char *list,
                                  Arena *arena) {
    for (const Field *f = fields; f && f->type != FIELD_TYPE_END; f++) {
        const char *entry = arena_format(arena, " %s%s,", section, f->name);
        if (f->may_change && !strstr(list, entry)) list = arena_format(arena, "%s%s", list, entry);
        if (f->type == FIELD_TYPE_LIST) continue;
        const char *inner = arena_format(arena, "%s%s.", section, f->name);
        list = add_changeable(f->fields, inner, list, arena);
        for (int i = 0; f->kinds && i < f->kinds->count; i++)
            list = add_changeable(f->kinds->kinds[i]->fields, inner, list, arena);
    }
    return list;
}

const char *fields_changeable(const Field *fields, Arena *arena) {
    const char *list = add_changeable(fields, "", "", arena);
    return *list ? arena_format(arena, "%.*s", (int)strlen(list) - 2, list + 1) : list;
}

const char *number_print(double number, char text[NUMBER_TEXT_BYTES]) {
    assert(text);
    if (fabs(number) < 1e15 && number == floor(number)) { /* 1000 rather than 1e+03 */
        snprintf(text, NUMBER_TEXT_BYTES, "%.0f", number);
        return text;
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, NUMBER_TEXT_BYTES, "%.*g", digits, number);
        if (strtod(text, NULL) == number) break;
    }
    return text;
}
