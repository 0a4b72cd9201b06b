/* Settings given as arguments, such as `optimizer.lr=3e-4`, put into the tree of a config before it
 * is read, so that they pass the same checks as what stands in the file. */
#ifndef NIBBLE_EXPERIMENTS_SETTINGS_OVERRIDE_H
#define NIBBLE_EXPERIMENTS_SETTINGS_OVERRIDE_H

#include "core/settings/field.h"

enum { OVERRIDE_DEPTH_MAX = 32 }; /* names in a dotted path */

/* `argument` is one of
 *     a.b=VALUE      VALUE is YAML: 3, text, [1, 2], {kind: sgd}; nothing after `=` is null
 *     a.0.b=VALUE    an element of a list, counted from 0
 *     ~a.b           takes out what the file says, so that the default holds
 * Maps that the path lacks are made. A variant on the way may be written in any of its forms:
 * `optimizer: sgd` and `optimizer.lr=1` give {kind: sgd, lr: 1}; `fields` tells where variants are.
 * Nodes from here have the mark {"command line: ARGUMENT", 0, index}, so that messages name the
 * argument. Mistakes go to `faults`. */
void override_apply(const Field *fields, Node *root, const char *argument, int index, Arena *arena,
                    Faults *faults);

#endif
