/* fields_read: from a tree of text to a struct, noting everything that is wrong on the way. */
#include <assert.h>
#include <string.h>

#include "core/settings/field_reader.h"
#include "core/settings/yaml.h"

static bool read_value(Reader *r, const Field *field, const Node *node, const Path *path,
                       void *member);
static void read_fields(Reader *r, const Field *fields, const Node *map, Mark place,
                        const Path *path, bool is_variant, void *config);

/* The default as a tree. A word, a number or {} needs no memory but `simple`: a file can ask for
 * many of them. */
static const Node *default_node(Reader *r, const Field *field, Mark mark, Node *simple) {
    const char *text = field->fallback;
    bool is_empty_map = !strcmp(text, "{}");
    if (!is_empty_map && *text && strchr("[{\"'", *text))
        return yaml_read_own(text, mark, r->arena);
    *simple = (Node){.type = is_empty_map ? NODE_MAP : NODE_SCALAR,
                     .text = is_empty_map ? NULL : text,
                     .mark = mark};
    return simple;
}

/* ---- Variants ---- */

static const Kind *find_kind(Reader *r, const KindTable *table, const Node *name) {
    const Kind *kind = kind_find(table, name->text);
    if (kind) return kind;
    const char **names = arena_new_array(r->arena, const char *, table->count);
    for (int i = 0; i < table->count; i++) names[i] = table->kinds[i]->name;
    reader_unknown(r, name->mark, table->noun, name, names, table->count);
    return NULL;
}

static const char *kind_names(Reader *r, const KindTable *table) {
    const char **names = arena_new_array(r->arena, const char *, table->count);
    for (int i = 0; i < table->count; i++) names[i] = table->kinds[i]->name;
    return reader_joined(r, names, table->count);
}

/* The setting's own default as {kind: name, ...}, or NULL if it has none. */
static Node *default_variant(Reader *r, const Field *field, Mark mark) {
    if (field->type != FIELD_TYPE_VARIANT || !field->fallback) return NULL;
    Node *node = yaml_read_own(field->fallback, mark, r->arena);
    if (node_is_null(node)) return NULL;
    if (node->type == NODE_MAP) return node_find(node, "kind") ? node : NULL;
    Node *map = node_new(r->arena, NODE_MAP, NULL, NULL, mark);
    node_append(map, node_new(r->arena, NODE_SCALAR, "kind", node->text, mark));
    return map;
}

/* `optimizer: {lr: 1}` where a default names the kind: the default with these settings instead. */
static const Node *completed_variant(Reader *r, const Node *given, Node *fallback) {
    Node *map = node_copy(r->arena, given);
    for (const Node *child = fallback->first; child; child = child->next) {
        if (!node_find(given, child->key)) node_append(map, node_copy(r->arena, child));
    }
    return map;
}

static bool read_settings(Reader *r, const Kind *kind, const Node *map, Mark place,
                          const Path *path, Variant *out) {
    *out = (Variant){kind, NULL};
    if (kind->config_bytes) out->config = arena_zalloc(r->arena, kind->config_bytes);
    read_fields(r, kind->fields, map, place, path, true, out->config);
    return true;
}

/* {linear: {units: 10}}: the one key is the kind, what follows are its settings. */
static bool read_named_variant(Reader *r, const Field *field, const Node *named, const Path *path,
                               Variant *out) {
    Node *name = node_new(r->arena, NODE_SCALAR, NULL, named->key, named->key_mark);
    const Kind *kind = find_kind(r, field->kinds, name);
    if (!kind || (named->type == NODE_SCALAR && !named->text)) return false;
    if (named->type == NODE_MAP && node_find(named, "kind")) {
        faults_add(r->faults, node_find(named, "kind")->key_mark,
                   "'%s': the kind is given twice, here and as '%s'", reader_path(r, path),
                   named->key);
        return false;
    }
    if (named->type != NODE_MAP && !node_is_null(named)) {
        Path inner = {path, named->key, 0};
        return reader_expected(r, "a map of settings", named, &inner);
    }
    const Node *map = named->type == NODE_MAP ? named : NULL;
    return read_settings(r, kind, map, named->mark, path, out);
}

