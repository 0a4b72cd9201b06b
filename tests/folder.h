/* A folder of a test program's own, for its groups of tests: made before, removed after. */
#ifndef NIBBLE_TESTS_FOLDER_H
#define NIBBLE_TESTS_FOLDER_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char folder[] = "/tmp/nibble-test-XXXXXX";

static inline int folder_make(void **state) {
    (void)state;
    strcpy(folder, "/tmp/nibble-test-XXXXXX"); /* a group before has filled it in */
    return mkdtemp(folder) ? 0 : -1;
}

static inline int folder_remove(void **state) {
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

#endif
