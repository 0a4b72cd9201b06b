/* What writes text: a language model of a run or of a model's directory, with what turns its ids
 * into text, and where it stands. */
#ifndef NIBBLE_EXPERIMENTS_GENERATE_WRITER_H
#define NIBBLE_EXPERIMENTS_GENERATE_WRITER_H

#include "data/text/vocabulary.h"
#include "experiments/generate/generator.h"
#include "experiments/models/model_directory.h"
#include "experiments/train/experiment.h"

typedef struct Writer {
    Arena *arena;
    Experiment experiment; /* of a run; or empty */
    Model *model;
    Vocabulary vocabulary;
    ModelDirectory directory; /* of the run's pretrained model too; without a path: none */
    int64_t context;          /* positions */
    Generator generator;
    TokenIds read;   /* what was fed */
    TokenIds fresh;  /* written since */
    int32_t ends[4]; /* tokens that end an answer beside the model's own */
    int end_count;
    bool is_silent;  /* nothing is shown */
    bool has_warned; /* of a token that the vocabulary does not have */
    int64_t shown;   /* bytes of the new text that are on stdout */
} Writer;

/* writer_close is due whatever the result. Errors are the user's: there is no such model, it has no
 * tokenizer, or is none of language. */
bool writer_open(const char *path, Arena *arena, Writer *out, Error *err);
void writer_close(Writer *w);

/* Ids of a text; ERROR_INPUT: it is not UTF-8, has none, or leaves no room in the context. */
bool writer_encode(const Writer *w, Span text, bool is_framed, TokenIds *out, Error *err);

/* Reads ids; what they have in common with what was read before is not read again. */
bool writer_read(Writer *w, const TokenIds *ids, Error *err);

/* Writes behind what was read: at most `tokens`, to a token that ends a text, or until the context
 * is full; shows the text as it comes. */
bool writer_write(Writer *w, int64_t tokens, const Sampling *sampling, Error *err);

/* The text written; special tokens are left out, or written. Ids that no token has are left out. */
bool writer_text(const Writer *w, bool with_special, Arena *arena, Span *out, Error *err);

#endif
