#include "experiments/settings/override.h"

#include <stdlib.h>
#include <string.h>

#include "core/settings/yaml.h"

/* A place in the tree, with the row that describes it as far as rows are known. */
typedef struct Spot {
    Node *node;
    const Field *fields;  /* of a map of settings; NULL: not known */
    const Field *field;   /* of a list: its row */
    const Field *variant; /* of a map with a kind: its row */
} Spot;

typedef struct Override {
    Arena *arena;
    Faults *faults;
    Mark mark;
    char *names[OVERRIDE_DEPTH_MAX];
    int count;
} Override;

/* "a.0.b" to its names. */
static bool split_path(Override *o, char *path) {
    for (char *name = path; name;) {
        char *dot = strchr(name, '.');
        if (dot) *dot = '\0';
        if (!*name) {
            faults_add(o->faults, o->mark, "a name is missing; write NAME=VALUE or A.B=VALUE");
            return false;
        }
        if (o->count == OVERRIDE_DEPTH_MAX) {
            faults_add(o->faults, o->mark, "more than %d names in a path", OVERRIDE_DEPTH_MAX);
            return false;
        }
        o->names[o->count++] = name;
        name = dot ? dot + 1 : NULL;
    }
    return true;
}

static const Field *find_row(const Field *fields, const char *name) {
    for (const Field *f = fields; f && f->type != FIELD_TYPE_END; f++) {
        if (!strcmp(f->name, name)) return f;
    }
    return NULL;
}

/* ---- Variants: every form becomes {kind: name, ...} ---- */

static void become_map(Node *node) {
    node->type = NODE_MAP;
    node->text = NULL;
    node->is_quoted = false;
    node->first = node->last = NULL;
    node->count = 0;
}

static void spell_out_variant(const Override *o, const KindTable *table, Node *node) {
    if (node->type == NODE_SCALAR && node->text && !node_is_null(node)) {
        Node *kind = node_new(o->arena, NODE_SCALAR, "kind", node->text, node->mark);
        become_map(node);
        node_append(node, kind);
        return;
    }
    Node *only = node->type == NODE_MAP && node->count == 1 ? node->first : NULL;
    if (!only || !kind_find(table, only->key)) return;
    if (only->type != NODE_MAP && !node_is_null(only)) return;
    become_map(node);
    node_append(node, node_new(o->arena, NODE_SCALAR, "kind", only->key, only->key_mark));
    for (Node *child = only->first, *next; child; child = next) {
        next = child->next;
        node_append(node, child);
    }
}

/* The settings of the variant's kind, which the node or else the row's default names. */
static const Field *variant_fields(const Override *o, const Field *field, const Node *node) {
    const Node *kind = node_find(node, "kind");
    const char *name = kind && kind->type == NODE_SCALAR ? kind->text : NULL;
    if (!kind && field->type == FIELD_TYPE_VARIANT && field->fallback) {
        Node *fallback = yaml_read_own(field->fallback, o->mark, o->arena);
        const Node *its_kind = node_find(fallback, "kind");
        name = its_kind ? its_kind->text : fallback->text;
    }
    const Kind *found = name ? kind_find(field->kinds, name) : NULL;
    return found ? found->fields : NULL;
}

/* What a node is, by its row: `is_element` where the row is that of the list around it. */
static Spot describe(const Override *o, Node *node, const Field *field, bool is_element) {
    Spot spot = {.node = node};
    if (!field) return spot;
    if (field->type == FIELD_TYPE_LIST && !is_element) {
        spot.field = field;
    } else if (field->kinds) {
        spell_out_variant(o, field->kinds, node);
        spot.variant = field;
        spot.fields = variant_fields(o, field, node);
    } else {
        spot.fields = field->fields;
    }
    return spot;
}

/* ---- The way down ---- */

static Node *list_element(const Override *o, const Node *list, const char *name) {
    bool is_index = *name && !name[strspn(name, "0123456789")] && strlen(name) < 9;
    int index = is_index ? atoi(name) : -1;
    if (!is_index || index >= list->count) {
        faults_add(o->faults, o->mark, "'%s' is not an element of a list of %d; count from 0", name,
                   list->count);
        return NULL;
    }
    Node *node = list->first;
    while (index--) node = node->next;
    return node;
}

static bool no_list(const Override *o, const Field *list) {
    faults_add(o->faults, o->mark, "there is no list '%s' to change; give it as a whole: %s=[...]",
               list->name, list->name);
    return false;
}

/* Settings can be within a map, and within nothing, which becomes a map. */
static bool make_map(const Override *o, const Spot *spot, const char *name) {
    Node *node = spot->node;
    if (node->type == NODE_MAP) return true;
    if (!node_is_null(node)) {
        faults_add(o->faults, o->mark,
                   "there is no '%s' here: '%s' is a value, not a map of settings", name,
                   node->key    ? node->key
                   : node->text ? node->text
                                : "");
        return false;
    }
    if (spot->field) return no_list(o, spot->field);
    become_map(node);
    return true;
}

