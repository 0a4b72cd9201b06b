/* nibble eval DIR --text FILE: the perplexity of a text. */
#ifndef NIBBLE_EXPERIMENTS_COMMANDS_EVAL_PERPLEXITY_H
#define NIBBLE_EXPERIMENTS_COMMANDS_EVAL_PERPLEXITY_H

#include "core/json.h"
#include "experiments/train/experiment.h"

typedef struct EvalPerplexityOptions {
    const char *directory; /* of a model, or of a run on text */
    RunOptions run;        /* of a run alone */
    const char *text;      /* a file of UTF-8 */
    int64_t stride;        /* 0: windows do not overlap */
} EvalPerplexityOptions;

/* The text is tokenized whole, as the tokenizer's template frames it; windows are as long as the
 * model's context, or as the rows that a run was trained on. What is wrong with the text, or of a
 * model with its tokenizer or the stride, is found before weights are read. The object is the
 * caller's. */
bool eval_perplexity(const EvalPerplexityOptions *options, Json **out, Error *err);
void eval_perplexity_print(const Json *json);

#endif
