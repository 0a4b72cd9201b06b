/* Byte-pair encoding: a word begins as its characters, and the pair of neighbours whose merge was
 * learned first becomes one, the leftmost of equals first, until no pair is known (Sennrich et al.
 * 2016). As the `model` of a tokenizer.json has it: both of its forms of merges, byte fallback, and
 * whole words that are taken at once (`ignore_merges`). */
#ifndef NIBBLE_DATA_TEXT_BPE_H
#define NIBBLE_DATA_TEXT_BPE_H

#include "core/json.h"
#include "data/text/unicode.h"

enum { BPE_TOKENS_MAX = 1 << 22, BPE_WORD_MAX = 1 << 28 };

typedef struct Bpe Bpe;

typedef struct TokenIds { /* grows in its arena */
    Arena *arena;
    int32_t *items;
    int64_t count, capacity;
} TokenIds;

void token_ids_add(TokenIds *ids, int32_t id);

/* `model` of a tokenizer.json, in memory of `arena`. */
bool bpe_read(const Json *json, Arena *arena, Bpe **out, Error *err);

/* Adds the ids of one word, valid UTF-8 of at most BPE_WORD_MAX bytes. O(n log n) in its length.
 * `scratch` is another arena than out's, and is left as it was. */
void bpe_encode(const Bpe *bpe, Span word, Arena *scratch, TokenIds *out);

int32_t bpe_find(const Bpe *bpe, Span token); /* its id; -1: there is none */
Span bpe_token(const Bpe *bpe, int32_t id);   /* text NULL: none has this id */
int32_t bpe_size(const Bpe *bpe);             /* the largest id + 1 */

#endif
