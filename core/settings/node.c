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
