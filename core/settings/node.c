#include <assert.h>
#include <string.h>

#include "core/settings/field.h"

Node *node_new(Arena *arena, NodeType type, const char *key, const char *text, Mark mark) {
    Node *node = arena_zalloc(arena, sizeof *node);
    *node = (Node){.type = type,
                   .key = key ? arena_strdup(arena, key) : NULL,
                   .key_mark = mark,
                   .mark = mark,
                   .text = text ? arena_strdup(arena, text) : NULL};
    return node;
}

void node_append(Node *parent, Node *child) {
    assert(parent->type != NODE_SCALAR && (parent->type == NODE_LIST || child->key));
    child->next = NULL;
    if (parent->last) {
        parent->last->next = child;
    } else {
        parent->first = child;
    }
    parent->last = child;
    parent->count++;
}

void node_remove(Node *parent, Node *child) {
    Node *previous = NULL;
    for (Node *n = parent->first; n != child; n = n->next) previous = n;
    if (previous) {
        previous->next = child->next;
    } else {
        parent->first = child->next;
    }
    if (parent->last == child) parent->last = previous;
    child->next = NULL;
    parent->count--;
}

Node *node_find(const Node *map, const char *key) {
    if (!map || map->type != NODE_MAP) return NULL;
    for (Node *child = map->first; child; child = child->next) {
        if (!strcmp(child->key, key)) return child;
    }
    return NULL;
}

Node *node_copy(Arena *arena, const Node *node) {
    Node *copy = node_new(arena, node->type, node->key, node->text, node->mark);
    copy->key_mark = node->key_mark;
    copy->is_quoted = node->is_quoted;
    for (const Node *child = node->first; child; child = child->next) {
        node_append(copy, node_copy(arena, child));
    }
    return copy;
}

bool node_is_null(const Node *node) {
    if (node->type != NODE_SCALAR || node->is_quoted || !node->text) return false;
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL"};
    for (size_t i = 0; i < sizeof nulls / sizeof *nulls; i++) {
        if (!strcmp(node->text, nulls[i])) return true;
    }
    return false;
}

/* ---- Defaults: a small part of YAML's flow notation. ---- */

typedef struct Cursor {
    Arena *arena;
    const char *at;
    Mark mark;
} Cursor;

static void cursor_skip_spaces(Cursor *c) {
    c->at += strspn(c->at, " ");
}

static bool cursor_skip(Cursor *c, char wanted) {
    cursor_skip_spaces(c);
    if (*c->at != wanted) return false;
    c->at++;
    return true;
}

/* A scalar up to one of `stops`, without the spaces around it; or text in double or single quotes.
 */
static const char *cursor_text(Cursor *c, const char *stops, bool *is_quoted) {
    cursor_skip_spaces(c);
    char quote = *c->at;
    *is_quoted = quote == '"' || quote == '\'';
    if (*is_quoted) {
        const char *start = ++c->at, *end = strchr(start, quote);
        assert(end && !memchr(start, '\\', (size_t)(end - start)) && "a default's quotes");
        c->at = end + 1;
        return arena_format(c->arena, "%.*s", (int)(end - start), start);
    }
    size_t length = strcspn(c->at, stops);
    const char *start = c->at;
    c->at += length;
    while (length && start[length - 1] == ' ') length--;
    return arena_format(c->arena, "%.*s", (int)length, start);
}

static Node *cursor_value(Cursor *c, const char *key, const char *stops) {
    bool is_quoted;
    if (cursor_skip(c, '[')) {
        Node *list = node_new(c->arena, NODE_LIST, key, NULL, c->mark);
        while (!cursor_skip(c, ']')) {
            node_append(list, cursor_value(c, NULL, ",]"));
            bool is_followed = cursor_skip(c, ',') || *c->at == ']';
            assert(is_followed && "a list among the defaults");
            (void)is_followed;
        }
        return list;
    }
    if (cursor_skip(c, '{')) {
        Node *map = node_new(c->arena, NODE_MAP, key, NULL, c->mark);
        while (!cursor_skip(c, '}')) {
            const char *name = cursor_text(c, ":", &is_quoted);
            bool is_pair = cursor_skip(c, ':');
            assert(is_pair && "a map among the defaults");
            (void)is_pair;
            node_append(map, cursor_value(c, name, ",}"));
            bool is_followed = cursor_skip(c, ',') || *c->at == '}';
            assert(is_followed && "a map among the defaults");
            (void)is_followed;
        }
        return map;
    }
    const char *text = cursor_text(c, stops, &is_quoted);
    Node *scalar = node_new(c->arena, NODE_SCALAR, key, text, c->mark);
    scalar->is_quoted = is_quoted;
    return scalar;
}

Node *node_parse(Arena *arena, const char *text, Mark mark) {
    Cursor cursor = {arena, text, mark};
    Node *node = cursor_value(&cursor, NULL, "");
    cursor_skip_spaces(&cursor);
    assert(!*cursor.at && "text after a default's end");
    return node;
}