static bool read_variant(Reader *r, const Field *field, const Node *node, const Path *path,
                         Variant *out) {
    *out = (Variant){0};
    const KindTable *table = field->kinds;
    if (node_is_null(node)) {
        Node scalar;
        bool is_optional =
            field->fallback && node_is_null(default_node(r, field, node->mark, &scalar));
        if (is_optional) return true;
        const char *names = kind_names(r, table);
        return reader_expected(r, arena_format(r->arena, "one of %s", names), node, path);
    }
    if (node->type == NODE_LIST) {
        return reader_expected(r, arena_format(r->arena, "one %s", table->noun), node, path);
    }
    if (node->type == NODE_SCALAR) {
        const Kind *named = find_kind(r, table, node);
        return named && read_settings(r, named, NULL, node->mark, path, out);
    }
    const Node *only = node->count == 1 ? node->first : NULL;
    const Node *name = node_find(node, "kind");
    if (!name && only && kind_find(table, only->key)) {
        return read_named_variant(r, field, only, path, out);
    }
    Node *fallback = name ? NULL : default_variant(r, field, node->mark);
    const Kind *kind = fallback ? kind_find(table, node_find(fallback, "kind")->text) : NULL;
    bool is_misnamed = !name && only && (only->type == NODE_MAP || node_is_null(only)) &&
                       !(kind && fields_find(kind->fields, only->key));
    if (is_misnamed) return read_named_variant(r, field, only, path, out);
    if (fallback) {
        node = completed_variant(r, node, fallback);
        name = node_find(node, "kind");
    }
    if (!name) {
        if (r->may_miss) return true;
        faults_add(r->faults, node->mark, "missing setting '%s.kind': one of %s",
                   reader_path(r, path), kind_names(r, table));
        return false;
    }
    Path inner = {path, "kind", 0};
    if (name->type != NODE_SCALAR || node_is_null(name)) {
        const char *what = arena_format(r->arena, "one of %s", kind_names(r, table));
        return reader_expected(r, what, name, &inner);
    }
    if (!name->text) return false;
    kind = find_kind(r, table, name);
    return kind && read_settings(r, kind, node, node->mark, path, out);
}

/* ---- Lists ---- */

static size_t element_bytes(const Field *field) {
    if (field->kinds) return sizeof(Variant);
    if (field->fields) return field->element_bytes;
    return field->element == FIELD_TYPE_INT     ? sizeof(int64_t)
           : field->element == FIELD_TYPE_FLOAT ? sizeof(double)
                                                : sizeof(const char *);
}

static bool read_list(Reader *r, const Field *field, const Node *node, const Path *path,
                      List *out) {
    *out = (List){0};
    Node text = *node, one = {.type = NODE_LIST, .mark = node->mark, .first = &text, .count = 1};
    text.next = NULL;
    if (node->type == NODE_SCALAR && field->element == FIELD_TYPE_STRING && !node_is_null(node))
        node = &one;
    if (node->type != NODE_LIST) return reader_expected(r, "a list such as [a, b]", node, path);
    size_t bytes = element_bytes(field);
    out->items =
        node->count ? arena_zalloc(r->arena, checked_mul(bytes, (size_t)node->count)) : NULL;
    Field element = *field;
    element.type = field->kinds    ? FIELD_TYPE_VARIANT
                   : field->fields ? FIELD_TYPE_STRUCT
                                   : field->element;
    element.fallback = NULL;
    bool is_good = true;
    for (const Node *child = node->first; child; child = child->next, out->count++) {
        Path inner = {path, NULL, out->count};
        char *item = (char *)out->items + (size_t)out->count * bytes;
        if (!read_value(r, &element, child, &inner, item)) is_good = false;
    }
    return is_good;
}

/* ---- Structs and trees ---- */

/* As it stands: what it holds is read with what it lies over. */
static bool read_tree(Reader *r, const Field *field, const Node *node, const Path *path,
                      const Node **out) {
    bool is_bare = node->type == NODE_SCALAR && !field->kinds;
    if (node->type == NODE_LIST || (is_bare && !node_is_null(node)))
        return reader_expected(r, "a map of settings", node, path);
    *out = node_is_null(node) ? NULL : node_copy(r->arena, node);
    return true;
}

/* Nothing after the name is a map without settings. */
static bool read_struct(Reader *r, const Field *field, const Node *node, const Path *path,
                        void *member) {
    if (node->type != NODE_MAP && !node_is_null(node)) {
        return reader_expected(r, "a map of settings", node, path);
    }
    read_fields(r, field->fields, node, node->mark, path, false, member);
    return true;
}

static bool read_optional(Reader *r, const Field *field, const Node *node, const Path *path,
                          void **member) {
    *member = NULL;
    if (node_is_null(node)) return true;
    *member = arena_zalloc(r->arena, field->element_bytes);
    return read_struct(r, field, node, path, *member);
}

static bool read_value(Reader *r, const Field *field, const Node *node, const Path *path,
                       void *member) {
    if (node->type == NODE_SCALAR && !node->text) return false; /* reported by the parser */
    switch (field->type) {
    case FIELD_TYPE_BOOL:
        return scalar_read_bool(r, node, path, member);
    case FIELD_TYPE_INT:
        return scalar_read_int(r, field, node, path, member);
    case FIELD_TYPE_FLOAT:
        return scalar_read_float(r, field, node, path, member);
    case FIELD_TYPE_STRING:
        return scalar_read_string(r, field, node, path, member);
    case FIELD_TYPE_CHOICE:
        return scalar_read_choice(r, field, node, path, member);
    case FIELD_TYPE_VARIANT:
        return read_variant(r, field, node, path, member);
    case FIELD_TYPE_LIST:
        return read_list(r, field, node, path, member);
    case FIELD_TYPE_STRUCT:
        return read_struct(r, field, node, path, member);
    case FIELD_TYPE_TREE:
        return read_tree(r, field, node, path, member);
    case FIELD_TYPE_OPTIONAL:
        return read_optional(r, field, node, path, member);
    case FIELD_TYPE_END:
        break;
    }
    assert(!"a field has a type");
    return false;
}

