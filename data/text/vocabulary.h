/* How text becomes ids: its bytes, or what a tokenizer.json says. */
#ifndef NIBBLE_DATA_TEXT_VOCABULARY_H
#define NIBBLE_DATA_TEXT_VOCABULARY_H

#include "data/envelope.h"
#include "data/text/tokenizer.h"

enum { VOCABULARY_BYTES_END = 256 /* ends a document of bytes; no byte is it */ };

typedef struct Vocabulary {
    Tokenizer *tokenizer; /* NULL: bytes */
    const char *name;     /* the tokenizer's file, or "byte" */
    int32_t size;         /* ids are below */
    int32_t end;          /* the token that ends a document; -1: there is none */
} Vocabulary;

/* `source`: "byte" (or NULL), a tokenizer.json, or a directory with one. `end`: the token that ends
 * a document; NULL: the first of those in use that the tokenizer has (</s>, <|endoftext|> ...).
 * vocabulary_close is due whatever the result. */
bool vocabulary_open(const char *source, const char *end, Arena *arena, Vocabulary *out,
                     Error *err);
void vocabulary_close(Vocabulary *vocabulary);

/* XXH3-128 of the tokenizer's file, or of its name, "byte". */
void vocabulary_digest(const Vocabulary *vocabulary, char digest[ENVELOPE_DIGEST_TEXT]);

/* Whether a token has this id. A network may know more than its tokenizer, and write them. */
bool vocabulary_has(const Vocabulary *vocabulary, int32_t id);

/* As tokenizer_encode and tokenizer_decode; of bytes, the end has no text. */
bool vocabulary_encode(const Vocabulary *vocabulary, Span text, bool is_framed, TokenIds *out,
                       Error *err);
bool vocabulary_decode(const Vocabulary *vocabulary, const int32_t *ids, int64_t count,
                       Arena *arena, Span *out, Error *err);

#endif
