/* Links and attributes of objects that have many: their messages lie in a fractal heap, and the
 * leaves of a B-tree say where. libhdf5 writes so; nibble once did. */
#include <string.h>

#include "data/h5_body.h"

static bool is_power(uint64_t value) {
    return value > 0 && (value & (value - 1)) == 0;
}

static int log2_of(uint64_t value) {
    return 63 - __builtin_clzll(value);
}

/* Bytes that hold any number up to `value`. */
static int bytes_for(uint64_t value) {
    return value ? log2_of(value) / 8 + 1 : 1;
}

/* ---- The heap: blocks of bytes, of which each has a place in one long line ----
 *
 * A block is direct, and holds objects, or indirect, and holds addresses of blocks: rows of `width`
 * each, the first two of the starting size, every next of twice the size before; those larger than
 * the largest direct block are indirect themselves. */

typedef struct Piece {
    uint64_t offset, size; /* in the line */
    const unsigned char *bytes;
} Piece;

typedef struct Heap {
    H5Body *body;
    uint64_t address;
    int id_bytes, offset_bytes, length_bytes;
    bool has_checksums;
    uint64_t width, start, largest;
    Piece *pieces; /* direct blocks, in the order of the line */
    int64_t count, capacity;
} Heap;

enum { HEAP_BYTES = 146, HEAP_HAS_CHECKSUMS = 2, LINE_BITS_MAX = 60 };

/* A block that is larger than the largest direct one has at least one row. */
static bool is_sound(const Heap *h) {
    return is_power(h->width) && h->width <= 1024 && is_power(h->start) && is_power(h->largest) &&
           h->start <= h->largest && h->largest <= 1 << 30 && h->offset_bytes <= 8 &&
           h->start * h->width <= h->largest * 2 &&
           h->id_bytes >= 1 + h->offset_bytes + h->length_bytes;
}

/* The numbers of a heap's header; the address of its root block, and its rows (0: it is direct). */
static bool heap_read(Heap *h, uint64_t *root, int *rows) {
    const unsigned char *at = h5_body_block(h->body, h->address, HEAP_BYTES, "FRHP");
    if (!at) return false;
    uint64_t object_max = h5_get(at + 10, 4);
    h->id_bytes = (int)h5_get(at + 5, 2);
    h->has_checksums = at[9] & HEAP_HAS_CHECKSUMS;
    h->width = h5_get(at + 110, 2);
    h->start = h5_get(at + 112, 8);
    h->largest = h5_get(at + 120, 8);
    h->offset_bytes = ((int)h5_get(at + 128, 2) + 7) / 8;
    h->length_bytes = bytes_for(h->largest - 1);
    if (bytes_for(object_max) < h->length_bytes) h->length_bytes = bytes_for(object_max);
    *root = h5_get(at + 132, 8);
    *rows = (int)h5_get(at + 140, 2);
    if (at[4] != 0 || h5_get(at + 7, 2) != 0 || !is_sound(h) ||
        *rows + log2_of(h->start) > LINE_BITS_MAX)
        return h5_body_refuse(h->body, "a heap of another kind than nibble's");
    return true;
}

static int block_prefix(const Heap *h) {
    return 4 + 1 + 8 + h->offset_bytes;
}

/* The prefix of either kind of block, behind its signature. */
static bool block_check(const Heap *h, const unsigned char *at, uint64_t offset) {
    if (at[4] == 0 && h5_get(at + 5, 8) == h->address && h5_get(at + 13, h->offset_bytes) == offset)
        return true;
    return h5_body_refuse(h->body, "a block of another heap");
}

/* The checksum of a direct block lies in its prefix, and counts as zero. */
static bool direct_check(const Heap *h, const unsigned char *at, uint64_t size) {
    if (!h->has_checksums) return true;
    ArenaMark mark = arena_mark(h->body->arena);
    unsigned char *copy = arena_alloc(h->body->arena, size);
    memcpy(copy, at, size);
    memset(copy + block_prefix(h), 0, H5_CHECKSUM_BYTES);
    bool is_right = h5_checksum_fits(at + block_prefix(h), copy, size);
    arena_rewind(h->body->arena, mark);
    return is_right || h5_body_refuse(h->body, "a checksum is wrong");
}

