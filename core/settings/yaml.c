#include "core/settings/yaml.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

/* An open map or list, while the events of its content arrive. */
typedef struct Level {
    Node *node;
    const char *key; /* of a map: the key whose value comes next, or NULL */
    Mark key_mark;
} Level;

typedef struct Loader {
    yaml_parser_t parser;
    const char *name;
    Arena *arena;
    Faults *faults;
    Error *err;
    Mark only_mark; /* of an override: everything is there; else file is NULL */
    Level levels[YAML_DEPTH_MAX];
    int depth, events, documents;
    Node *root;
} Loader;

static Mark loader_mark(const Loader *l, yaml_mark_t place) {
    if (l->only_mark.file) return l->only_mark;
    return (Mark){l->name, (int)place.line + 1, (int)place.column + 1};
}

/* An error at a place, "name:line:column: what"; within an override only "what". */
static bool fail_at(const Loader *l, Mark mark, const char *what) {
    if (l->only_mark.file) return FAIL(l->err, ERROR_INPUT, "%s", what);
    return FAIL(l->err, ERROR_INPUT, "%s:%d:%d: %s", mark.file, mark.line, mark.column, what);
}

/* ---- Text: UTF-8 without control characters ---- */

/* Bytes of the character at `s`, 0 if it is not one that YAML allows. */
static int character_bytes(const unsigned char *s, size_t left) {
    if (s[0] < 0x80) return (s[0] >= ' ' && s[0] != 0x7f) || strchr("\t\n\r", s[0]) ? s[0] != 0 : 0;
    int bytes = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    static const unsigned first_bits[] = {0, 0, 0x1f, 0x0f, 0x07};
    static const unsigned lowest[] = {0, 0, 0xa0, 0x800, 0x10000}; /* without the C1 controls */
    if (s[0] < 0xc2 || s[0] > 0xf4 || (size_t)bytes > left) return 0;
    unsigned code = s[0] & first_bits[bytes];
    for (int i = 1; i < bytes; i++) {
        if ((s[i] & 0xc0) != 0x80) return 0;
        code = code << 6 | (s[i] & 0x3fu);
    }
    bool is_surrogate = code >= 0xd800 && code <= 0xdfff;
    bool is_other = code == 0xfffe || code == 0xffff || code > 0x10ffff;
    bool is_next_line = code == 0x85; /* a line break of YAML 1.1 */
    return is_next_line || (code >= lowest[bytes] && !is_surrogate && !is_other) ? bytes : 0;
}

/* libyaml checks this too, but tells only a byte offset. Directives (%YAML, %TAG) are refused here:
 * libyaml's time is quadratic in their number. */
static bool check_characters(const Loader *l, const char *text, size_t bytes) {
    int line = 1, column = 1;
    for (size_t i = 0; i < bytes;) {
        const unsigned char *s = (const unsigned char *)text + i;
        int length = character_bytes(s, bytes - i);
        if (!length) {
            Mark mark = {l->name, line, column};
            char what[96];
            snprintf(what, sizeof what, "byte 0x%02x is not part of valid UTF-8 text", s[0]);
            if (s[0] < ' ' || s[0] == 0x7f) {
                snprintf(what, sizeof what, "control character 0x%02x is not allowed", s[0]);
            }
            return fail_at(l, mark, what);
        }
        if (column == 1 && s[0] == '%') {
            return fail_at(l, (Mark){l->name, line, column},
                           "directives (a line that begins with '%') are not supported");
        }
        column = s[0] == '\n' ? 1 : column + 1;
        line += s[0] == '\n';
        i += (size_t)length;
    }
    return true;
}

/* ---- Events to nodes ---- */

static Level *loader_top(Loader *l) {
    return l->depth ? &l->levels[l->depth - 1] : NULL;
}

/* Puts a finished or opened node where the next value belongs. */
static void loader_place(Loader *l, Node *node) {
    Level *top = loader_top(l);
    if (!top) {
        l->root = node;
        return;
    }
    if (top->node->type == NODE_MAP) {
        assert(top->key);
        node->key = top->key;
        node->key_mark = top->key_mark;
        top->key = NULL;
    }
    node_append(top->node, node);
}

static void refuse_properties(Loader *l, Mark mark, const yaml_char_t *anchor,
                              const yaml_char_t *tag) {
    if (anchor) {
        faults_add(l->faults, mark, "anchor '&%.40s': anchors are not supported; write it out",
                   (const char *)anchor);
    }
    if (tag) {
        faults_add(l->faults, mark, "tag '%.40s': tags are not supported; write the plain value",
                   (const char *)tag);
    }
}

static bool load_key(Loader *l, const yaml_event_t *event, Mark mark) {
    Level *top = loader_top(l);
    if (event->type != YAML_SCALAR_EVENT) {
        return fail_at(l, mark, "a setting's name must be plain text, not a list, map or alias");
    }
    refuse_properties(l, mark, event->data.scalar.anchor, event->data.scalar.tag);
    top->key = arena_strdup(l->arena, (const char *)event->data.scalar.value);
    top->key_mark = mark;
    return true;
}

