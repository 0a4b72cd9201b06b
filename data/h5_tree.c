#include "data/h5_tree.h"

#include <stdlib.h>
#include <string.h>

#include "data/h5_body.h"

/* ---- Bytes ---- */

bool h5_body_refuse(const H5Body *body, const char *what) {
    const char *quote = *body->place ? "\"" : "";
    return FAIL(body->err, ERROR_INPUT,
                "%s: damaged: %s%s%s: %s; it is not as nibble wrote it: use another copy",
                body->path, quote, *body->place ? body->place : "its root", quote, what);
}

const unsigned char *h5_body_take(H5Body *body, uint64_t address, uint64_t count) {
    bool is_there = address <= body->count && count <= body->count - address;
    if (is_there && count <= body->left) {
        body->left -= count;
        return body->bytes + address;
    }
    h5_body_refuse(body, is_there ? "the same bytes belong to two objects, or to a cycle"
                                  : "points beyond the end of the file");
    return NULL;
}

const unsigned char *h5_body_block(H5Body *body, uint64_t address, uint64_t count,
                                   const char *signature) {
    const unsigned char *at = h5_body_take(body, address, count);
    if (!at) return NULL;
    size_t end = count - H5_CHECKSUM_BYTES;
    bool is_block = count >= 4 + H5_CHECKSUM_BYTES && !memcmp(at, signature, 4);
    if (is_block && h5_checksum_fits(at + end, at, end)) return at;
    h5_body_refuse(body, is_block ? "a checksum is wrong" : "a block without its signature");
    return NULL;
}

const unsigned char *h5_span_skip(H5Span *span, size_t count) {
    if (count > span->left) {
        *span = (H5Span){.at = span->at, .is_short = true};
        return NULL;
    }
    const unsigned char *at = span->at;
    span->at += count;
    span->left -= count;
    return at;
}

uint64_t h5_span_get(H5Span *span, int bytes) {
    const unsigned char *at = h5_span_skip(span, (size_t)bytes);
    return at ? h5_get(at, bytes) : 0;
}

/* ---- What an object's header says, as it is gathered ---- */

typedef struct Link Link;
struct Link {
    const char *name;
    uint64_t address;
    Link *next;
};

typedef struct Attribute Attribute;
struct Attribute {
    H5Number number;
    Attribute *next;
};

enum { PENDING_MAX = 64 };

typedef struct Object {
    bool has_links, has_space, has_type, has_layout;
    Shape shape;
    bool is_text;
    H5Element element;
    size_t element_bytes;
    uint64_t data_address, data_bytes;
    uint64_t link_heap, link_tree, attribute_heap, attribute_tree;
    Link *links;
    Attribute *attributes;
    int link_count, attribute_count;
    struct {
        uint64_t address, bytes;
    } pending[PENDING_MAX]; /* parts of the header still to be read */
    int pending_count;
} Object;

/* ---- Messages ---- */

/* Numbers of dimensions beyond four, sizes that do not multiply, spaces that are "null". */
static bool space_decode(H5Span *s, Shape *shape) {
    enum { VERSION = 2, HAS_LARGEST = 1 };
    uint64_t version = h5_span_get(s, 1), rank = h5_span_get(s, 1), flags = h5_span_get(s, 1),
             kind = h5_span_get(s, 1);
    if (version != VERSION || rank > SHAPE_RANK_MAX || flags > HAS_LARGEST || kind != (rank > 0))
        return false;
    *shape = (Shape){.rank = (int)rank};
    for (uint64_t i = 0; i < rank; i++) {
        uint64_t dim = h5_span_get(s, 8);
        if (dim > INT64_MAX) return false;
        shape->dim[i] = (int64_t)dim;
    }
    if (flags & HAS_LARGEST) h5_span_skip(s, 8 * rank);
    return !s->is_short;
}

static bool space_read(H5Body *b, Object *o, H5Span s) {
    o->has_space = true;
    return space_decode(&s, &o->shape) ||
           h5_body_refuse(b, "has more than 4 dimensions, or a shape of another kind");
}

static bool type_read(H5Body *b, Object *o, H5Span s) {
    o->has_type = true;
    o->is_text = s.left == H5_TEXT_TYPE_BYTES && (s.at[0] & H5_CLASS_BITS) == H5_CLASS_TEXT;
    if (o->is_text) {
        o->element_bytes = (size_t)h5_get(s.at + 4, 4);
        return o->element_bytes > 0 || h5_body_refuse(b, "a text without its end");
    }
    if (!h5_type_decode(s.at, s.left, &o->element))
        return h5_body_refuse(b, "has an element type that nibble does not write");
    o->element_bytes = h5_element_bytes(o->element);
    return true;
}

