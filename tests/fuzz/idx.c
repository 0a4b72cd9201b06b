/* Any bytes as an IDX array, plain or gzip. */
#include "data/idx.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    Arena *arena = arena_new("fuzz");
    IdxArray array;
    Error err = {0};
    if (idx_decode("fuzz", data, bytes, arena, &array, &err)) {
        int64_t count = 1;
        for (int i = 0; i < array.rank; i++) count *= array.dim[i];
        if (count) {
            volatile unsigned char last = array.values[count - 1]; /* it must be there */
            (void)last;
        }
    } else {
        fuzz_check_refusal(&err);
    }
    fuzz_check_memory(arena, bytes, 1100);
    arena_free(arena);
    return 0;
}
