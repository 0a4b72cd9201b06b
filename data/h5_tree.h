/* The objects of a file of ours as a tree in memory, from one walk over its metadata.
 *
 * What nibble does not write is refused, with the object and what was found: other types and
 * storage, links that are not names of objects, numbers that are not scalars. An object that is
 * reached twice, as in a cycle, is refused as well (h5_body.h). */
#ifndef NIBBLE_DATA_H5_TREE_H
#define NIBBLE_DATA_H5_TREE_H

#include "data/h5_format.h"

typedef struct H5Node H5Node;
struct H5Node {
    const char *name; /* within its group; "" of the root */
    H5Info info;
    const unsigned char *data; /* of a tensor or text: info.bytes of the file's body */
    H5Node *nodes;             /* of a group, sorted by name */
    H5Number *numbers;         /* sorted by name */
    int node_count, number_count;
};

/* Everything lives in `arena` but the data, which stay in `body`. */
bool h5_tree_read(const char *path, const unsigned char *body, size_t bytes, Arena *arena,
                  H5Node *root, Error *err);

#endif
