/* A tree as YAML text. Ours, since libyaml's emitter would be as long to drive. */
#include <stdio.h>
#include <string.h>

#include "core/print.h"
#include "core/settings/yaml.h"

typedef struct Writer {
    Arena *arena;
    char *text; /* ends with a NUL */
    size_t used, capacity;
} Writer;

static void writer_add(Writer *w, const char *bytes, size_t count) {
    if (w->capacity - w->used <= count) {
        w->capacity = 2 * checked_add(w->capacity, count) + 256;
        char *larger = arena_alloc(w->arena, w->capacity);
        memcpy(larger, w->text, w->used);
        w->text = larger;
    }
    memcpy(w->text + w->used, bytes, count);
    w->used += count;
    w->text[w->used] = '\0';
}

static void writer_put(Writer *w, const char *text) {
    writer_add(w, text, strlen(text));
}

static void writer_indent(Writer *w, int spaces) {
    for (int i = 0; i < spaces; i++) writer_add(w, " ", 1);
}

/* Text that means itself anywhere in YAML without quotes. */
static bool is_plain(const char *text) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                  "_./+-";
    if (!strcmp(text, "~")) return true;
    if (!*text || text[strspn(text, letters)]) return false;
    return strcmp(text, "-") && strncmp(text, "---", 3) && strncmp(text, "...", 3);
}

/* Characters that libyaml reads as line breaks or refuses, those that end the quotes, and those
 * that are not to be seen as they are (core/print.h). */
static bool needs_escape(unsigned code) {
    return print_is_hidden(code) || code == '"' || code == '\\' || code == 0xfeff ||
           code == 0xfffe || code == 0xffff;
}

static void write_quoted(Writer *w, const char *text) {
    writer_put(w, "\"");
    for (size_t at = 0, count = strlen(text), bytes; at < count; at += bytes) {
        char escape[16];
        unsigned code;
        bool is_character = print_decode(text + at, count - at, &code, &bytes);
        snprintf(escape, sizeof escape, code < 0x100 ? "\\x%02x" : "\\u%04x", code);
        if (code == '\n') snprintf(escape, sizeof escape, "\\n");
        if (code == '"' || code == '\\') snprintf(escape, sizeof escape, "\\%c", (char)code);
        if (!is_character || needs_escape(code))
            writer_put(w, escape);
        else
            writer_add(w, text + at, bytes);
    }
    writer_put(w, "\"");
}

static void write_scalar(Writer *w, const Node *node) {
    if (!node->text || (!node->is_quoted && !*node->text)) {
        writer_put(w, "null");
    } else if (!node->is_quoted && is_plain(node->text)) {
        writer_put(w, node->text);
    } else {
        write_quoted(w, node->text);
    }
}

static bool is_flat(const Node *node) {
    if (node->type == NODE_SCALAR || !node->count) return true;
    if (node->type == NODE_MAP) return false;
    for (const Node *child = node->first; child; child = child->next) {
        if (child->type != NODE_SCALAR) return false;
    }
    return true;
}

/* A scalar, {}, or a list of scalars, on one line. */
static void write_flat(Writer *w, const Node *node) {
    if (node->type == NODE_SCALAR) {
        write_scalar(w, node);
    } else if (node->type == NODE_MAP) {
        writer_put(w, "{}");
    } else {
        writer_put(w, "[");
        for (const Node *child = node->first; child; child = child->next) {
            write_scalar(w, child);
            if (child->next) writer_put(w, ", ");
        }
        writer_put(w, "]");
    }
    writer_put(w, "\n");
}

/* The children of a map or list, a line or more each. The first stands where the line already is.
 */
static void write_children(Writer *w, const Node *node, int indent) {
    for (const Node *child = node->first; child; child = child->next) {
        if (child != node->first) writer_indent(w, indent);
        if (node->type == NODE_LIST) {
            writer_put(w, "- ");
        } else {
            if (is_plain(child->key)) {
                writer_put(w, child->key);
            } else {
                write_quoted(w, child->key);
            }
            writer_put(w, is_flat(child) ? ": " : ":\n");
        }
        if (is_flat(child)) {
            write_flat(w, child);
        } else {
            if (node->type == NODE_MAP) writer_indent(w, indent + 2);
            write_children(w, child, indent + 2);
        }
    }
}

const char *node_to_yaml(const Node *root, Arena *arena) {
    Writer writer = {.arena = arena, .text = arena_strdup(arena, "")};
    if (is_flat(root)) {
        write_flat(&writer, root);
    } else {
        write_children(&writer, root, 0);
    }
    return writer.text;
}
