#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/envelope.h"
#include "data/h5_tree.h"

struct H5Reader {
    const char *path;
    Envelope envelope;
    H5Node root;
};

H5Reader *h5_read_open(const char *path, Arena *arena, Error *err) {
    H5Reader *reader = arena_new_array(arena, H5Reader, 1);
    const Envelope *envelope = &reader->envelope;
    reader->path = arena_strdup(arena, path);
    bool is_open = envelope_open(path, arena, &reader->envelope, err) &&
                   h5_tree_read(path, envelope->body, envelope->bytes, arena, &reader->root, err);
    return is_open ? reader : NULL;
}

const char *h5_read_path(const H5Reader *reader) {
    return reader->path;
}

void h5_read_digest(const H5Reader *reader, char text[33]) {
    for (int i = 0; i < ENVELOPE_DIGEST_BYTES; i++)
        snprintf(text + 2 * i, 3, "%02x", reader->envelope.digest[i]);
}

/* ---- Finding ---- */

static int by_name(const void *name, const void *node) {
    return strcmp(name, ((const H5Node *)node)->name);
}

/* NULL: there is none. */
static const H5Node *node_find(const H5Node *node, const char *name) {
    while (node && *name) {
        if (!node->node_count) return NULL; /* an array of none has no address */
        char part[H5_NAME_BYTES_MAX];
        size_t length = strcspn(name, "/");
        memcpy(part, name, length);
        part[length] = '\0';
        node = bsearch(part, node->nodes, (size_t)node->node_count, sizeof *node, by_name);
        name += length + (name[length] == '/');
    }
    return node;
}

static const H5Node *node_get(const H5Reader *reader, const char *name, Error *err) {
    if (!h5_name_check(reader->path, name, err)) return NULL;
    const H5Node *node = node_find(&reader->root, name);
    if (!node) (void)FAIL(err, ERROR_INPUT, "%s: has no \"%s\"", reader->path, name);
    return node;
}

bool h5_read_exists(const H5Reader *reader, const char *name, bool *exists, Error *err) {
    TRY(h5_name_check(reader->path, name, err));
    *exists = node_find(&reader->root, name) != NULL;
    return true;
}

bool h5_read_info(const H5Reader *reader, const char *name, H5Info *info, Error *err) {
    const H5Node *node = node_get(reader, name, err);
    if (node) *info = node->info;
    return node != NULL;
}

bool h5_read_names(const H5Reader *reader, const char *name, Arena *arena, const char ***names,
                   int *count, Error *err) {
    const H5Node *node = node_get(reader, name, err);
    if (!node) return false;
    if (node->info.what != H5_GROUP)
        return FAIL(err, ERROR_INPUT, "%s: \"%s\" is not a group", reader->path, name);
    *count = node->node_count;
    *names = arena_new_array(arena, const char *, node->node_count + 1);
    for (int i = 0; i < node->node_count; i++)
        (*names)[i] = arena_strdup(arena, node->nodes[i].name);
    return true;
}

/* ---- Data ---- */

static const H5Node *tensor_get(const H5Reader *reader, const char *name, Error *err) {
    const H5Node *node = node_get(reader, name, err);
    if (!node || node->info.what == H5_TENSOR) return node;
    (void)FAIL(err, ERROR_INPUT, "%s: \"%s\" is not a tensor", reader->path, name);
    return NULL;
}

static void copy(void *to, const unsigned char *from, int64_t bytes) {
    if (bytes > 0) memcpy(to, from, (size_t)bytes);
}

bool h5_read_tensor(const H5Reader *reader, const char *name, H5Element element, Shape shape,
                    void *data, Error *err) {
    const H5Node *node = tensor_get(reader, name, err);
    if (!node) return false;
    if (node->info.element != element || !shape_equal(node->info.shape, shape)) {
        char found[SHAPE_TEXT_BYTES], expected[SHAPE_TEXT_BYTES];
        return FAIL(err, ERROR_INPUT, "%s: \"%s\" is %s %s, expected %s %s", reader->path, name,
                    h5_element_name(node->info.element), shape_text(node->info.shape, found),
                    h5_element_name(element), shape_text(shape, expected));
    }
    copy(data, node->data, node->info.bytes);
    return true;
}

