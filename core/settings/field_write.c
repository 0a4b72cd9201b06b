/* fields_write: from a struct back to a tree, every setting written out. */
#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "core/settings/field.h"

static const Mark nowhere = {0};

static Node *write_text(Arena *arena, const char *key, const char *text) {
    Node *node = node_new(arena, NODE_SCALAR, key, text ? text : "null", nowhere);
    node->is_quoted = text != NULL; /* text "null" or "1" is text */
    return node;
}

static Node *write_plain(Arena *arena, const char *key, const char *text) {
    return node_new(arena, NODE_SCALAR, key, text, nowhere);
}

static void write_fields(Node *map, const Field *fields, const char *config, Arena *arena);

static Node *write_int(Arena *arena, const char *key, int64_t value) {
    return write_plain(arena, key, arena_format(arena, "%" PRId64, value));
}

static Node *write_float(Arena *arena, const char *key, double value) {
    assert(isfinite(value));
    char text[NUMBER_TEXT_BYTES];
    return write_plain(arena, key, number_print(value, text));
}

static Node *write_variant(Arena *arena, const char *key, const Variant *variant) {
    if (!variant->kind) return write_plain(arena, key, "null");
    Node *map = node_new(arena, NODE_MAP, key, NULL, nowhere);
    node_append(map, write_plain(arena, "kind", variant->kind->name));
    if (variant->config) write_fields(map, variant->kind->fields, variant->config, arena);
    return map;
}

static Node *write_element(const Field *field, const void *items, int i, Arena *arena) {
    if (field->kinds) return write_variant(arena, NULL, (const Variant *)items + i);
    if (field->fields) {
        Node *map = node_new(arena, NODE_MAP, NULL, NULL, nowhere);
        const char *element = (const char *)items + (size_t)i * field->element_bytes;
        write_fields(map, field->fields, element, arena);
        return map;
    }
    switch (field->element) {
    case FIELD_TYPE_INT:
        return write_int(arena, NULL, ((const int64_t *)items)[i]);
    case FIELD_TYPE_FLOAT:
        return write_float(arena, NULL, ((const double *)items)[i]);
    case FIELD_TYPE_STRING:
        return write_text(arena, NULL, ((const char *const *)items)[i]);
    default:
        assert(!"a list has elements of a known type");
        return NULL;
    }
}

static Node *write_list(Arena *arena, const Field *field, const List *list) {
    Node *node = node_new(arena, NODE_LIST, field->name, NULL, nowhere);
    for (int i = 0; i < list->count; i++) {
        node_append(node, write_element(field, list->items, i, arena));
    }
    return node;
}

static Node *write_value(Arena *arena, const Field *field, const void *member) {
    const char *name = field->name;
    switch (field->type) {
    case FIELD_TYPE_BOOL:
        return write_plain(arena, name, *(const bool *)member ? "true" : "false");
    case FIELD_TYPE_INT:
        return write_int(arena, name, *(const int64_t *)member);
    case FIELD_TYPE_FLOAT:
        return write_float(arena, name, *(const double *)member);
    case FIELD_TYPE_STRING:
        return write_text(arena, name, *(const char *const *)member);
    case FIELD_TYPE_CHOICE:
        return write_plain(arena, name, field->choices[*(const int *)member]);
    case FIELD_TYPE_VARIANT:
        return write_variant(arena, name, member);
    case FIELD_TYPE_LIST:
        return write_list(arena, field, member);
    case FIELD_TYPE_STRUCT: {
        Node *map = node_new(arena, NODE_MAP, name, NULL, nowhere);
        write_fields(map, field->fields, member, arena);
        return map;
    }
    case FIELD_TYPE_END:
        break;
    }
    assert(!"a field has a type");
    return NULL;
}

static void write_fields(Node *map, const Field *fields, const char *config, Arena *arena) {
    for (const Field *f = fields; f && f->type != FIELD_TYPE_END; f++) {
        node_append(map, write_value(arena, f, config + f->offset));
    }
}

Node *fields_write(const Field *fields, const void *config, Arena *arena) {
    Node *map = node_new(arena, NODE_MAP, NULL, NULL, nowhere);
    write_fields(map, fields, config, arena);
    return map;
}