static bool layout_read(H5Body *b, Object *o, H5Span s) {
    enum { CONTIGUOUS = 1 };
    uint64_t version = h5_span_get(&s, 1), kind = h5_span_get(&s, 1);
    o->data_address = h5_span_get(&s, 8);
    o->data_bytes = h5_span_get(&s, 8);
    o->has_layout = true;
    return ((version == 3 || version == 4) && kind == CONTIGUOUS && !s.is_short) ||
           h5_body_refuse(b, "is not stored in one piece");
}

/* Version, flags, then the two addresses. */
static bool info_read(H5Span s, uint64_t *heap, uint64_t *tree) {
    uint64_t version = h5_span_get(&s, 1), flags = h5_span_get(&s, 1);
    *heap = h5_span_get(&s, 8);
    *tree = h5_span_get(&s, 8);
    return version == 0 && flags == 0 && !s.is_short;
}

static bool link_info_read(H5Body *b, Object *o, H5Span s) {
    o->has_links = true;
    return info_read(s, &o->link_heap, &o->link_tree) ||
           h5_body_refuse(b, "its links are kept in another way than nibble's");
}

static bool attribute_info_read(H5Body *b, Object *o, H5Span s) {
    return info_read(s, &o->attribute_heap, &o->attribute_tree) ||
           h5_body_refuse(b, "its attributes are kept in another way than nibble's");
}

static const char *name_copy(H5Body *b, const unsigned char *at, size_t count) {
    char *name = arena_zalloc(b->arena, count + 1);
    memcpy(name, at, count);
    return name;
}

static bool is_component(const unsigned char *name, size_t count) {
    return name && count > 0 && count < H5_NAME_BYTES_MAX && !memchr(name, '\0', count) &&
           !memchr(name, '/', count) && !(count == 1 && name[0] == '.');
}

static bool link_read(H5Body *b, Object *o, H5Span s) {
    enum { VERSION = 1, LENGTH_BITS = 3, HAS_KIND = 8, HAS_CHARACTERS = 16, KNOWN = 27 };
    uint64_t version = h5_span_get(&s, 1), flags = h5_span_get(&s, 1);
    uint64_t kind = flags & HAS_KIND ? h5_span_get(&s, 1) : 0;
    if (flags & HAS_CHARACTERS) h5_span_skip(&s, 1);
    size_t length = (size_t)h5_span_get(&s, 1 << (flags & LENGTH_BITS));
    const unsigned char *name = h5_span_skip(&s, length);
    uint64_t address = h5_span_get(&s, 8);
    if (version != VERSION || flags & ~(uint64_t)KNOWN || kind != 0 || s.is_short)
        return h5_body_refuse(b, "holds a link to elsewhere, or of another kind than nibble's");
    if (!is_component(name, length)) return h5_body_refuse(b, "holds what cannot be a name");
    Link *link = arena_new_array(b->arena, Link, 1);
    *link = (Link){name_copy(b, name, length), address, o->links};
    o->links = link;
    o->link_count++;
    return true;
}

/* A scalar, of type i64 or f64. */
static bool attribute_decode(H5Body *b, H5Span *s, H5Number *number) {
    enum { VERSION = 3, CHARACTERS_BYTES = 1 };
    uint64_t version = h5_span_get(s, 1), flags = h5_span_get(s, 1);
    size_t name_bytes = (size_t)h5_span_get(s, 2), type_bytes = (size_t)h5_span_get(s, 2);
    h5_span_skip(s, 2 + CHARACTERS_BYTES);
    const unsigned char *name = h5_span_skip(s, name_bytes), *type = h5_span_skip(s, type_bytes);
    Shape shape;
    H5Element element;
    if (version != VERSION || flags != 0 || s->is_short || name_bytes == 0 ||
        memchr(name, '\0', name_bytes) != name + name_bytes - 1 ||
        !h5_type_decode(type, type_bytes, &element) || !space_decode(s, &shape) || shape.rank > 0 ||
        (element != H5_I64 && element != H5_F64))
        return false;
    uint64_t value = h5_span_get(s, 8);
    *number = (H5Number){.name = name_copy(b, name, name_bytes), .is_float = element == H5_F64};
    if (number->is_float)
        memcpy(&number->real, &value, sizeof value);
    else
        number->integer = (int64_t)value;
    return !s->is_short;
}

static bool attribute_read(H5Body *b, Object *o, H5Span s) {
    Attribute *attribute = arena_new_array(b->arena, Attribute, 1);
    if (!attribute_decode(b, &s, &attribute->number))
        return h5_body_refuse(b, "has an attribute that is something else than one number");
    attribute->next = o->attributes;
    o->attributes = attribute;
    o->attribute_count++;
    return true;
}

