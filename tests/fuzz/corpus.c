/* A byte that chooses format and template, then a file of text, prompts or chats. Its documents are
 * packed into rows. */
#include "data/text/pack.h"
#include "tests/fuzz/fuzz.h"

enum { TEMPLATES = 5 };

static void check(const Corpus *c, Arena *arena) {
    PackedRows rows;
    Error err = {0};
    TextPiece *pieces = arena_new_array(arena, TextPiece, c->count);
    int64_t ids = 0;
    for (int64_t i = 0; i < c->count; i++) {
        const Document *d = &c->documents[i];
        FUZZ_CHECK(d->first == ids && d->count >= 0);
        ids += d->count;
        pieces[i] = (TextPiece){d->first, d->count, d};
    }
    FUZZ_CHECK(ids == c->ids.count);
    int64_t count = 0;
    for (int64_t i = 0; i < c->count; i++)
        if (pieces[i].count >= 2) pieces[count++] = pieces[i];
    if (!pack_rows(c, pieces, count, 16, c->format == CORPUS_TEXT, true, arena, &rows, &err))
        fuzz_check_refusal(&err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    FuzzPart input = {data, bytes};
    uint8_t choice = fuzz_take_byte(&input);
    Arena *arena = arena_new("fuzz");
    Vocabulary vocabulary;
    Error err = {0};
    FUZZ_CHECK(vocabulary_open("byte", NULL, arena, &vocabulary, &err));
    Corpus corpus = {.arena = arena,
                     .vocabulary = &vocabulary,
                     .format = (CorpusFormat)(choice % 3),
                     .template = &chat_templates[choice / 3 % TEMPLATES],
                     .scores_all = choice & 128,
                     .ids = {.arena = arena}};
    if (corpus_add_file(&corpus, fuzz_file("text", input), &err))
        check(&corpus, arena);
    else
        fuzz_check_refusal(&err);
    fuzz_check_memory(arena, bytes, 256);
    vocabulary_close(&vocabulary);
    arena_free(arena);
    return 0;
}
