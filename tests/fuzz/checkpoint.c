/* Any bytes as checkpoint.h5 behind its digest: where the training stands, and every tensor of any
 * dtype. */
#include "experiments/train/checkpoint.h"
#include "data/stored.h"
#include "tests/fuzz/sealed.h"

static void read_tensors(const H5Reader *reader, const char *group, int depth, Arena *arena) {
    const char **names;
    int count;
    Error err = {0};
    Tensor tensor;
    if (depth > 3 || !h5_read_names(reader, group, arena, &names, &count, &err)) return;
    for (int i = 0; i < count; i++) {
        const char *name = arena_format(arena, "%s%s%s", group, *group ? "/" : "", names[i]);
        err = (Error){0};
        if (!stored_read_new(reader, name, arena, &tensor, &err)) {
            fuzz_check_refusal(&err);
            read_tensors(reader, name, depth + 1, arena);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    Arena *arena = arena_new("fuzz"), *scratch = arena_new("file");
    Checkpoint checkpoint = {0};
    Error err = {0};
    const char *path = sealed_file("checkpoint.h5", (FuzzPart){data, bytes}, scratch);
    if (checkpoint_open(path, arena, &checkpoint, &err)) {
        FUZZ_CHECK(checkpoint.cursor.step >= 0 && checkpoint.facts.images > 0);
        read_tensors(checkpoint.reader, "", 0, scratch);
    } else {
        fuzz_check_refusal(&err);
    }
    checkpoint_close(&checkpoint);
    arena_free(arena);
    arena_free(scratch);
    return 0;
}
