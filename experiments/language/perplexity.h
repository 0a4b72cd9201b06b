/* Perplexity of a text under a language model: exp of the mean loss, in nats, of the next token.
 *
 * The ids are seen in windows of `window` tokens that begin every `stride` tokens. A window scores
 * the tokens that none before it has seen, each from what stands before it in the window; so its
 * first token is never scored. A last window of fewer than 2 tokens has nothing to score. */
#ifndef NIBBLE_EXPERIMENTS_LANGUAGE_PERPLEXITY_H
#define NIBBLE_EXPERIMENTS_LANGUAGE_PERPLEXITY_H

#include "autograd/module.h"

typedef struct PerplexityOptions {
    int64_t window; /* at least 2 */
    int64_t stride; /* from 1 to window: then windows do not overlap; 0: window */
    TapeMode mode;  /* of an evaluation */
} PerplexityOptions;

typedef struct Perplexity {
    double loss, perplexity; /* mean over the scored tokens; its exp */
    int64_t scored, seen;    /* tokens; one that several windows hold is seen several times */
    double seconds;
} Perplexity;

/* Whether the options make sense; perplexity_measure asks too. */
bool perplexity_check(const PerplexityOptions *options, Error *err);

/* Of a model whose inputs are tokens and which ends in a head. One window at a time, in memory of
 * the tape. ERROR_INPUT: there are fewer than 2 ids, one is none of the model's (its place is
 * named), or the options make no sense. ERROR_NUMERIC: a loss is not finite. */
bool perplexity_measure(Model *model, Tape *t, const PerplexityOptions *options, const int32_t *ids,
                        int64_t count, Perplexity *out, Error *err);

#endif