/* After a fault the default stands in, so that what depends on this setting can still be checked.
 */
static void read_default_quietly(Reader *r, const Field *field, const Path *path, void *member) {
    Faults ignored = {.arena = r->arena};
    Reader quiet = {r->arena, &ignored, true};
    Node scalar;
    if (!field->fallback) r->faults->missing++;
    if (!field->fallback) return;
    read_value(&quiet, field, default_node(r, field, (Mark){0}, &scalar), path, member);
}

static void read_absent(Reader *r, const Field *field, Mark place, const Path *path, void *member) {
    Node scalar;
    if (field->fallback) {
        read_value(r, field, default_node(r, field, place, &scalar), path, member);
    } else if (!r->may_miss) {
        r->faults->missing++;
        faults_add(r->faults, place, "missing setting '%s' (%s)", reader_path(r, path),
                   field->help);
    }
}

static void report_unknown_key(Reader *r, const Field *fields, const Node *child, bool is_variant) {
    enum { NAMES_MAX = 256 };
    const char *names[NAMES_MAX];
    int count = 0;
    if (is_variant) names[count++] = "kind";
    for (const Field *f = fields; f && f->type != FIELD_TYPE_END && count < NAMES_MAX; f++) {
        names[count++] = f->name;
    }
    const char *near = reader_is_full(r) ? NULL : nearest_name(child->key, names, count);
    const char *shown = reader_shown(r, child->key);
    if (near) {
        faults_add(r->faults, child->key_mark, "unknown setting %s; did you mean '%s'?", shown,
                   near);
    } else if (!fields || fields->type == FIELD_TYPE_END) {
        faults_add(r->faults, child->key_mark, "unknown setting %s; there are none here", shown);
    } else {
        faults_add(r->faults, child->key_mark, "unknown setting %s; known: %s", shown,
                   reader_joined(r, names, count));
    }
}

/* Unknown keys and second ones. */
static void check_keys(Reader *r, const Field *fields, const Node *map, bool is_variant) {
    for (const Node *child = map->first; child; child = child->next) {
        const Field *f = fields;
        while (f && f->type != FIELD_TYPE_END && strcmp(f->name, child->key)) f++;
        bool is_known =
            (f && f->type != FIELD_TYPE_END) || (is_variant && !strcmp(child->key, "kind"));
        if (!is_known) {
            report_unknown_key(r, fields, child, is_variant);
            continue;
        }
        const Node *first = node_find(map, child->key);
        if (first != child) {
            faults_add(r->faults, child->key_mark, "duplicate setting '%s'; it is first on line %d",
                       child->key, first->key_mark.line);
        }
    }
}

/* `is_variant`: the key `kind` belongs to the map and is dealt with. */
static void read_fields(Reader *r, const Field *fields, const Node *map, Mark place,
                        const Path *path, bool is_variant, void *config) {
    if (map && map->type != NODE_MAP) map = NULL;
    if (map) check_keys(r, fields, map, is_variant);
    for (const Field *f = fields; f && f->type != FIELD_TYPE_END; f++) {
        void *member = (char *)config + f->offset;
        Path inner = {path, f->name, 0};
        const Node *child = node_find(map, f->name);
        if (!child) {
            read_absent(r, f, place, &inner, member);
        } else if (!read_value(r, f, child, &inner, member)) {
            read_default_quietly(r, f, &inner, member);
        }
    }
}

void fields_read(const Field *fields, const Node *map, Mark place, void *config, Arena *arena,
                 Faults *faults) {
    Reader reader = {arena, faults, false};
    if (map && map->type != NODE_MAP && !node_is_null(map)) {
        faults_add(faults, map->mark, "expected settings such as 'name: value', found %s",
                   reader_found(&reader, map));
        return;
    }
    read_fields(&reader, fields, map, place, NULL, false, config);
}

void *kind_defaults(const Kind *kind, Arena *arena) {
    if (!kind->config_bytes) return NULL;
    Faults faults = {.arena = arena};
    Reader reader = {arena, &faults, true};
    void *config = arena_zalloc(arena, kind->config_bytes);
    read_fields(&reader, kind->fields, NULL, (Mark){0}, NULL, true, config);
    assert(faults.count == 0 && "a default does not fit its own row");
    return config;
}
