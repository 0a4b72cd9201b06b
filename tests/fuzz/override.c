/* Lines, each an override of the whole configuration. */
#include "experiments/settings/override.h"
#include "core/settings/yaml.h"
#include "experiments/settings/config.h"
#include "tests/fuzz/fuzz.h"

static const char base[] =
    "model: {kind: sequential, layers: [flatten, {kind: linear, units: 9}]}\n"
    "data: {kind: synthetic}\n"
    "optimizer: sgd\n"
    "quant: {bits: 4, rules: [{layers: first, bits: 8}]}\n";

static void check_line(void *context, const char *text) {
    (void)context;
    for (; *text; text++) FUZZ_CHECK((unsigned char)*text >= ' ');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    Arena *arena = arena_new("fuzz");
    char *text = arena_zalloc(arena, bytes + 1), *rest = NULL;
    if (bytes) memcpy(text, data, bytes);
    Faults faults = {.arena = arena};
    Error err = {0};
    Node *root = NULL;
    ExperimentConfig config = {0};
    FUZZ_CHECK(yaml_read_text(base, sizeof base - 1, "base", arena, &root, &faults, &err));
    int index = 0;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        if (!index) config_check_free(line, &(Error){0});
        override_apply(experiment_fields, root, line, ++index, arena, &faults);
    }
    fields_read(experiment_fields, root, root->mark, &config, arena, &faults);
    faults_print(&faults, arena, check_line, NULL);
    if (!faults.count) config_write(&config, arena);
    arena_free(arena);
    return 0;
}