static bool continuation_read(H5Body *b, Object *o, H5Span s) {
    uint64_t address = h5_span_get(&s, 8), bytes = h5_span_get(&s, 8);
    if (s.is_short || o->pending_count == PENDING_MAX)
        return h5_body_refuse(b, "its header has too many parts");
    o->pending[o->pending_count].address = address;
    o->pending[o->pending_count++].bytes = bytes;
    return true;
}

/* How many names an object has, where that is not one. */
static bool count_read(H5Body *b, Object *o, H5Span s) {
    (void)o;
    (void)s;
    return h5_body_refuse(b, "belongs to two groups, or to itself");
}

static bool nothing_read(H5Body *b, Object *o, H5Span s) {
    (void)b;
    (void)o;
    (void)s;
    return true;
}

static const struct {
    int kind;
    bool (*read)(H5Body *b, Object *o, H5Span s);
} messages[] = {
    {H5_MESSAGE_NONE, nothing_read},
    {H5_MESSAGE_SPACE, space_read},
    {H5_MESSAGE_LINK_INFO, link_info_read},
    {H5_MESSAGE_TYPE, type_read},
    {H5_MESSAGE_FILL, nothing_read},
    {H5_MESSAGE_LINK, link_read},
    {H5_MESSAGE_LAYOUT, layout_read},
    {H5_MESSAGE_GROUP_INFO, nothing_read},
    {H5_MESSAGE_ATTRIBUTE, attribute_read},
    {H5_MESSAGE_CONTINUATION, continuation_read},
    {H5_MESSAGE_ATTRIBUTE_INFO, attribute_info_read},
    {H5_MESSAGE_COUNT, count_read},
};

/* Too short a rest for a message is a gap. */
static bool messages_read(H5Body *b, Object *o, H5Span s) {
    enum { PREFIX = 4, SHARED = 2 };
    while (s.left >= PREFIX) {
        int kind = (int)h5_span_get(&s, 1);
        size_t bytes = (size_t)h5_span_get(&s, 2);
        uint64_t flags = h5_span_get(&s, 1);
        H5Span message = {.left = bytes, .at = h5_span_skip(&s, bytes)};
        size_t row = 0;
        while (row < sizeof messages / sizeof *messages && messages[row].kind != kind) row++;
        if (row == sizeof messages / sizeof *messages || flags & SHARED || s.is_short)
            return h5_body_refuse(b, "has a property that nibble does not write (a filter, storage "
                                     "in other files, a shared type, a comment)");
        TRY(messages[row].read(b, o, message));
    }
    return true;
}

/* ---- Headers ---- */

/* Signature, version 2, flags: bits 0 and 1 the bytes of the size that follows. */
static bool header_read(H5Body *b, uint64_t address, Object *o) {
    enum { PREFIX = 6, SIZE_BITS = 3 };
    *o = (Object){.link_heap = H5_UNDEFINED, .attribute_heap = H5_UNDEFINED};
    if (b->count < PREFIX + 8 || address > b->count - PREFIX - 8)
        return h5_body_refuse(b, "points beyond the end of the file");
    const unsigned char *at = b->bytes + address;
    int size_bytes = 1 << (at[5] & SIZE_BITS);
    uint64_t size = h5_get(at + PREFIX, size_bytes), prefix = PREFIX + (uint64_t)size_bytes;
    if (memcmp(at, "OHDR", 4) || at[4] != 2 || at[5] & ~SIZE_BITS || size > b->count)
        return h5_body_refuse(b, "an object of another kind than nibble's");
    if (!h5_body_block(b, address, prefix + size + H5_CHECKSUM_BYTES, "OHDR")) return false;
    TRY(messages_read(b, o, (H5Span){.at = at + prefix, .left = size}));
    for (int i = 0; i < o->pending_count; i++) {
        at = h5_body_block(b, o->pending[i].address, o->pending[i].bytes, "OCHK");
        if (!at) return false;
        TRY(messages_read(b, o, (H5Span){at + 4, o->pending[i].bytes - 8, false}));
    }
    return true;
}

/* Links and attributes that are not in the header. */
static bool dense_read(H5Body *b, Object *o) {
    H5Dense links, attributes;
    TRY(h5_dense_read(b, o->link_heap, o->link_tree, H5_DENSE_LINKS, &links));
    for (int64_t i = 0; i < links.count; i++) TRY(link_read(b, o, links.messages[i]));
    TRY(h5_dense_read(b, o->attribute_heap, o->attribute_tree, H5_DENSE_ATTRIBUTES, &attributes));
    for (int64_t i = 0; i < attributes.count; i++)
        TRY(attribute_read(b, o, attributes.messages[i]));
    return true;
}

/* ---- Objects ---- */

