/* A whole configuration, then overrides, each behind a zero. What is accepted is what it says when
 * it is written and read again. */
#include "experiments/settings/config.h"
#include "tests/fuzz/fuzz.h"

enum { OVERRIDES_MAX = 8 };

static void check_round_trip(const ExperimentConfig *config, Arena *arena) {
    ExperimentConfig again = {0};
    Error err = {0};
    const char *text = config_write(config, arena);
    if (!config_read_text(text, "again", 0, NULL, arena, &again, &err)) {
        fprintf(stderr, "%s\n%s\n", err.message, text);
        abort();
    }
    FUZZ_CHECK(!strcmp(text, config_write(&again, arena)));
    config_write_fixed(config, arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    Arena *arena = arena_new("fuzz");
    FuzzPart input = {data, bytes};
    const char *text = fuzz_text(fuzz_take_text(&input), arena);
    char *overrides[OVERRIDES_MAX];
    int count = 0;
    while (input.bytes && count < OVERRIDES_MAX)
        overrides[count++] = (char *)(uintptr_t)fuzz_text(fuzz_take_text(&input), arena);
    ExperimentConfig config = {0};
    Error err = {0};
    if (config_read_text(text, "fuzz", count, overrides, arena, &config, &err))
        check_round_trip(&config, arena);
    else
        fuzz_check_refusal(&err);
    arena_free(arena);
    return 0;
}
