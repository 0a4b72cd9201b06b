/* Any text as a config, its last line as an override. What is accepted survives being written and
 * read again. */
#include "tests/fuzz/fuzz.h"
#include "tests/settings_example.h"

static void check_round_trip(const ExampleConfig *config, Arena *arena) {
    const char *text = node_to_yaml(fields_write(example_fields, config, arena), arena);
    Faults faults = {.arena = arena};
    Error err = {0};
    Node *root = NULL;
    ExampleConfig again = {0};
    if (!yaml_read_text(text, strlen(text), "again", arena, &root, &faults, &err)) {
        /* what is written out is longer than what was given */
        FUZZ_CHECK(strstr(err.message, "more than") || strstr(err.message, "larger than"));
        return;
    }
    fields_read(example_fields, root, root->mark, &again, arena, &faults);
    FUZZ_CHECK(!faults.count);
    FUZZ_CHECK(!strcmp(text, node_to_yaml(fields_write(example_fields, &again, arena), arena)));
}

static void check_line(void *context, const char *text) {
    (void)context;
    for (; *text; text++) FUZZ_CHECK((unsigned char)*text >= ' ');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    Arena *arena = arena_new("fuzz");
    const char *text = fuzz_text((FuzzPart){data, bytes}, arena);
    const char *last_line = memrchr(text, '\n', bytes);
    Faults faults = {.arena = arena};
    Error err = {0};
    Node *root = NULL;
    ExampleConfig config = {0};
    if (yaml_read_text(text, bytes, "fuzz", arena, &root, &faults, &err)) {
        if (last_line) override_apply(example_fields, root, last_line + 1, 1, arena, &faults);
        fields_read(example_fields, root, (Mark){"fuzz", 1, 1}, &config, arena, &faults);
        faults_print(&faults, arena, check_line, NULL);
        node_to_yaml(root, arena);
        if (!faults.count) check_round_trip(&config, arena);
    } else {
        fuzz_check_refusal(&err);
    }
    arena_free(arena);
    return 0;
}
