/* YAML text to and from trees of nodes (core/settings/field.h). The only door to libyaml.
 *
 * What is read is the part of YAML that settings need: one document of maps with plain names, lists
 * and scalars. Anchors, aliases, tags, merge keys and further documents are refused. Text that is
 * not YAML, or breaks a limit, is an error; what can be read past is a fault, so that all mistakes
 * are listed at once. The limits keep any file, hostile or not, to a fraction of a second. */
#ifndef NIBBLE_CORE_SETTINGS_YAML_H
#define NIBBLE_CORE_SETTINGS_YAML_H

#include <stdbool.h>
#include <stddef.h>

#include "core/settings/field.h"

enum {
    YAML_BYTES_MAX = 1 << 20,
    YAML_DEPTH_MAX = 64,
    YAML_EVENTS_MAX = 100000, /* a scalar is one, a map or list two */
};

/* The settings in a file, or in text that `name` stands for in messages. `*root` is a map, empty
 * when there are no settings; it lies in `arena`. False when there is no tree to go on with: the
 * file cannot be read or is not YAML ("file:line:column: what"). */
bool yaml_read_file(const char *path, Arena *arena, Node **root, Faults *faults, Error *err);
bool yaml_read_text(const char *text, size_t bytes, const char *name, Arena *arena, Node **root,
                    Faults *faults, Error *err);

/* One value, of any type, as it stands after the `=` of an override. All marks become `mark`, and
 * the message of an error has no place. */
bool yaml_read_value(const char *text, Mark mark, Arena *arena, Node **value, Faults *faults,
                     Error *err);

/* The tree of one of our own texts: a row's default. All marks become `mark`. Text that is not well
 * formed is our mistake: an assert. */
Node *yaml_read_own(const char *text, Mark mark, Arena *arena);

/* The tree as YAML text, which reads back as the same tree (without its marks). */
const char *node_to_yaml(const Node *root, Arena *arena);

#endif
