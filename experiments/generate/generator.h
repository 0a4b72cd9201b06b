/* Text from a language model, token by token: the prompt is read in parts of fixed size, then each
 * token is chosen from the logits of the last position, and fed. */
#ifndef NIBBLE_EXPERIMENTS_GENERATE_GENERATOR_H
#define NIBBLE_EXPERIMENTS_GENERATE_GENERATOR_H

#include "autograd/module.h"
#include "experiments/generate/sampling.h"

typedef struct Generator {
    Model *model; /* of tokens */
    Tape *tape;
    struct KvCache *cache;
    const float *logits; /* of what comes behind all that was fed; the tape's */
    int64_t vocabulary;
    int64_t fed, chosen; /* tokens */
} Generator;

/* For at most `context` tokens, chosen ones among them. The model's weights are laid for it
 * (model_lay_weights): it is there to generate, and not to be saved. generator_close is due
 * whatever comes. */
Generator generator_open(Model *model, int64_t context, Arena *arena);
void generator_close(Generator *g);

int64_t generator_room(const Generator *g); /* tokens that can still be fed */

/* There must be room (asserted). ERROR_INPUT: an id that is not of the vocabulary. */
bool generator_feed(Generator *g, const int32_t *ids, int64_t count, Error *err);

/* Forgets what was fed behind the first `count` tokens; something must be fed before a choice. */
void generator_rewind(Generator *g, int64_t count);

/* The next token, by the logits of what was fed; ERROR_NUMERIC: they are not all finite. */
bool generator_choose(Generator *g, const Sampling *sampling, int32_t *id, Error *err);

#endif