/* From a spot to the child of that name; maps that are missing are made if `may_make`. */
static bool step(const Override *o, Spot *spot, const char *name, bool may_make) {
    if (spot->node->type == NODE_LIST) {
        Node *element = list_element(o, spot->node, name);
        if (!element) return false;
        *spot = describe(o, element, spot->field, true);
        return true;
    }
    if (may_make && !make_map(o, spot, name)) return false;
    const Field *row = find_row(spot->fields, name);
    Node *child = node_find(spot->node, name);
    if (!child) {
        if (!may_make) {
            faults_add(o->faults, o->mark, "there is no '%s' in the file to take out", name);
            return false;
        }
        if (row && row->type == FIELD_TYPE_LIST) return no_list(o, row);
        child = node_new(o->arena, NODE_MAP, name, NULL, o->mark);
        node_append(spot->node, child);
    }
    *spot = describe(o, child, row, false);
    return true;
}

/* ---- The end of the way ---- */

/* `node` takes the value, and stays where it is under its own name. */
static void replace(const Override *o, Node *node, const Node *value) {
    Node *next = node->next;
    const char *key = node->key;
    *node = *value;
    node->next = next;
    node->key = key;
    node->key_mark = o->mark;
}

/* What the file gives to the kind that was would be unknown to the kind that is wanted. */
static bool may_be_kind(const Override *o, const Spot *spot, const Node *value) {
    const Kind *kind = value->text ? kind_find(spot->variant->kinds, value->text) : NULL;
    const char *strangers = "", *path = o->names[0];
    for (int i = 1; i + 1 < o->count; i++)
        path = arena_format(o->arena, "%s.%s", path, o->names[i]);
    for (const Node *child = spot->node->first; kind && child; child = child->next) {
        if (!strcmp(child->key, "kind") || find_row(kind->fields, child->key)) continue;
        strangers =
            arena_format(o->arena, "%s%s'%s'", strangers, *strangers ? ", " : "", child->key);
    }
    if (!*strangers) return true;
    faults_add(o->faults, o->mark,
               "the file gives %s %s, which %s does not have; write %s=%s for the defaults, or "
               "%s='{kind: %s, ...}' with what is to be set",
               path, strangers, kind->name, path, kind->name, path, kind->name);
    return false;
}

static void set_value(const Override *o, Spot *spot, const Node *value) {
    const char *name = o->names[o->count - 1];
    if (spot->variant && !strcmp(name, "kind") && !may_be_kind(o, spot, value)) return;
    if (spot->node->type == NODE_LIST) {
        Node *element = list_element(o, spot->node, name);
        if (element) replace(o, element, value);
        return;
    }
    if (!make_map(o, spot, name)) return;
    Node *child = node_find(spot->node, name);
    if (!child) {
        child = node_new(o->arena, NODE_SCALAR, name, NULL, o->mark);
        node_append(spot->node, child);
    }
    replace(o, child, value);
}

static void take_out(const Override *o, const Spot *spot) {
    const char *name = o->names[o->count - 1];
    if (spot->node->type == NODE_LIST) {
        Node *element = list_element(o, spot->node, name);
        if (element) node_remove(spot->node, element);
        return;
    }
    Node *child = node_find(spot->node, name);
    if (child) {
        node_remove(spot->node, child);
    } else {
        faults_add(o->faults, o->mark, "there is no '%s' in the file to take out", name);
    }
}

static bool read_value(const Override *o, const char *text, Node **value) {
    Error err = {0};
    if (yaml_read_value(text, o->mark, o->arena, value, o->faults, &err)) return true;
    faults_add(o->faults, o->mark, "%s", err.message);
    return false;
}

void override_apply(const Field *fields, Node *root, const char *argument, int index, Arena *arena,
                    Faults *faults) {
    const char *file = arena_format(arena, "command line: %.200s", argument);
    Override o = {.arena = arena, .faults = faults, .mark = {file, 0, index}};
    bool is_removal = *argument == '~';
    char *path = arena_strdup(arena, argument + is_removal);
    char *equals = strchr(path, '=');
    if (is_removal == (equals != NULL)) {
        faults_add(faults, o.mark, "expected NAME=VALUE, or ~NAME to take a setting out");
        return;
    }
    if (equals) *equals = '\0';
    Node *value = NULL;
    if (!split_path(&o, path) || (equals && !read_value(&o, equals + 1, &value))) return;
    Spot spot = {.node = root, .fields = fields};
    for (int i = 0; i + 1 < o.count; i++) {
        if (!step(&o, &spot, o.names[i], !is_removal)) return;
    }
    if (is_removal) {
        take_out(&o, &spot);
    } else {
        set_value(&o, &spot, value);
    }
}
