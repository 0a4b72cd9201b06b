/* model.safetensors.index.json up to a zero, then the one file that a directory holds beside it,
 * "a.safetensors", as the target safetensors has it. */
#include "data/safetensors.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/safetensors_part.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    Arena *arena = arena_new("fuzz");
    FuzzPart input = {data, bytes};
    fuzz_file("model.safetensors.index.json", fuzz_take_text(&input));
    safetensors_part("a.safetensors", &input, arena);
    Arena *read = arena_new("safetensors");
    SafeTensors st;
    Error err = {0};
    if (safetensors_open(fuzz_folder(), read, &st, &err)) {
        FUZZ_CHECK(st.file_count <= 1);
    } else {
        fuzz_check_refusal(&err);
    }
    safetensors_close(&st);
    fuzz_check_memory(read, bytes, 256);
    arena_free(read);
    arena_free(arena);
    return 0;
}
