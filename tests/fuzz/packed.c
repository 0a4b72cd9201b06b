/* Any bytes as quantized.h5 behind its digest. What is accepted is a network that can run. */
#include "experiments/ship/packed.h"
#include "tests/fuzz/sealed.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    Arena *arena = arena_new("fuzz"), *scratch = arena_new("file");
    PackedModel model;
    Error err = {0};
    const char *path = sealed_file("quantized.h5", (FuzzPart){data, bytes}, scratch);
    if (packed_open(path, arena, &model, &err))
        FUZZ_CHECK(model.model && model.class_count > 0);
    else
        fuzz_check_refusal(&err);
    packed_model_close(&model);
    arena_free(arena);
    arena_free(scratch);
    return 0;
}