static bool direct_add(Heap *h, uint64_t address, uint64_t offset, uint64_t size) {
    const unsigned char *at = h5_body_take(h->body, address, size);
    if (!at) return false;
    if (size < (uint64_t)block_prefix(h) + H5_CHECKSUM_BYTES || memcmp(at, "FHDB", 4))
        return h5_body_refuse(h->body, "a block without its signature");
    TRY(block_check(h, at, offset) && direct_check(h, at, size));
    if (h->count == h->capacity) {
        Piece *more = arena_new_array(h->body->arena, Piece, 2 * h->capacity + 16);
        if (h->count > 0) memcpy(more, h->pieces, sizeof *more * (size_t)h->count);
        h->pieces = more;
        h->capacity = 2 * h->capacity + 16;
    }
    h->pieces[h->count++] = (Piece){offset, size, at};
    return true;
}

static uint64_t row_size(const Heap *h, int row) {
    return h->start << (row > 0 ? row - 1 : 0);
}

/* Recursion ends: a block within has fewer rows. */
static bool indirect_add(Heap *h, uint64_t address, uint64_t offset, int rows) {
    uint64_t prefix = (uint64_t)block_prefix(h), entries = h->width * (uint64_t)rows;
    const unsigned char *at =
        h5_body_block(h->body, address, prefix + 8 * entries + H5_CHECKSUM_BYTES, "FHIB");
    if (!at) return false;
    TRY(block_check(h, at, offset));
    for (uint64_t i = 0; i < entries; i++) {
        int row = (int)(i / h->width);
        uint64_t size = row_size(h, row), child = h5_get(at + prefix + 8 * i, 8);
        if (child != H5_UNDEFINED && size <= h->largest)
            TRY(direct_add(h, child, offset, size));
        else if (child != H5_UNDEFINED)
            TRY(indirect_add(h, child, offset, log2_of(size / (h->start * h->width)) + 1));
        offset += size;
    }
    return true;
}

static bool heap_open(H5Body *body, uint64_t address, Heap *h) {
    uint64_t root;
    int rows;
    *h = (Heap){.body = body, .address = address};
    TRY(heap_read(h, &root, &rows));
    if (root == H5_UNDEFINED) return true;
    return rows ? indirect_add(h, root, 0, rows) : direct_add(h, root, 0, h->start);
}

/* An identifier: zero bits for version and kind (lying in a block), an offset, a length. */
static bool heap_find(const Heap *h, const unsigned char *id, H5Span *out) {
    uint64_t offset = h5_get(id + 1, h->offset_bytes);
    uint64_t length = h5_get(id + 1 + h->offset_bytes, h->length_bytes);
    int64_t low = 0, high = h->count;
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (h->pieces[middle].offset <= offset)
            low = middle;
        else
            high = middle;
    }
    const Piece *piece = &h->pieces[low];
    bool is_there = h->count > 0 && id[0] == 0 && offset >= piece->offset &&
                    offset - piece->offset < piece->size &&
                    length <= piece->size - (offset - piece->offset);
    if (!is_there) return h5_body_refuse(h->body, "what a heap should hold is not in it");
    *out = (H5Span){.at = piece->bytes + (offset - piece->offset), .left = length};
    return true;
}

/* ---- The tree: records that name objects of the heap ---- */

typedef struct Tree {
    const Heap *heap;
    H5DenseKind kind;
    int record_bytes;
    uint64_t node_bytes;
    H5Dense *out;
    int64_t capacity;
} Tree;

enum { TREE_BYTES = 38, NODE_PREFIX = 6, LEVELS_MAX = 8, HASH_BYTES = 4, SHARED = 2 };

/* Of a link: a hash, an identifier; of an attribute: an identifier, flags, an order, a hash. */
static bool record_read(Tree *t, const unsigned char *record) {
    const H5Body *body = t->heap->body;
    bool is_link = t->kind == H5_DENSE_LINKS;
    if (t->out->count == t->capacity)
        return h5_body_refuse(body, "more links or attributes than it says");
    if (!is_link && record[t->heap->id_bytes] & SHARED)
        return h5_body_refuse(body, "an attribute is shared");
    return heap_find(t->heap, record + (is_link ? HASH_BYTES : 0),
                     &t->out->messages[t->out->count++]);
}

