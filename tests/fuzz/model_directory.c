/* config.json up to a zero, and generation_config.json behind it. What is accepted makes a network
 * of which every size is positive. */
#include "experiments/models/model_directory.h"
#include "tests/fuzz/fuzz.h"

static void check(const ModelDirectory *d) {
    const TransformerConfig *c = &d->network;
    FUZZ_CHECK(c->vocabulary > 0 && c->width > 0 && c->layers > 0 && c->block.ff > 0);
    FUZZ_CHECK(d->context > 0 && d->end_count <= MODEL_ENDS_MAX);
    for (int i = 0; i < d->end_count; i++)
        FUZZ_CHECK(d->ends[i] >= 0 && d->ends[i] < c->vocabulary);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    Arena *arena = arena_new("fuzz");
    FuzzPart input = {data, bytes};
    ModelDirectory d;
    Error err = {0};
    fuzz_file("config.json", fuzz_take_text(&input));
    if (input.bytes)
        fuzz_file("generation_config.json", input);
    else
        fuzz_no_file("generation_config.json");
    if (model_directory_read(fuzz_folder(), arena, &d, &err))
        check(&d);
    else
        fuzz_check_refusal(&err);
    fuzz_check_memory(arena, bytes, 2);
    arena_free(arena);
    return 0;
}
