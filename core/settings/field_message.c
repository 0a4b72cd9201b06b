/* What is said of settings that are wrong. */
#include <string.h>

#include "core/settings/field_reader.h"

bool reader_is_full(const Reader *r) {
    return r->faults->count >= FAULTS_KEPT;
}

const char *reader_path(Reader *r, const Path *path) {
    if (reader_is_full(r)) return "";
    const char *up = path->up ? reader_path(r, path->up) : "";
    const char *dot = *up ? "." : "";
    if (path->name) return arena_format(r->arena, "%s%s%s", up, dot, path->name);
    return arena_format(r->arena, "%s%s%d", up, dot, path->index);
}

const char *reader_shown(Reader *r, const char *text) {
    enum { SHOWN = 60 };
    if (reader_is_full(r)) return "";
    size_t length = strlen(text);
    int shown = length <= SHOWN ? (int)length : SHOWN;
    while (shown < (int)length && shown > 0 && ((unsigned char)text[shown] & 0xc0) == 0x80) {
        shown--; /* not in the middle of a character */
    }
    return arena_format(r->arena, "'%.*s%s'", shown, text, shown < (int)length ? "..." : "");
}

const char *reader_found(Reader *r, const Node *node) {
    if (node->type == NODE_MAP) return "a map of settings";
    if (node->type == NODE_LIST) return "a list";
    if (!node->text || node_is_null(node)) return "nothing";
    if (!*node->text) return "empty text";
    const char *shown = reader_shown(r, node->text);
    return node->is_quoted ? arena_format(r->arena, "the quoted text %s", shown) : shown;
}

bool reader_expected(Reader *r, const char *what, const Node *node, const Path *path) {
    faults_add(r->faults, node->mark, "'%s': expected %s, found %s", reader_path(r, path), what,
               reader_found(r, node));
    return false;
}

const char *reader_joined(Reader *r, const char *const *names, int count) {
    const char *text = "";
    if (reader_is_full(r)) return text;
    for (int i = 0; i < count; i++) {
        text = arena_format(r->arena, "%s%s%s", text, i ? ", " : "", names[i]);
    }
    return text;
}

bool reader_unknown(Reader *r, Mark mark, const char *noun, const Node *word_node,
                    const char *const *names, int count) {
    const char *near = reader_is_full(r) ? NULL : nearest_name(word_node->text, names, count);
    const char *hint = near ? arena_format(r->arena, "did you mean '%s'? Known", near) : "known";
    faults_add(r->faults, mark, "unknown %s %s; %s: %s", noun, reader_shown(r, word_node->text),
               hint, reader_joined(r, names, count));
    return false;
}
