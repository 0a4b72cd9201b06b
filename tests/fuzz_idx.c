/* libFuzzer: any bytes are an IDX array or a refusal. Build with clang -fsanitize=fuzzer,address.
 */
#include "data/idx.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Arena *arena = arena_new("fuzz");
    IdxArray array;
    Error err = {0};
    if (idx_decode("input", data, size, arena, &array, &err)) {
        int64_t count = 1;
        for (int i = 0; i < array.rank; i++) count *= array.dim[i];
        volatile unsigned char last = array.values[count - 1]; /* it must be there */
        (void)last;
    } else {
        assert(err.code == ERROR_INPUT && err.message[0]);
    }
    assert(arena_peak(arena) <= size * 1100 + 65536); /* memory in proportion to the input */
    arena_free(arena);
    return 0;
}
