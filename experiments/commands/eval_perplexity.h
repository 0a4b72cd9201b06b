/* nibble eval DIR --text FILE: the perplexity of a text. */
#ifndef NIBBLE_EXPERIMENTS_COMMANDS_EVAL_PERPLEXITY_H
#define NIBBLE_EXPERIMENTS_COMMANDS_EVAL_PERPLEXITY_H

#include "core/json.h"

typedef struct EvalPerplexityOptions {
    const char *directory; /* of a model */
    const char *text;      /* a file of UTF-8 */
    int64_t stride;        /* 0: windows do not overlap */
} EvalPerplexityOptions;

/* The text is tokenized whole, as the tokenizer's template frames it; windows are as long as the
 * model's context. What is wrong with tokenizer, text or stride is found before weights are read.
 * The object is the caller's. */
bool eval_perplexity(const EvalPerplexityOptions *options, Json **out, Error *err);
void eval_perplexity_print(const Json *json);

#endif
