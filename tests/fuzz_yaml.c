/* libFuzzer: any text as a config, its last line as an override. What is accepted must survive
 * being written and read again.
 *
 *     clang -fsanitize=fuzzer,address,undefined -D_GNU_SOURCE -I. tests/fuzz_yaml.c \
 *         core/settings/[a-z]*.c core/faults.c core/arena.c core/error.c \
 *         experiments/settings/override.c -lyaml -lm -o fuzz_yaml
 *     ./fuzz_yaml -max_len=4096 -timeout=5 */
#include <stdint.h>
#include <stdlib.h>

#include "tests/settings_example.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check_round_trip(const ExampleConfig *config, Arena *arena) {
    const char *text = node_to_yaml(fields_write(example_fields, config, arena), arena);
    Faults faults = {.arena = arena};
    Error err = {0};
    Node *root = NULL;
    ExampleConfig again = {0};
    if (!yaml_read_text(text, strlen(text), "again", arena, &root, &faults, &err)) {
        if (strstr(err.message, "nested more than") || strstr(err.message, "larger than") ||
            strstr(err.message, "more than")) {
            return; /* what is written out is longer than what was given */
        }
        abort();
    }
    fields_read(example_fields, root, root->mark, &again, arena, &faults);
    if (faults.count) abort();
    if (strcmp(text, node_to_yaml(fields_write(example_fields, &again, arena), arena))) abort();
}

static void drop_line(void *context, const char *text) {
    (void)context;
    for (; *text; text++) {
        if ((unsigned char)*text < ' ') abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    Arena *arena = arena_new("fuzz");
    char *text = arena_zalloc(arena, bytes + 1);
    memcpy(text, data, bytes);
    const char *last_line = memrchr(text, '\n', bytes);
    Faults faults = {.arena = arena};
    Error err = {0};
    Node *root = NULL;
    ExampleConfig config = {0};
    if (yaml_read_text(text, bytes, "fuzz", arena, &root, &faults, &err)) {
        if (last_line) override_apply(example_fields, root, last_line + 1, 1, arena, &faults);
        fields_read(example_fields, root, (Mark){"fuzz", 1, 1}, &config, arena, &faults);
        faults_print(&faults, arena, drop_line, NULL);
        node_to_yaml(root, arena);
        if (!faults.count) check_round_trip(&config, arena);
    }
    arena_free(arena);
    return 0;
}
