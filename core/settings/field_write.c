/* fields_write: from a struct back to a tree, every setting written out. */
#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "core/settings/field.h"

static const Mark nowhere = {0};

typedef struct Writer {
    Arena *arena;
    bool is_fixed;         /* what may change or stands aside, and where files lie, is left out */
    const char *directory; /* relative paths lie in it; NULL: as they are */
} Writer;

static Node *write_text(const Writer *w, const char *key, const char *text) {
    Node *node = node_new(w->arena, NODE_SCALAR, key, text ? text : "null", nowhere);
    node->is_quoted = text != NULL; /* text "null" or "1" is text */
    return node;
}

static Node *write_string(const Writer *w, const char *key, bool is_path, const char *text) {
    if (text && *text != '/' && is_path && w->directory)
        text = arena_format(w->arena, "%s/%s", w->directory, text);
    return write_text(w, key, text);
}

static Node *write_plain(const Writer *w, const char *key, const char *text) {
    return node_new(w->arena, NODE_SCALAR, key, text, nowhere);
}

static void write_fields(const Writer *w, Node *map, const Field *fields, const char *config);

static Node *write_int(const Writer *w, const char *key, int64_t value) {
    return write_plain(w, key, arena_format(w->arena, "%" PRId64, value));
}

static Node *write_float(const Writer *w, const char *key, double value) {
    assert(isfinite(value));
    char text[NUMBER_TEXT_BYTES];
    return write_plain(w, key, number_print(value, text));
}

static Node *write_variant(const Writer *w, const char *key, const Variant *variant) {
    if (!variant->kind) return write_plain(w, key, "null");
    Node *map = node_new(w->arena, NODE_MAP, key, NULL, nowhere);
    node_append(map, write_plain(w, "kind", variant->kind->name));
    if (variant->config) write_fields(w, map, variant->kind->fields, variant->config);
    return map;
}

static Node *write_element(const Writer *w, const Field *field, const void *items, int i) {
    if (field->kinds) return write_variant(w, NULL, (const Variant *)items + i);
    if (field->fields) {
        Node *map = node_new(w->arena, NODE_MAP, NULL, NULL, nowhere);
        const char *element = (const char *)items + (size_t)i * field->element_bytes;
        write_fields(w, map, field->fields, element);
        return map;
    }
    switch (field->element) {
    case FIELD_TYPE_INT:
        return write_int(w, NULL, ((const int64_t *)items)[i]);
    case FIELD_TYPE_FLOAT:
        return write_float(w, NULL, ((const double *)items)[i]);
    case FIELD_TYPE_STRING:
        return write_string(w, NULL, field->is_path, ((const char *const *)items)[i]);
    default:
        assert(!"a list has elements of a known type");
        return NULL;
    }
}

static Node *write_list(const Writer *w, const Field *field, const List *list) {
    Node *node = node_new(w->arena, NODE_LIST, field->name, NULL, nowhere);
    for (int i = 0; i < list->count; i++) {
        node_append(node, write_element(w, field, list->items, i));
    }
    return node;
}

/* A copy in which paths lie where others do. `path` is the dotted one within the tree. */
static Node *write_tree(const Writer *w, const Field *field, const Node *tree, const char *path) {
    if (!tree) return write_plain(w, field->name, "null");
    Node *copy =
        node_new(w->arena, tree->type, *path ? tree->key : field->name, tree->text, nowhere);
    copy->is_quoted = tree->is_quoted;
    const Field *leaf = *path && field->fields ? fields_find(field->fields, path) : NULL;
    bool is_path = leaf && leaf->is_path && tree->text && !node_is_null(tree) && *tree->text != '/';
    if (is_path && w->directory)
        copy->text = arena_format(w->arena, "%s/%s", w->directory, tree->text);
    for (const Node *child = tree->first; child; child = child->next) {
        const char *name = child->key ? child->key : "0", *dot = *path ? "." : "";
        node_append(copy,
                    write_tree(w, field, child, arena_format(w->arena, "%s%s%s", path, dot, name)));
    }
    return copy;
}

static Node *write_struct(const Writer *w, const Field *field, const void *config) {
    Node *map = node_new(w->arena, NODE_MAP, field->name, NULL, nowhere);
    write_fields(w, map, field->fields, config);
    return map;
}

static bool is_left_out(const Field *field, const char *config) {
    const void *member = config + field->offset;
    if (field->omits_zero && field->type == FIELD_TYPE_CHOICE) return *(const int *)member == 0;
    if (field->omits_zero && field->type == FIELD_TYPE_VARIANT)
        return !((const Variant *)member)->kind;
    if (field->omits_zero) return *(const int64_t *)member == 0;
    return field->type == FIELD_TYPE_OPTIONAL && !*(void *const *)member;
}

static Node *write_value(const Writer *w, const Field *field, const void *member) {
    const char *name = field->name;
    switch (field->type) {
    case FIELD_TYPE_BOOL:
        return write_plain(w, name, *(const bool *)member ? "true" : "false");
    case FIELD_TYPE_INT:
        return write_int(w, name, *(const int64_t *)member);
    case FIELD_TYPE_FLOAT:
        return write_float(w, name, *(const double *)member);
    case FIELD_TYPE_STRING:
        return write_string(w, name, field->is_path, *(const char *const *)member);
    case FIELD_TYPE_CHOICE:
        return write_plain(w, name, field->choices[*(const int *)member]);
    case FIELD_TYPE_VARIANT:
        return write_variant(w, name, member);
    case FIELD_TYPE_LIST:
        return write_list(w, field, member);
    case FIELD_TYPE_TREE:
        return write_tree(w, field, *(const Node *const *)member, "");
    case FIELD_TYPE_STRUCT:
        return write_struct(w, field, member);
    case FIELD_TYPE_OPTIONAL:
        return write_struct(w, field, *(void *const *)member);
    case FIELD_TYPE_END:
        break;
    }
    assert(!"a field has a type");
    return NULL;
}

static void write_fields(const Writer *w, Node *map, const Field *fields, const char *config) {
    for (const Field *f = fields; f && f->type != FIELD_TYPE_END; f++) {
        if (w->is_fixed && (f->may_change || f->is_path || f->is_aside)) continue;
        if (is_left_out(f, config)) continue;
        node_append(map, write_value(w, f, config + f->offset));
    }
}

static Node *write_all(const Writer *w, const Field *fields, const void *config) {
    Node *map = node_new(w->arena, NODE_MAP, NULL, NULL, nowhere);
    write_fields(w, map, fields, config);
    return map;
}

Node *fields_write(const Field *fields, const void *config, Arena *arena) {
    return write_all(&(Writer){arena, .is_fixed = false}, fields, config);
}

Node *fields_write_in(const Field *fields, const void *config, const char *directory,
                      Arena *arena) {
    return write_all(&(Writer){arena, .directory = directory}, fields, config);
}

Node *fields_write_fixed(const Field *fields, const void *config, Arena *arena) {
    return write_all(&(Writer){arena, .is_fixed = true}, fields, config);
}