static int by_node_name(const void *a, const void *b) {
    return strcmp(((const H5Node *)a)->name, ((const H5Node *)b)->name);
}

static int by_number_name(const void *a, const void *b) {
    return strcmp(((const H5Number *)a)->name, ((const H5Number *)b)->name);
}

static bool numbers_sort(H5Body *b, const Object *o, H5Node *node) {
    node->number_count = o->attribute_count;
    node->numbers = arena_new_array(b->arena, H5Number, o->attribute_count + 1);
    int count = 0;
    for (const Attribute *a = o->attributes; a; a = a->next) node->numbers[count++] = a->number;
    qsort(node->numbers, (size_t)count, sizeof *node->numbers, by_number_name);
    for (int i = 1; i < count; i++)
        if (!strcmp(node->numbers[i - 1].name, node->numbers[i].name))
            return h5_body_refuse(b, "has two attributes of one name");
    return true;
}

static bool data_find(H5Body *b, const Object *o, H5Node *node) {
    bool is_text = o->is_text && o->shape.rank == 0;
    node->info = (H5Info){is_text ? H5_TEXT : H5_TENSOR, o->element, o->shape, 0};
    if (o->is_text && !is_text) return h5_body_refuse(b, "is an array of texts");
    int64_t bytes = (int64_t)o->element_bytes;
    for (int i = 0; i < o->shape.rank; i++)
        if (__builtin_mul_overflow(bytes, o->shape.dim[i], &bytes))
            return h5_body_refuse(b, "its dimensions multiply to too many bytes");
    node->info.bytes = bytes - is_text; /* without its end */
    if (bytes == 0) return true;
    if (o->data_bytes != (uint64_t)bytes)
        return h5_body_refuse(b, "its shape and its bytes disagree");
    node->data = h5_body_take(b, o->data_address, (uint64_t)bytes);
    return node->data != NULL;
}

static bool object_read(H5Body *b, uint64_t address, int depth, H5Node *node);

static bool children_read(H5Body *b, const Object *o, int depth, H5Node *node) {
    size_t length = strlen(b->place);
    node->nodes = arena_new_array(b->arena, H5Node, o->link_count + 1);
    for (const Link *link = o->links; link; link = link->next) {
        H5Node *child = &node->nodes[node->node_count++];
        size_t more = strlen(link->name) + (length > 0);
        child->name = link->name;
        if (depth == H5_DEPTH_MAX || length + more >= H5_NAME_BYTES_MAX)
            return h5_body_refuse(b, "lies too deep: groups within groups");
        if (length > 0) strcat(b->place, "/");
        strcat(b->place, link->name);
        TRY(object_read(b, link->address, depth + 1, child));
        b->place[length] = '\0';
    }
    qsort(node->nodes, (size_t)node->node_count, sizeof *node->nodes, by_node_name);
    for (int i = 1; i < node->node_count; i++)
        if (!strcmp(node->nodes[i - 1].name, node->nodes[i].name))
            return h5_body_refuse(b, "has two objects of one name");
    return true;
}

static bool object_read(H5Body *b, uint64_t address, int depth, H5Node *node) {
    Object o;
    TRY(header_read(b, address, &o) && dense_read(b, &o) && numbers_sort(b, &o, node));
    bool has_data = o.has_space && o.has_type && o.has_layout;
    if (o.has_links == has_data) return h5_body_refuse(b, "is neither group nor tensor");
    if (has_data) return data_find(b, &o, node);
    node->info = (H5Info){.what = H5_GROUP};
    return children_read(b, &o, depth, node);
}

/* Signature, version, 8 and 8 bytes of offsets and lengths, flags, where the file begins and ends,
 * where its root lies. */
bool h5_tree_read(const char *path, const unsigned char *body, size_t bytes, Arena *arena,
                  H5Node *root, Error *err) {
    H5Body b = {path, body, bytes, bytes, arena, err, ""};
    if (bytes < H5_SUPERBLOCK_BYTES || memcmp(body, H5_SIGNATURE, H5_SIGNATURE_BYTES))
        return FAIL(err, ERROR_INPUT, "%s: not an HDF5 file", path);
    int version = body[8];
    if ((version != 2 && version != 3) || body[9] != 8 || body[10] != 8 || body[11] != 0 ||
        h5_get(body + 12, 8) != 0 || h5_get(body + 20, 8) != H5_UNDEFINED ||
        h5_get(body + 28, 8) != bytes || !h5_checksum_fits(body + 44, body, 44))
        return FAIL(err, ERROR_INPUT, "%s: damaged, or an HDF5 file of another kind than nibble's",
                    path);
    *root = (H5Node){.name = ""};
    b.left -= H5_SUPERBLOCK_BYTES;
    return object_read(&b, h5_get(body + 36, 8), 0, root);
}
