/* Documents as token ids: text files, one document each; or JSON Lines, one a line, of prompts with
 * completions or of conversations, of which the answers alone are learned. */
#ifndef NIBBLE_DATA_TEXT_CORPUS_H
#define NIBBLE_DATA_TEXT_CORPUS_H

#include "data/text/chat.h"

typedef enum CorpusFormat { CORPUS_TEXT, CORPUS_PROMPTS, CORPUS_CHAT } CorpusFormat;

typedef struct Document {
    int64_t first, count; /* of the corpus's ids */
    const char *file;
    int64_t line; /* from 1; 0: the whole file */
} Document;

typedef struct Corpus { /* grows in its arena */
    Arena *arena;
    const Vocabulary *vocabulary;
    CorpusFormat format;
    const ChatTemplate *template;
    bool scores_all; /* prompts are learned too */
    TokenIds ids;    /* ~id: a token that is not learned */
    Document *documents;
    int64_t count, capacity;
} Corpus;

static inline int32_t corpus_token(int32_t id) {
    return id < 0 ? ~id : id;
}

/* Adds a file's documents. ERROR_INPUT with the file, and the byte or the line: text that is not
 * UTF-8, a line that is not what the format says, one without an answer. */
bool corpus_add_file(Corpus *corpus, const char *path, Error *err);
/* The same of the files of a directory, by their names; hidden ones and folders are left out. */
bool corpus_add_path(Corpus *corpus, const char *path, Error *err);
/* One document; `name` stands for its file. */
bool corpus_add_text(Corpus *corpus, Span text, const char *name, Error *err);

#endif
