/* A tokenizer.json up to a zero, then a text. Whatever is accepted encodes, or says why not, and
 * its ids decode. */
#include "data/text/tokenizer.h"
#include "tests/fuzz/fuzz.h"

static void check(Tokenizer *t, Span text, Arena *arena) {
    TokenIds ids = {.arena = arena};
    Error err = {0};
    Span decoded;
    if (!tokenizer_encode(t, text, true, &ids, &err)) {
        fuzz_check_refusal(&err);
        return;
    }
    for (int64_t i = 0; i < ids.count; i++)
        FUZZ_CHECK(ids.items[i] >= 0 && ids.items[i] < tokenizer_size(t));
    if (!tokenizer_decode(t, ids.items, ids.count, true, arena, &decoded, &err))
        fuzz_check_refusal(&err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    Arena *arena = arena_new("fuzz");
    FuzzPart input = {data, bytes}, json = fuzz_take_text(&input);
    Span text = {(const char *)input.data, (int64_t)input.bytes};
    Tokenizer *t = NULL;
    Error err = {0};
    if (tokenizer_read((const char *)json.data, json.bytes, "fuzz", arena, &t, &err))
        check(t, text, arena);
    else
        fuzz_check_refusal(&err);
    tokenizer_close(t);
    arena_free(arena);
    return 0;
}
