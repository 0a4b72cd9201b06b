/* libFuzzer: the first line that begins with NUL or the whole input as a tokenizer.json, what
 * follows it as a text. Whatever is accepted must encode, and its ids decode.
 *
 *     clang -fsanitize=fuzzer,address,undefined -D_GNU_SOURCE -I. tests/fuzz_tokenizer.c
 * data/text/[a-z]*.c \
 *         core/json.c core/file.c core/settings/[a-z]*.c core/arena.c core/error.c core/log.c \
 *         -ljansson -lutf8proc -lpcre2-8 -lyaml -lm -o fuzz_tokenizer
 *     ./fuzz_tokenizer -max_len=8192 -timeout=5 tests/golden/tokenizers */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check(Tokenizer *t, Span text, Arena *arena) {
    TokenIds ids = {.arena = arena};
    Error err = {0};
    Span decoded;
    if (!tokenizer_encode(t, text, true, &ids, &err)) return;
    for (int64_t i = 0; i < ids.count; i++)
        if (ids.items[i] < 0 || ids.items[i] >= tokenizer_size(t)) abort();
    if (!tokenizer_decode(t, ids.items, ids.count, true, arena, &decoded, &err)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    const uint8_t *split = memchr(data, '\0', bytes);
    size_t json_bytes = split ? (size_t)(split - data) : bytes;
    Span text = {(const char *)data, (int64_t)json_bytes};
    if (split) text = (Span){(const char *)split + 1, (int64_t)(bytes - json_bytes - 1)};
    Arena *arena = arena_new("fuzz");
    Tokenizer *t = NULL;
    Error err = {0};
    if (tokenizer_read((const char *)data, json_bytes, "fuzz", arena, &t, &err))
        check(t, text, arena);
    tokenizer_close(t);
    arena_free(arena);
    return 0;
}
