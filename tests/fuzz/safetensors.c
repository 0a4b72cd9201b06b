/* Any bytes as a file of safetensors; or, where they begin with a brace, as its header, and behind
 * a zero its data: then the length before it is right. */
#include "data/safetensors.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/safetensors_part.h"

static void read_all(const SafeTensors *st, Arena *arena) {
    for (int i = 0; i < st->count; i++) {
        const SafeTensor *t = &st->items[i];
        Error err = {0};
        int64_t count = shape_count(t->shape);
        FUZZ_CHECK(safetensors_find(st, t->name) == t);
        FUZZ_CHECK(safetensors_read_bytes(st, t, arena_alloc(arena, (size_t)t->bytes), &err));
        float *values = arena_alloc(arena, 4 * (t->dtype == DTYPE_COUNT ? 1 : (size_t)count));
        if (!safetensors_read(st, t, 0, t->dtype == DTYPE_COUNT ? 1 : count, values, &err))
            fuzz_check_refusal(&err);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    Arena *arena = arena_new("fuzz");
    FuzzPart input = {data, bytes};
    const char *path = safetensors_part("model.safetensors", &input, arena);
    Arena *read = arena_new("safetensors");
    SafeTensors st;
    Error err = {0};
    if (safetensors_open(path, read, &st, &err))
        read_all(&st, read);
    else
        fuzz_check_refusal(&err);
    safetensors_close(&st);
    fuzz_check_memory(read, bytes, 256);
    arena_free(read);
    arena_free(arena);
    return 0;
}
