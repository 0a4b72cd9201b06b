#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "core/file.h"
#include "data/envelope.h"
#include "data/h5_format.h"

/* Data go to the file at once; what they are is kept until the end, and written behind them. */

typedef struct Attribute Attribute;
struct Attribute {
    const char *name;
    bool is_float;
    uint64_t bits;
    Attribute *next;
};

typedef struct Node Node;
struct Node {
    const char *name;
    bool is_used; /* or only just made */
    H5Info info;
    uint64_t data_address, address; /* of its elements, of its header */
    Attribute *attributes, **attributes_end;
    Node *nodes, **nodes_end; /* of a group */
    Node *next;
};

typedef struct Buffer {
    Arena *arena;
    unsigned char *bytes;
    size_t count, capacity;
} Buffer;

struct H5Writer {
    Arena *arena;
    const char *path, *temporary;
    int fd;
    uint64_t end; /* of what was written */
    Node root;
    Error error; /* the first failure */
};

/* ---- The file ---- */

static void bytes_write(H5Writer *writer, const void *bytes, size_t count) {
    if (writer->error.code) return;
    if (!file_write_bytes(writer->fd, bytes, count))
        (void)FAIL(&writer->error, ERROR_SYSTEM, "%s: cannot write: %s", writer->path,
                   strerror(errno));
    writer->end += count;
}

/* Room is taken now, beyond the end of the file, so that a full disk is found before the data are
 * written. File systems that cannot reserve are left alone. */
static void reserve(const H5Writer *writer, uint64_t bytes) {
    if (bytes > 0 && bytes < INT64_MAX)
        (void)!fallocate(writer->fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)bytes);
}

static void node_start(Node *node, const char *name) {
    *node = (Node){.name = name, .info = {.what = H5_GROUP}};
    node->attributes_end = &node->attributes;
    node->nodes_end = &node->nodes;
}

H5Writer *h5_write_begin(const char *path, uint64_t expected_bytes, Arena *arena, Error *err) {
    static const unsigned char superblock[H5_SUPERBLOCK_BYTES]; /* filled at the end */
    if (!envelope_check_room(path, expected_bytes, err)) return NULL;
    H5Writer *writer = arena_new_array(arena, H5Writer, 1);
    writer->arena = arena;
    writer->path = arena_strdup(arena, path);
    writer->temporary = envelope_begin(path, arena);
    node_start(&writer->root, "");
    writer->fd = file_open(writer->temporary, FILE_CREATE, err);
    if (writer->fd < 0) return NULL;
    reserve(writer, expected_bytes);
    bytes_write(writer, superblock, sizeof superblock);
    return writer;
}

/* ---- Objects ---- */

static Node *node_find(const Node *group, const char *name, size_t length) {
    for (Node *node = group->nodes; node; node = node->next)
        if (!strncmp(node->name, name, length) && !node->name[length]) return node;
    return NULL;
}

static Node *node_add(H5Writer *writer, Node *group, const char *name, size_t length) {
    Node *node = arena_new_array(writer->arena, Node, 1);
    node_start(node, arena_format(writer->arena, "%.*s", (int)length, name));
    *group->nodes_end = node;
    group->nodes_end = &node->next;
    return node;
}

/* The object of that name; groups are made where they are missing. NULL: it cannot be. */
static Node *node_make(H5Writer *writer, const char *name) {
    Node *node = &writer->root;
    if (writer->error.code || !h5_name_check(writer->path, name, &writer->error)) return NULL;
    const char *part = name;
    for (int depth = 0; *part; depth++) {
        size_t length = strcspn(part, "/");
        if (node->info.what != H5_GROUP || depth == H5_DEPTH_MAX) {
            (void)FAIL(&writer->error, ERROR_INPUT, "%s: \"%s\" cannot lie within \"%s\"",
                       writer->path, name, node->name);
            return NULL;
        }
        Node *next = node_find(node, part, length);
        node = next ? next : node_add(writer, node, part, length);
        part += length + (part[length] == '/');
    }
    return node;
}

void h5_write_group(H5Writer *writer, const char *name) {
    Node *node = node_make(writer, name);
    if (node) node->is_used = true;
}

static void data_write(H5Writer *writer, const char *name, H5Info info, const void *data,
                       size_t bytes) {
    Node *node = node_make(writer, name);
    if (!node) return;
    if (node == &writer->root || node->is_used || node->nodes) {
        (void)FAIL(&writer->error, ERROR_INPUT, "%s: \"%s\" is there already", writer->path, name);
        return;
    }
    node->is_used = true;
    node->info = info;
    node->data_address = bytes > 0 ? writer->end : H5_UNDEFINED;
    bytes_write(writer, data, bytes);
}