/* How a pointer to a node of `level` is written: the counts of records in it, and below it. */
typedef struct Pointer {
    int count_bytes, total_bytes;
} Pointer;

static Pointer pointer_to(const Tree *t, int level) {
    uint64_t room = t->node_bytes - NODE_PREFIX - H5_CHECKSUM_BYTES;
    uint64_t most = room / (uint64_t)t->record_bytes, total = most;
    Pointer pointer = {bytes_for(most), 0};
    for (int i = 1; i <= level; i++) {
        uint64_t bytes = 8 + (uint64_t)(pointer.count_bytes + pointer.total_bytes);
        most = room > bytes ? (room - bytes) / ((uint64_t)t->record_bytes + bytes) : 0;
        if (__builtin_mul_overflow(total, most + 1, &total)) total = UINT64_MAX / 2;
        total += most;
        pointer.total_bytes = bytes_for(total);
    }
    return pointer;
}

static bool node_read(Tree *t, uint64_t address, uint64_t count, int level) {
    H5Body *body = t->heap->body;
    Pointer pointer = level > 0 ? pointer_to(t, level - 1) : (Pointer){0};
    uint64_t pointer_bytes = 8 + (uint64_t)(pointer.count_bytes + pointer.total_bytes);
    uint64_t bytes = NODE_PREFIX + count * (uint64_t)t->record_bytes +
                     (level > 0 ? (count + 1) * pointer_bytes : 0) + H5_CHECKSUM_BYTES;
    if (bytes > t->node_bytes) return h5_body_refuse(body, "a node holds too much");
    const unsigned char *at = h5_body_block(body, address, bytes, level > 0 ? "BTIN" : "BTLF");
    if (!at) return false;
    if (at[4] != 0 || at[5] != t->kind) return h5_body_refuse(body, "a node of another tree");
    const unsigned char *record = at + NODE_PREFIX;
    for (uint64_t i = 0; i < count; i++, record += t->record_bytes) TRY(record_read(t, record));
    for (uint64_t i = 0; level > 0 && i <= count; i++, record += pointer_bytes)
        TRY(node_read(t, h5_get(record, 8), h5_get(record + 8, pointer.count_bytes), level - 1));
    return true;
}

static bool tree_read(Tree *t, uint64_t address) {
    H5Body *body = t->heap->body;
    const unsigned char *at = h5_body_block(body, address, TREE_BYTES, "BTHD");
    if (!at) return false;
    int expected = t->heap->id_bytes + HASH_BYTES + (t->kind == H5_DENSE_LINKS ? 0 : 5);
    uint64_t root = h5_get(at + 16, 8), total = h5_get(at + 26, 8);
    int level = (int)h5_get(at + 12, 2);
    t->node_bytes = h5_get(at + 6, 4);
    t->record_bytes = (int)h5_get(at + 10, 2);
    if (at[4] != 0 || at[5] != t->kind || t->record_bytes != expected || level > LEVELS_MAX ||
        t->node_bytes < 64 || total > body->count / (uint64_t)expected)
        return h5_body_refuse(body, "a tree of another kind than nibble's");
    t->capacity = (int64_t)total;
    t->out->messages = arena_new_array(body->arena, H5Span, total + 1);
    if (total == 0) return true;
    TRY(node_read(t, root, h5_get(at + 24, 2), level));
    return t->out->count == t->capacity || h5_body_refuse(body, "links or attributes are missing");
}

bool h5_dense_read(H5Body *body, uint64_t heap, uint64_t tree, H5DenseKind kind, H5Dense *out) {
    Heap h;
    *out = (H5Dense){0};
    if (heap == H5_UNDEFINED) return true;
    TRY(heap_open(body, heap, &h));
    Tree t = {.heap = &h, .kind = kind, .out = out};
    return tree_read(&t, tree);
}
