/* A text as a run reads it: ids of its tokenizer, and how many of them it sees at once. */
#ifndef NIBBLE_EXPERIMENTS_LANGUAGE_RUN_TEXT_H
#define NIBBLE_EXPERIMENTS_LANGUAGE_RUN_TEXT_H

#include "data/text/vocabulary.h"
#include "experiments/train/experiment.h"

/* A file of UTF-8, whole, in `arena`; ERROR_INPUT with the byte that is none. */
bool run_text_read(const char *path, Arena *arena, Span *out, Error *err);

/* The context is the one that the network was made for, or that it was trained with. */
bool run_text_context(const Experiment *e, Arena *arena, int64_t *out, Error *err);

/* With what the tokenizer puts around a text. */
bool run_text_encode(const Experiment *e, Span text, TokenIds *out, Error *err);

/* Whether the run is one of text; `name` stands for it in the error. */
bool run_text_check(const Experiment *e, const char *name, Error *err);

#endif