void h5_write_tensor(H5Writer *writer, const char *name, H5Element element, Shape shape,
                     const void *data) {
    size_t bytes = h5_element_bytes(element) * (size_t)shape_count(shape);
    data_write(writer, name, (H5Info){H5_TENSOR, element, shape, (int64_t)bytes}, data, bytes);
}

void h5_write_text(H5Writer *writer, const char *name, const char *text) {
    size_t bytes = strlen(text) + 1;
    data_write(writer, name, (H5Info){.what = H5_TEXT, .bytes = (int64_t)bytes}, text, bytes);
}

static void attribute_write(H5Writer *writer, const char *object, const char *name, bool is_float,
                            const void *value) {
    Node *node = node_make(writer, object);
    if (!node) return;
    for (const Attribute *a = node->attributes; a; a = a->next)
        if (!strcmp(a->name, name))
            (void)FAIL(&writer->error, ERROR_INPUT, "%s: \"%s\" has \"%s\" already", writer->path,
                       object, name);
    Attribute *attribute = arena_new_array(writer->arena, Attribute, 1);
    *attribute = (Attribute){.name = arena_strdup(writer->arena, name), .is_float = is_float};
    memcpy(&attribute->bits, value, sizeof attribute->bits);
    node->is_used = true;
    *node->attributes_end = attribute;
    node->attributes_end = &attribute->next;
}

void h5_write_int(H5Writer *writer, const char *object, const char *attribute, int64_t value) {
    attribute_write(writer, object, attribute, false, &value);
}

void h5_write_float(H5Writer *writer, const char *object, const char *attribute, double value) {
    attribute_write(writer, object, attribute, true, &value);
}

/* ---- Headers ---- */

static void add(Buffer *b, const void *bytes, size_t count) {
    if (count > b->capacity - b->count) {
        size_t capacity = 2 * (b->capacity + count);
        unsigned char *more = arena_alloc(b->arena, capacity);
        if (b->count > 0) memcpy(more, b->bytes, b->count);
        b->bytes = more;
        b->capacity = capacity;
    }
    memcpy(b->bytes + b->count, bytes, count);
    b->count += count;
}

static void add_number(Buffer *b, uint64_t value, int bytes) {
    unsigned char little[8];
    h5_put(little, value, bytes);
    add(b, little, (size_t)bytes);
}

static void add_checksum(Buffer *b, size_t start) {
    add_number(b, h5_checksum(b->bytes + start, b->count - start), H5_CHECKSUM_BYTES);
}

/* A message's kind, size (known later), flags; where its content begins. */
static size_t message_start(Buffer *b, int kind, int flags) {
    add_number(b, (uint64_t)kind, 1);
    add_number(b, 0, 2);
    add_number(b, (uint64_t)flags, 1);
    return b->count;
}

static void message_end(Buffer *b, size_t start) {
    h5_put(b->bytes + start - 3, b->count - start, 2);
}

static void add_space(Buffer *b, Shape shape) {
    enum { VERSION = 2 };
    add_number(b, VERSION, 1);
    add_number(b, (uint64_t)shape.rank, 1);
    add_number(b, 0, 1);
    add_number(b, shape.rank > 0, 1); /* or a scalar */
    for (int i = 0; i < shape.rank; i++) add_number(b, (uint64_t)shape.dim[i], 8);
}

static void add_attribute(Buffer *b, const Attribute *a) {
    enum { VERSION = 3, SPACE_BYTES = 4 };
    unsigned char type[H5_TYPE_BYTES_MAX];
    size_t type_bytes = h5_type_encode(a->is_float ? H5_F64 : H5_I64, type);
    size_t start = message_start(b, H5_MESSAGE_ATTRIBUTE, 0);
    add_number(b, VERSION, 2); /* and no flags */
    add_number(b, strlen(a->name) + 1, 2);
    add_number(b, type_bytes, 2);
    add_number(b, SPACE_BYTES, 2);
    add_number(b, 0, 1); /* the name's characters: ASCII */
    add(b, a->name, strlen(a->name) + 1);
    add(b, type, type_bytes);
    add_space(b, SHAPE_SCALAR);
    add_number(b, a->bits, 8);
    message_end(b, start);
}

static void add_link(Buffer *b, const Node *node) {
    enum { VERSION = 1 };
    size_t length = strlen(node->name);
    bool is_long = length > UINT8_MAX;
    size_t start = message_start(b, H5_MESSAGE_LINK, 0);
    add_number(b, VERSION, 1);
    add_number(b, is_long, 1); /* the bytes of the length: 1 or 2 */
    add_number(b, length, 1 + is_long);
    add(b, node->name, length);
    add_number(b, node->address, 8);
    message_end(b, start);
}