static bool load_open(Loader *l, NodeType type, Mark mark) {
    if (l->depth == YAML_DEPTH_MAX) {
        char what[80];
        snprintf(what, sizeof what, "nested more than %d levels deep", YAML_DEPTH_MAX);
        return fail_at(l, mark, what);
    }
    Node *node = node_new(l->arena, type, NULL, NULL, mark);
    loader_place(l, node);
    l->levels[l->depth++] = (Level){.node = node};
    return true;
}

static void load_scalar(Loader *l, const yaml_event_t *event, Mark mark) {
    const char *text = (const char *)event->data.scalar.value;
    Node *node = node_new(l->arena, NODE_SCALAR, NULL, text, mark);
    node->is_quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    loader_place(l, node);
}

/* An alias leaves a scalar without text, of which nothing further is said. */
static void load_alias(Loader *l, const yaml_event_t *event, Mark mark) {
    const char *name = (const char *)event->data.alias.anchor;
    faults_add(l->faults, mark, "alias '*%.40s': aliases are not supported; write it out", name);
    loader_place(l, node_new(l->arena, NODE_SCALAR, NULL, NULL, mark));
}

typedef struct Entry {
    Node *node;
    int order;
} Entry;

static int compare_entries(const void *left, const void *right) {
    const Entry *a = left, *b = right;
    int order = strcmp(a->node->key, b->node->key);
    return order ? order : (a->order > b->order) - (a->order < b->order);
}

static void report_second(Loader *l, const Node *node, const Node *first) {
    Mark place = first->key_mark;
    if (place.line) {
        faults_add(l->faults, node->key_mark,
                   "duplicate setting '%.60s'; it is first on line %d, column %d", node->key,
                   place.line, place.column);
    } else {
        faults_add(l->faults, node->key_mark, "duplicate setting '%.60s'", node->key);
    }
}

/* Reports and drops second values of a key; sorted, so that a big map is no trap. */
static void check_keys(Loader *l, Node *map) {
    if (map->count < 2) return;
    Entry *entries = arena_new_array(l->arena, Entry, map->count);
    bool *is_second = arena_new_array(l->arena, bool, map->count);
    int count = 0;
    for (Node *n = map->first; n; n = n->next, count++) entries[count] = (Entry){n, count};
    qsort(entries, (size_t)count, sizeof *entries, compare_entries);
    const Node *first = entries[0].node;
    for (int i = 1; i < count; i++) {
        const Node *node = entries[i].node;
        if (strcmp(first->key, node->key)) {
            first = node;
            continue;
        }
        is_second[entries[i].order] = true;
        report_second(l, node, first);
    }
    Node *child = map->first;
    map->first = map->last = NULL;
    map->count = 0;
    for (int i = 0; i < count; i++) {
        Node *next = child->next;
        if (!is_second[i]) node_append(map, child);
        child = next;
    }
}

/* A merge key is an ordinary one to libyaml. */
static void refuse_merge(Loader *l, Node *map) {
    for (Node *child = map->first, *next; child; child = next) {
        next = child->next;
        if (strcmp(child->key, "<<")) continue;
        faults_add(l->faults, child->key_mark, "merge key '<<' is not supported; write it out");
        node_remove(map, child);
    }
}

static bool load_value(Loader *l, const yaml_event_t *event, Mark mark) {
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        refuse_properties(l, mark, event->data.scalar.anchor, event->data.scalar.tag);
        load_scalar(l, event, mark);
        return true;
    case YAML_SEQUENCE_START_EVENT:
        refuse_properties(l, mark, event->data.sequence_start.anchor,
                          event->data.sequence_start.tag);
        return load_open(l, NODE_LIST, mark);
    case YAML_MAPPING_START_EVENT:
        refuse_properties(l, mark, event->data.mapping_start.anchor, event->data.mapping_start.tag);
        return load_open(l, NODE_MAP, mark);
    default:
        load_alias(l, event, mark);
        return true;
    }
}

static void load_close(Loader *l) {
    Node *node = loader_top(l)->node;
    l->depth--;
    if (node->type != NODE_MAP) return;
    refuse_merge(l, node);
    check_keys(l, node);
}

static bool load_event(Loader *l, const yaml_event_t *event) {
    Mark mark = loader_mark(l, event->start_mark);
    if (++l->events > YAML_EVENTS_MAX) {
        char what[80];
        snprintf(what, sizeof what, "more than %d values in one file", YAML_EVENTS_MAX);
        return fail_at(l, mark, what);
    }
    const Level *top = loader_top(l);
    switch (event->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (l->documents++) return fail_at(l, mark, "a second document; there can be only one");
        return true;
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        load_close(l);
        return true;
    case YAML_SCALAR_EVENT:
        if (strlen((const char *)event->data.scalar.value) != event->data.scalar.length) {
            return fail_at(l, mark, "text with a NUL character ('\\0')");
        } /* fall through */
    case YAML_ALIAS_EVENT:
    case YAML_SEQUENCE_START_EVENT:
    case YAML_MAPPING_START_EVENT:
        if (top && top->node->type == NODE_MAP && !top->key) return load_key(l, event, mark);
        return load_value(l, event, mark);
    default:
        return true;
    }
}

