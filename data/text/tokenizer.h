/* A tokenizer, as a tokenizer.json of Hugging Face describes it: the ids are those that its own
 * library gives for the same file and text. Byte-pair encoding only, of bytes (GPT-2, Llama 3,
 * Qwen, SmolLM) or of characters with bytes behind them (Llama 2, Mistral). What a file asks for
 * and is not built is an error that names it; nothing is guessed.
 *
 * Text passes: added tokens are cut out; what lies between is normalized, split into words, and
 * each word is merged; the template puts its tokens around. */
#ifndef NIBBLE_DATA_TEXT_TOKENIZER_H
#define NIBBLE_DATA_TEXT_TOKENIZER_H

#include "data/text/added_tokens.h"

enum { TOKENIZER_TEXT_MAX = 1 << 28 }; /* bytes of one text */

typedef struct Tokenizer Tokenizer;

/* Everything lives in `arena` but the regular expressions: tokenizer_close is due whatever the
 * result. Errors name the file and the place in it. */
bool tokenizer_open(const char *path, Arena *arena, Tokenizer **out, Error *err);
/* The same of text; `name` stands for it in errors. */
bool tokenizer_read(const char *text, size_t bytes, const char *name, Arena *arena, Tokenizer **out,
                    Error *err);
void tokenizer_close(Tokenizer *tokenizer); /* accepts NULL */

/* Adds the ids of a text; `is_framed`: with the tokens that the template puts around, such as one
 * that begins every text. Text that is not UTF-8 is ERROR_INPUT with its offset. One thread at a
 * time. */
bool tokenizer_encode(Tokenizer *tokenizer, Span text, bool is_framed, TokenIds *out, Error *err);

/* The text of ids, in memory of `arena`; `with_special`: special tokens are written out. An id that
 * no token has is ERROR_INPUT. */
bool tokenizer_decode(Tokenizer *tokenizer, const int32_t *ids, int64_t count, bool with_special,
                      Arena *arena, Span *out, Error *err);

int32_t tokenizer_size(const Tokenizer *tokenizer);                    /* the largest id + 1 */
const char *tokenizer_digest(const Tokenizer *tokenizer);              /* of the file's bytes */
int32_t tokenizer_find(const Tokenizer *tokenizer, const char *token); /* its id; -1: none */
Span tokenizer_token(const Tokenizer *tokenizer,
                     int32_t id); /* as it is looked for; or text NULL */
bool tokenizer_is_special(const Tokenizer *tokenizer, int32_t id);

#endif