static void add_group(Buffer *b, const Node *node) {
    size_t start = message_start(b, H5_MESSAGE_LINK_INFO, 0);
    add_number(b, 0, 2);
    add_number(b, H5_UNDEFINED, 8);
    add_number(b, H5_UNDEFINED, 8);
    message_end(b, start);
    start = message_start(b, H5_MESSAGE_GROUP_INFO, 1);
    add_number(b, 0, 2);
    message_end(b, start);
    for (const Node *child = node->nodes; child; child = child->next) add_link(b, child);
}

static void add_data(Buffer *b, const Node *node) {
    enum { CONSTANT = 1, FILL_NEVER = 0x0603, LAYOUT_CONTIGUOUS = 0x0103 }; /* with versions 3 */
    unsigned char type[H5_TYPE_BYTES_MAX];
    const H5Info *info = &node->info;
    size_t start = message_start(b, H5_MESSAGE_SPACE, 0);
    add_space(b, info->shape);
    message_end(b, start);
    start = message_start(b, H5_MESSAGE_TYPE, CONSTANT);
    add(b, type,
        info->what == H5_TEXT ? h5_text_type_encode((size_t)info->bytes, type)
                              : h5_type_encode(info->element, type));
    message_end(b, start);
    start = message_start(b, H5_MESSAGE_FILL, CONSTANT);
    add_number(b, FILL_NEVER, 2);
    message_end(b, start);
    start = message_start(b, H5_MESSAGE_LAYOUT, 0);
    add_number(b, LAYOUT_CONTIGUOUS, 2);
    add_number(b, node->data_address, 8);
    add_number(b, (uint64_t)info->bytes, 8);
    message_end(b, start);
}

/* Of the objects within first, so that their addresses are known. */
static void add_object(Buffer *b, Node *node, uint64_t base) {
    enum { VERSION = 2, SIZE_OF_4_BYTES = 2, PREFIX = 10 };
    for (Node *child = node->nodes; child; child = child->next) add_object(b, child, base);
    size_t start = b->count;
    node->address = base + start;
    add(b, "OHDR", 4);
    add_number(b, VERSION, 1);
    add_number(b, SIZE_OF_4_BYTES, 1);
    add_number(b, 0, 4); /* known below */
    if (node->info.what == H5_GROUP)
        add_group(b, node);
    else
        add_data(b, node);
    for (const Attribute *a = node->attributes; a; a = a->next) add_attribute(b, a);
    h5_put(b->bytes + start + 6, b->count - start - PREFIX, 4);
    add_checksum(b, start);
}

static void headers_write(H5Writer *writer) {
    Buffer b = {.arena = writer->arena};
    add_object(&b, &writer->root, writer->end);
    bytes_write(writer, b.bytes, b.count);
}

static void superblock_write(H5Writer *writer) {
    enum { VERSION = 2, OFFSET_BYTES = 8, LENGTH_BYTES = 8 };
    Buffer b = {.arena = writer->arena};
    add(&b, H5_SIGNATURE, H5_SIGNATURE_BYTES);
    add_number(&b, VERSION, 1);
    add_number(&b, OFFSET_BYTES, 1);
    add_number(&b, LENGTH_BYTES, 1);
    add_number(&b, 0, 1); /* flags */
    add_number(&b, 0, 8); /* where the file begins */
    add_number(&b, H5_UNDEFINED, 8);
    add_number(&b, writer->end, 8);
    add_number(&b, writer->root.address, 8);
    add_checksum(&b, 0);
    ssize_t put = pwrite(writer->fd, b.bytes, b.count, 0);
    if (put != (ssize_t)b.count)
        (void)FAIL(&writer->error, ERROR_SYSTEM, "%s: cannot write: %s", writer->path,
                   put < 0 ? strerror(errno) : "only a part was written");
}

/* ---- The end ---- */

static void writer_close(H5Writer *writer) {
    if (close(writer->fd))
        (void)FAIL(&writer->error, ERROR_SYSTEM, "%s: cannot write: %s", writer->path,
                   strerror(errno));
}

static bool finish(H5Writer *writer, bool is_sealed, const char *previous_path, Error *err) {
    Error *first = &writer->error;
    if (!first->code) headers_write(writer);
    if (!first->code) superblock_write(writer);
    writer_close(writer);
    bool is_done = !first->code && (!is_sealed || envelope_seal(writer->temporary, first)) &&
                   envelope_publish(writer->temporary, writer->path, previous_path, first);
    if (is_done) return true;
    unlink(writer->temporary);
    return FAIL(err, first->code, "%s (nothing was replaced)", first->message);
}

bool h5_write_commit(H5Writer *writer, const char *previous_path, Error *err) {
    return finish(writer, true, previous_path, err);
}

bool h5_write_export(H5Writer *writer, Error *err) {
    return finish(writer, false, NULL, err);
}

void h5_write_abandon(H5Writer *writer) {
    writer_close(writer);
    unlink(writer->temporary);
}
