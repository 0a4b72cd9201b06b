/* The settings of data sets of text, for who reads text as one of them does. */
#ifndef NIBBLE_DATA_DATASETS_TEXT_H
#define NIBBLE_DATA_DATASETS_TEXT_H

#include "data/loader.h"
#include "data/text/vocabulary.h"

/* What a batch of text holds: tokens f32 [length], labels i32 [length] (the token after each, or
 * -1), starts f32 [length] (the first position that each may see). */
enum { TEXT_TOKENS, TEXT_LABELS, TEXT_STARTS, TEXT_COLUMNS };

typedef struct TextConfig {
    LoaderConfig loader;
    const char *path, *test_path, *sample, *tokenizer, *end_token;
    List paths; /* of const char * */
    double test;
    int format, template, score;
    int64_t vocabulary, length;
    bool pack;
} TextConfig;

/* Of these settings; checks that template and network fit it. vocabulary_close is due whatever the
 * result. */
bool text_vocabulary_open(const TextConfig *config, Arena *arena, Vocabulary *out, Error *err);

#endif