/* ---- Documents ---- */

static bool fail_syntax(const Loader *l) {
    const yaml_parser_t *p = &l->parser;
    if (p->error == YAML_MEMORY_ERROR) return FAIL(l->err, ERROR_SYSTEM, "out of memory");
    char what[240];
    snprintf(what, sizeof what, "not valid YAML: %s%s%s", p->problem ? p->problem : "unreadable",
             p->context ? " " : "", p->context ? p->context : "");
    if (p->problem && strstr(p->problem, "cannot start any token")) {
        snprintf(what, sizeof what,
                 "not valid YAML: this character cannot begin a value (indent with spaces, not "
                 "tabs; put text with special characters in quotes)");
    }
    return fail_at(l, loader_mark(l, p->problem_mark), what);
}

/* The depth is checked as events arrive: libyaml scans at most one line or 1,024 characters ahead
 * of them, so its time, quadratic in the depth, stays small whatever the file nests. */
static bool load_events(Loader *l) {
    for (bool is_done = false; !is_done;) {
        yaml_event_t event;
        if (!yaml_parser_parse(&l->parser, &event)) return fail_syntax(l);
        is_done = event.type == YAML_STREAM_END_EVENT;
        bool is_good = load_event(l, &event);
        yaml_event_delete(&event);
        if (!is_good) return false;
    }
    return true;
}

/* A byte order mark says how text is encoded (Unicode, 23.8); that of UTF-8 is no part of it. */
static bool skip_mark(const Loader *l, const char **text, size_t *bytes) {
    if (*bytes >= 2 && (!memcmp(*text, "\xff\xfe", 2) || !memcmp(*text, "\xfe\xff", 2)))
        return FAIL(l->err, ERROR_INPUT, "%s: this is UTF-16 text; save it as UTF-8", l->name);
    if (*bytes < 3 || memcmp(*text, "\xef\xbb\xbf", 3) != 0) return true;
    *text += 3;
    *bytes -= 3;
    return true;
}

static bool load_text(Loader *l, const char *text, size_t bytes) {
    TRY(skip_mark(l, &text, &bytes));
    if (bytes > YAML_BYTES_MAX) {
        return FAIL(l->err, ERROR_INPUT, "%s: larger than %d bytes; settings are a few kilobytes",
                    l->name, YAML_BYTES_MAX);
    }
    TRY(check_characters(l, text, bytes));
    if (!yaml_parser_initialize(&l->parser)) return FAIL(l->err, ERROR_SYSTEM, "out of memory");
    yaml_parser_set_encoding(&l->parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&l->parser, (const unsigned char *)text, bytes);
    bool is_good = load_events(l);
    yaml_parser_delete(&l->parser);
    return is_good;
}

bool yaml_read_text(const char *text, size_t bytes, const char *name, Arena *arena, Node **root,
                    Faults *faults, Error *err) {
    Loader loader = {
        .name = arena_strdup(arena, name), .arena = arena, .faults = faults, .err = err};
    TRY(load_text(&loader, text, bytes));
    Node *node = loader.root;
    Mark start = {loader.name, 1, 1};
    if (!node || node_is_null(node)) node = node_new(arena, NODE_MAP, NULL, NULL, start);
    if (node->type != NODE_MAP) {
        return fail_at(&loader, node->mark, "expected settings such as 'name: value'");
    }
    *root = node;
    return true;
}

bool yaml_read_value(const char *text, Mark mark, Arena *arena, Node **value, Faults *faults,
                     Error *err) {
    Loader loader = {
        .name = mark.file, .arena = arena, .faults = faults, .err = err, .only_mark = mark};
    TRY(load_text(&loader, text, strlen(text)));
    *value = loader.root ? loader.root : node_new(arena, NODE_SCALAR, NULL, "", mark);
    return true;
}

Node *yaml_read_own(const char *text, Mark mark, Arena *arena) {
    Faults faults = {.arena = arena};
    Error err = {0};
    Node *value = NULL;
    bool is_read = yaml_read_value(text, mark, arena, &value, &faults, &err);
    assert(is_read && !faults.count && "a default is YAML");
    (void)is_read;
    return value;
}

bool yaml_read_file(const char *path, Arena *arena, Node **root, Faults *faults, Error *err) {
    FILE *file = fopen(path, "rb");
    if (!file) return FAIL(err, ERROR_INPUT, "cannot open '%s': %s", path, strerror(errno));
    char *text = arena_alloc(arena, YAML_BYTES_MAX + 1);
    size_t bytes = fread(text, 1, YAML_BYTES_MAX + 1, file);
    int reason = ferror(file) ? errno : 0;
    fclose(file);
    if (reason) return FAIL(err, ERROR_INPUT, "cannot read '%s': %s", path, strerror(reason));
    return yaml_read_text(text, bytes, path, arena, root, faults, err);
}
