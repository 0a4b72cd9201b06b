/* Documents in rows of one length. Several stand in a row, and none sees another: `starts` says
 * from where on a position may look. A position has the token that it reads, and as its label the
 * one that follows in the document; the last token of a document is a label alone. */
#ifndef NIBBLE_DATA_TEXT_PACK_H
#define NIBBLE_DATA_TEXT_PACK_H

#include "data/text/corpus.h"

typedef struct TextPiece { /* of a document */
    int64_t first, count;
    const Document *document;
} TextPiece;

typedef struct PackedRows {
    int64_t rows, length;
    int32_t *tokens; /* [rows, length]; 0 behind the last document of a row */
    int32_t *labels; /* [rows, length]; -1: nothing is learned there */
    int32_t *starts; /* [rows, length]; right behind the labels */
} PackedRows;

/* In the order given. cuts: a document goes on in the next row, where it sees nothing of before;
 * else one that does not fit begins a row, and one longer than a row is ERROR_INPUT with its place.
 * joins: rows are shared. */
bool pack_rows(const Corpus *corpus, const TextPiece *pieces, int64_t count, int64_t length,
               bool cuts, bool joins, Arena *arena, PackedRows *out, Error *err);

#endif