bool h5_read_rows(const H5Reader *reader, const char *name, int64_t first, int64_t count,
                  void *data, Error *err) {
    const H5Node *node = tensor_get(reader, name, err);
    if (!node) return false;
    int64_t rows = node->info.shape.rank > 0 ? node->info.shape.dim[0] : 0;
    if (first < 0 || count < 0 || first > rows || count > rows - first)
        return FAIL(err, ERROR_INPUT, "%s: \"%s\" has %lld rows; %lld from %lld on are not there",
                    reader->path, name, (long long)rows, (long long)count, (long long)first);
    int64_t row_bytes = rows > 0 ? node->info.bytes / rows : 0;
    copy(data, node->data ? node->data + first * row_bytes : NULL, count * row_bytes);
    return true;
}

const char *h5_read_text(const H5Reader *reader, const char *name, Arena *arena, Error *err) {
    const H5Node *node = node_get(reader, name, err);
    if (!node) return NULL;
    if (node->info.what != H5_TEXT) {
        (void)FAIL(err, ERROR_INPUT, "%s: \"%s\" is not a text", reader->path, name);
        return NULL;
    }
    char *text = arena_zalloc(arena, (size_t)node->info.bytes + 1);
    copy(text, node->data, node->info.bytes);
    return text;
}

/* ---- Numbers ---- */

static const H5Number *number_find(const H5Node *node, const char *name) {
    for (int i = 0; i < node->number_count; i++)
        if (!strcmp(node->numbers[i].name, name)) return &node->numbers[i];
    return NULL;
}

static const H5Number *number_get(const H5Reader *reader, const char *object, const char *attribute,
                                  Error *err) {
    const H5Node *node = node_get(reader, object, err);
    const H5Number *number = node ? number_find(node, attribute) : NULL;
    if (node && !number)
        (void)FAIL(err, ERROR_INPUT, "%s: \"%s\" has no attribute \"%s\"", reader->path, object,
                   attribute);
    return number;
}

bool h5_read_int(const H5Reader *reader, const char *object, const char *attribute, int64_t *value,
                 Error *err) {
    const H5Number *number = number_get(reader, object, attribute, err);
    if (number && number->is_float)
        return FAIL(err, ERROR_INPUT, "%s: \"%s\": attribute \"%s\" is no integer", reader->path,
                    object, attribute);
    if (number) *value = number->integer;
    return number != NULL;
}

bool h5_read_float(const H5Reader *reader, const char *object, const char *attribute, double *value,
                   Error *err) {
    const H5Number *number = number_get(reader, object, attribute, err);
    if (number && !number->is_float)
        return FAIL(err, ERROR_INPUT, "%s: \"%s\": attribute \"%s\" is no floating-point number",
                    reader->path, object, attribute);
    if (number) *value = number->real;
    return number != NULL;
}

bool h5_read_has_number(const H5Reader *reader, const char *object, const char *attribute,
                        bool *has, Error *err) {
    TRY(h5_name_check(reader->path, object, err));
    const H5Node *node = node_find(&reader->root, object);
    *has = node && number_find(node, attribute);
    return true;
}

bool h5_read_numbers(const H5Reader *reader, const char *object, Arena *arena, H5Number **numbers,
                     int *count, Error *err) {
    const H5Node *node = node_get(reader, object, err);
    if (!node) return false;
    *count = node->number_count;
    *numbers = arena_new_array(arena, H5Number, node->number_count + 1);
    for (int i = 0; i < node->number_count; i++) {
        (*numbers)[i] = node->numbers[i];
        (*numbers)[i].name = arena_strdup(arena, node->numbers[i].name);
    }
    return true;
}
