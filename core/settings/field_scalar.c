/* Settings that are one word: truth, numbers, text, choices. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core/settings/field_reader.h"

static bool check_range(Reader *r, const Field *field, double value, const Node *node,
                        const Path *path) {
    bool has_range = field->min != 0 || field->max != 0;
    if (!has_range || (value >= field->min && value <= field->max)) return true;
    char low[NUMBER_TEXT_BYTES], high[NUMBER_TEXT_BYTES];
    number_print(field->min, low);
    number_print(field->max, high);
    const double huge = 9e18; /* an int's limits and infinity are as good as none */
    const char *range = field->max >= huge    ? arena_format(r->arena, "at least %s", low)
                        : field->min <= -huge ? arena_format(r->arena, "at most %s", high)
                                              : arena_format(r->arena, "from %s to %s", low, high);
    faults_add(r->faults, node->mark, "'%s' must be %s, not %s", reader_path(r, path), range,
               node->text);
    return false;
}

bool scalar_read_bool(Reader *r, const Node *node, const Path *path, bool *out) {
    static const char *const words[] = {"false", "true", "False", "True",
                                        "FALSE", "TRUE"}; /* YAML 1.2 core: odd ones are true */
    for (int i = 0; i < 6 && node->type == NODE_SCALAR && !node->is_quoted; i++) {
        if (strcmp(node->text, words[i])) continue;
        *out = i % 2;
        return true;
    }
    static const char *const old[] = {"no", "yes", "off", "on", "n", "y", "0", "1"};
    for (int i = 0; i < 8 && node->type == NODE_SCALAR && !node->is_quoted; i++) {
        if (strcasecmp(node->text, old[i])) continue;
        const char *what = i % 2 ? "true or false (write true)" : "true or false (write false)";
        return reader_expected(r, what, node, path);
    }
    return reader_expected(r, "true or false", node, path);
}

/* [-+]? digits, and nothing else. */
static bool is_integer_text(const char *text) {
    text += *text == '-' || *text == '+';
    size_t digits = strspn(text, "0123456789");
    return digits && !text[digits];
}

/* YAML 1.2 core without .inf and .nan: [-+]? ( . digits | digits (. digits?)? ) (e [-+]? digits)?
 */
static bool is_number_text(const char *text) {
    text += *text == '-' || *text == '+';
    size_t whole = strspn(text, "0123456789"), part = 0;
    text += whole;
    if (*text == '.') {
        part = strspn(++text, "0123456789");
        text += part;
    }
    if (!whole && !part) return false;
    if (!*text) return true;
    return (*text == 'e' || *text == 'E') && is_integer_text(text + 1);
}

bool scalar_read_int(Reader *r, const Field *field, const Node *node, const Path *path,
                     int64_t *out) {
    if (node->type != NODE_SCALAR || node->is_quoted || !is_integer_text(node->text)) {
        return reader_expected(r, "an integer", node, path);
    }
    errno = 0;
    long long value = strtoll(node->text, NULL, 10);
    if (errno == ERANGE) return reader_expected(r, "an integer of at most 64 bits", node, path);
    if (!check_range(r, field, (double)value, node, path)) return false;
    *out = value;
    return true;
}

bool scalar_read_float(Reader *r, const Field *field, const Node *node, const Path *path,
                       double *out) {
    if (node->type != NODE_SCALAR || node->is_quoted || !is_number_text(node->text)) {
        return reader_expected(r, "a number", node, path);
    }
    double value = strtod(node->text, NULL);
    if (!isfinite(value)) return reader_expected(r, "a number below 1.8e308", node, path);
    if (!check_range(r, field, value, node, path)) return false;
    *out = value;
    return true;
}

bool scalar_read_string(Reader *r, const Field *field, const Node *node, const Path *path,
                        const char **out) {
    bool is_empty = node->type == NODE_SCALAR && (node_is_null(node) || !*node->text);
    if (node->type != NODE_SCALAR || (is_empty && !field->fallback)) {
        return reader_expected(r, "text", node, path);
    }
    *out = is_empty ? NULL : arena_strdup(r->arena, node->text);
    return true;
}

bool scalar_read_choice(Reader *r, const Field *field, const Node *node, const Path *path,
                        int *out) {
    int count = 0;
    while (field->choices[count]) count++;
    if (node->type != NODE_SCALAR) {
        const char *names = reader_joined(r, field->choices, count);
        return reader_expected(r, arena_format(r->arena, "one of %s", names), node, path);
    }
    for (int i = 0; i < count; i++) {
        if (strcmp(field->choices[i], node->text)) continue;
        *out = i;
        return true;
    }
    if (node_is_null(node)) {
        const char *names = reader_joined(r, field->choices, count);
        return reader_expected(r, arena_format(r->arena, "one of %s", names), node, path);
    }
    return reader_unknown(r, node->mark, field->name, node, field->choices, count);
}
