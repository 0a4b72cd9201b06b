/* Added tokens: `added_tokens` of a tokenizer.json. They are found in the text before anything is
 * split, the longest first where several begin, and are one token whatever the merges say. Those
 * that are `normalized` are looked for in normalized text, the others in the text as it is. */
#ifndef NIBBLE_DATA_TEXT_ADDED_TOKENS_H
#define NIBBLE_DATA_TEXT_ADDED_TOKENS_H

#include "data/text/bpe.h"
#include "data/text/step.h"

typedef struct AddedToken {
    Span text; /* as it is looked for */
    Span name; /* as the file writes it */
    int32_t id;
    bool is_special, is_word, strips_left, strips_right, is_normalized;
} AddedToken;

typedef struct AddedTokens {
    AddedToken *items; /* by their text; those that are looked for raw, then the others */
    int count, raw_count;
    const AddedToken **by_id; /* [id_count], sorted; one for each id */
    int id_count;
} AddedTokens;

/* Refuses a token whose id the vocabulary gives to another. */
bool added_tokens_read(const Json *json, const Bpe *bpe, const Steps *normalizer, Arena *arena,
                       AddedTokens *out, Error *err);

/* What a text falls into. */
typedef struct AddedPart {
    Span text;
    int32_t id;  /* -1: text between the tokens */
    bool begins; /* it is the beginning of `text` */
} AddedPart;

typedef struct AddedParts { /* grows in its arena */
    Arena *arena;
    AddedPart *items;
    int64_t count, capacity;
} AddedParts;

/* Empties `out`, and adds the parts of valid text; `is_normalized`: which tokens are looked for. */
void added_tokens_split(const AddedTokens *tokens, Span text, bool is_normalized, AddedParts *out);

const AddedToken *added_tokens_find(const AddedTokens *tokens, int32_t id); /* or NULL */

#endif
