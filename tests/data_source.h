/* For tests of the data layer: a data set's settings as a user writes them, and a folder.
 */
#ifndef NIBBLE_TESTS_DATA_SOURCE_H
#define NIBBLE_TESTS_DATA_SOURCE_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/dataset.h"
#include "data/loader.h"

static Arena *arena; /* of the test program */
static char folder[] = "/tmp/nibble-data-XXXXXX";

static const char *in_folder(const char *name) {
    return arena_format(arena, "%s/%s", folder, name);
}

typedef struct SourceConfig {
    Variant data;
} SourceConfig;

static const Field source_fields[] = {
    FIELD_VARIANT(SourceConfig, data, REQUIRED, &dataset_kinds, "where the images come from"),
    FIELD_END,
};

/* source("idx", "path", DIR, "augment.flip", "true", NULL) */
static Variant source(const char *kind, ...) {
    Mark mark = {"test", 1, 1};
    Node *top = node_new(arena, NODE_MAP, NULL, NULL, mark);
    Node *data = node_new(arena, NODE_MAP, "data", NULL, mark);
    Node *augment = node_new(arena, NODE_MAP, "augment", NULL, mark);
    node_append(top, data);
    node_append(data, node_new(arena, NODE_SCALAR, "kind", kind, mark));
    va_list args;
    va_start(args, kind);
    for (const char *key; (key = va_arg(args, const char *));) {
        const char *text = va_arg(args, const char *);
        bool is_nested = strncmp(key, "augment.", 8) == 0;
        node_append(is_nested ? augment : data,
                    node_new(arena, NODE_SCALAR, is_nested ? key + 8 : key, text, mark));
    }
    va_end(args);
    if (augment->first) node_append(data, augment);
    Faults faults = {.arena = arena};
    SourceConfig config = {0};
    fields_read(source_fields, top, mark, &config, arena, &faults);
    if (faults.count) {
        fprintf(stderr, "%s\n", faults.first->message);
        abort();
    }
    return config.data;
}

#endif
