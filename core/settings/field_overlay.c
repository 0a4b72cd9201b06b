/* fields_overlay: settings over others, tree by tree. */
#include <string.h>

#include "core/settings/field.h"

static const Field *row_of(const Field *fields, const char *name) {
    for (const Field *f = fields; f && f->type != FIELD_TYPE_END; f++)
        if (!strcmp(f->name, name)) return f;
    return NULL;
}

/* Every form of a variant as {kind: name, ...}; NULL: it is none. */
static Node *variant_spelled(const KindTable *table, const Node *node, Arena *arena) {
    if (node_is_null(node) || node->type == NODE_LIST) return NULL;
    if (node->type == NODE_MAP && node_find(node, "kind")) return node_copy(arena, node);
    const Node *only = node->type == NODE_MAP && node->count == 1 ? node->first : NULL;
    bool is_named = only && kind_find(table, only->key);
    if (node->type == NODE_MAP && !is_named) return NULL;
    const char *name = is_named ? only->key : node->text;
    Node *map = node_new(arena, NODE_MAP, node->key, NULL, node->mark);
    node_append(map, node_new(arena, NODE_SCALAR, "kind", name, node->mark));
    for (const Node *child = is_named ? only->first : NULL; child; child = child->next)
        node_append(map, node_copy(arena, child));
    return map;
}

static const char *kind_name(const Node *variant) {
    const Node *kind = variant ? node_find(variant, "kind") : NULL;
    return kind && kind->text ? kind->text : "";
}

/* `{lr: 1}` is of the kind below; so is `{kind: sgd, lr: 1}` where that is the kind below. */
static Node *variant_overlay(const Field *field, const Node *below, const Node *above,
                             Arena *arena) {
    Node *under = variant_spelled(field->kinds, below, arena);
    Node *over = variant_spelled(field->kinds, above, arena);
    const Kind *kind = kind_find(field->kinds, kind_name(under));
    bool is_partial = !over && above->type == NODE_MAP;
    if (!kind || (!is_partial && strcmp(kind_name(over), kind->name) != 0))
        return node_copy(arena, above);
    return fields_overlay(kind->fields, under, is_partial ? above : over, arena);
}

static Node *value_overlay(const Field *field, const Node *below, const Node *above, Arena *arena) {
    bool are_maps = below->type == NODE_MAP && above->type == NODE_MAP;
    bool is_section =
        field && (field->type == FIELD_TYPE_STRUCT || field->type == FIELD_TYPE_OPTIONAL);
    if (is_section && are_maps) return fields_overlay(field->fields, below, above, arena);
    if (field && field->type == FIELD_TYPE_VARIANT)
        return variant_overlay(field, below, above, arena);
    return node_copy(arena, above);
}

Node *fields_overlay(const Field *fields, const Node *below, const Node *above, Arena *arena) {
    Node *map = node_new(arena, NODE_MAP, below->key, NULL, below->mark);
    map->key_mark = below->key_mark;
    for (const Node *child = below->first; child; child = child->next) {
        const Node *over = node_find(above, child->key);
        node_append(map, over ? value_overlay(row_of(fields, child->key), child, over, arena)
                              : node_copy(arena, child));
    }
    /* A second one of a name is kept, so that who reads it complains. */
    for (const Node *child = above->first; child; child = child->next)
        if (!node_find(below, child->key) || node_find(above, child->key) != child)
            node_append(map, node_copy(arena, child));
    return map;
}
