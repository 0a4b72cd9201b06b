/* Any bytes as the body of a file of ours; its length, which no mutation gets right, is put right.
 * Whatever is accepted lies within the bytes, once. */
#include "data/h5_tree.h"
#include "tests/fuzz/fuzz.h"

enum { LENGTH_AT = 28 }; /* in the superblock */

static size_t check_node(const H5Node *node, FuzzPart body, int depth) {
    size_t held = (size_t)node->info.bytes;
    FUZZ_CHECK(depth <= H5_DEPTH_MAX && strlen(node->name) < H5_NAME_BYTES_MAX);
    if (node->info.what != H5_GROUP && held) {
        FUZZ_CHECK(node->data >= body.data && held <= body.bytes);
        FUZZ_CHECK((size_t)(node->data - body.data) <= body.bytes - held);
    }
    for (int i = 0; i < node->number_count; i++) FUZZ_CHECK(node->numbers[i].name);
    for (int i = 0; i < node->node_count; i++) {
        if (i) FUZZ_CHECK(strcmp(node->nodes[i - 1].name, node->nodes[i].name) < 0);
        held += check_node(&node->nodes[i], body, depth + 1);
    }
    return held;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    uint8_t *body = malloc(bytes + !bytes); /* of its own: what is read behind it is seen */
    if (bytes) memcpy(body, data, bytes);
    if (bytes >= LENGTH_AT + 8) h5_put(body + LENGTH_AT, bytes, 8);
    Arena *arena = arena_new("fuzz");
    H5Node root;
    Error err = {0};
    if (h5_tree_read("fuzz", body, bytes, arena, &root, &err))
        FUZZ_CHECK(check_node(&root, (FuzzPart){body, bytes}, 0) <= bytes);
    else
        fuzz_check_refusal(&err);
    fuzz_check_memory(arena, bytes, 256);
    arena_free(arena);
    free(body);
    return 0;
}
