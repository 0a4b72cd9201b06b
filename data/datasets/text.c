/* Text for language models: files of documents (data/text/corpus.h), in rows of one length
 * (data/text/pack.h). A row has `tokens` and `starts` as floats, which networks read, and `labels`.
 *
 * Which documents are for validation and test depends on the settings alone, not on the run's seed:
 * of three or more documents whole ones are, by a permutation; of fewer, the end of each. */
#include <math.h>
#include <string.h>

#include "core/counts.h"
#include "core/random.h"
#include "data/datasets/text.h"
#include "data/loader.h"
#include "data/text/pack.h"

static const char *const formats[] = {"text", "prompts", "chat", NULL}; /* CorpusFormat */
static const char *const scored[] = {"answer", "all", NULL};
enum { SCORE_ANSWER, SCORE_ALL };

static const Field text_fields[] = {
    LOADER_INT_(TextConfig, batch, "8", 1, 65536, "rows per training step"),
    LOADER_INT_(TextConfig, eval_batch, "8", 1, 65536, "rows per step of an evaluation"),
    {.name = "validation",
     .type = FIELD_TYPE_FLOAT,
     .offset = offsetof(TextConfig, loader.validation),
     .fallback = "0.05",
     .min = 0,
     .max = 1e9,
     .help = "documents kept aside for choosing the best checkpoint; below 1: a share"},
    FIELD_FLOAT(TextConfig, test, "0.05", 0, 1e9,
                "documents kept aside for the test; below 1: a share; unused with test_path"),
    LOADER_PREFETCH(TextConfig),
    LOADER_CHANGED(TextConfig, "text"),
    FIELD_STRING(TextConfig, path, "", "a file of UTF-8, or a directory of such files",
                 .may_change = true, .is_path = true),
    {.name = "paths",
     .type = FIELD_TYPE_LIST,
     .offset = offsetof(TextConfig, paths),
     .fallback = "[]",
     .element = FIELD_TYPE_STRING,
     .help = "further files or directories",
     .may_change = true,
     .is_path = true},
    FIELD_STRING(TextConfig, test_path, "",
                 "a file or directory for the test; \"\": a part of the rest", .may_change = true,
                 .is_path = true),
    FIELD_STRING(TextConfig, sample, "", "the text itself, instead of files: for trials"),
    FIELD_CHOICE(TextConfig, format, "text", formats,
                 "text: a file is a document; of JSON Lines, a line is one: prompts: {\"prompt\": "
                 "\"...\", \"completion\": \"...\"}; chat: {\"messages\": [{\"role\": \"user\", "
                 "\"content\": \"...\"}, ...]}"),
    FIELD_CHOICE(TextConfig, template, "plain", chat_template_names,
                 "what is put around prompts, answers and messages"),
    FIELD_CHOICE(TextConfig, score, "answer", scored,
                 "what is learned of prompts and chats: answers, or all"),
    FIELD_STRING(TextConfig, tokenizer, "byte",
                 "byte: 256 bytes and an end; else a tokenizer.json, or a directory with one",
                 .may_change = true),
    FIELD_STRING(TextConfig, end_token, "",
                 "the token that ends a document; \"\": the tokenizer's, if it is a usual one"),
    FIELD_INT(TextConfig, vocabulary, "0", 0, DATASET_TOKENS_MAX,
              "tokens that the network knows; 0: as many as the tokenizer has"),
    FIELD_INT(TextConfig, length, "256", 2, DATASET_SIDE_MAX, "tokens in a row"),
    FIELD_BOOL(TextConfig, pack, "true",
               "rows are shared by documents, which do not see each other"),
    FIELD_END,
};

bool text_vocabulary_open(const TextConfig *c, Arena *arena, Vocabulary *out, Error *err) {
    TRY(vocabulary_open(c->tokenizer, c->end_token, arena, out, err));
    if (c->vocabulary && out->size > c->vocabulary)
        return FAIL(err, ERROR_INPUT,
                    "%s has ids up to %d, but data.vocabulary says that the network knows %ld: it "
                    "is another network's tokenizer",
                    out->name, (int)out->size - 1, (long)c->vocabulary) ||
               error_blame(err, "data.vocabulary");
    return chat_check(&chat_templates[c->template], out, err);
}

/* ---- Which documents ---- */

typedef enum Part { PART_TRAIN, PART_VALIDATION, PART_TEST, PART_COUNT } Part;

typedef struct Pieces {
    TextPiece *items[PART_COUNT];
    int64_t count[PART_COUNT];
} Pieces;

static void add_piece(Pieces *pieces, Part part, const Document *d, int64_t first, int64_t end) {
    if (end - first >= 2)
        pieces->items[part][pieces->count[part]++] = (TextPiece){d->first + first, end - first, d};
}

static int64_t share_of(double setting, int64_t count) {
    if (setting >= 1) return (int64_t)setting;
    int64_t share = llround(setting * (double)count);
    return setting > 0 ? count_most(share, 1) : 0;
}

static bool choose_documents(const Corpus *corpus, double validation, double test, Pieces *out,
                             Error *err) {
    int64_t count = corpus->count, kept = share_of(validation, count);
    int64_t tests = share_of(test, count);
    if (kept + tests >= count)
        return FAIL(err, ERROR_INPUT,
                    "of %ld documents %ld are for validation and %ld for the test: none is left to "
                    "learn from",
                    (long)count, (long)kept, (long)tests) ||
               error_blame(err, "data.validation");
    uint32_t *order = arena_new_array(corpus->arena, uint32_t, count);
    uint8_t *parts = arena_new_array(corpus->arena, uint8_t, count);
    random_permutation((RandomKey){0, RANDOM_SPLIT, 0}, count, order);
    for (int64_t i = 0; i < kept + tests; i++)
        parts[order[i]] = i < tests ? PART_TEST : PART_VALIDATION;
    for (int64_t i = 0; i < count; i++) {
        const Document *d = &corpus->documents[i];
        add_piece(out, (Part)parts[i], d, 0, d->count);
    }
    return true;
}

static bool cut_documents(const Corpus *corpus, double validation, double test, Pieces *out,
                          Error *err) {
    if (validation >= 1 || test >= 1 || validation + test >= 1)
        return FAIL(err, ERROR_INPUT,
                    "there are %ld documents: data.validation and data.test must be shares, "
                    "together below 1",
                    (long)corpus->count) ||
               error_blame(err, "data.validation");
    for (int64_t i = 0; i < corpus->count; i++) {
        const Document *d = &corpus->documents[i];
        int64_t tests = llround(test * (double)d->count);
        int64_t kept = llround(validation * (double)d->count);
        int64_t learned = d->count - tests - kept;
        add_piece(out, PART_TRAIN, d, 0, learned);
        add_piece(out, PART_VALIDATION, d, learned, learned + kept);
        add_piece(out, PART_TEST, d, learned + kept, d->count);
    }
    return true;
}

static Pieces pieces_new(const Corpus *corpus, Arena *arena) {
    Pieces pieces = {0};
    for (int i = 0; i < PART_COUNT; i++)
        pieces.items[i] = arena_new_array(arena, TextPiece, corpus->count);
    return pieces;
}

static bool choose(const TextConfig *c, const Corpus *corpus, Pieces *out, Error *err) {
    bool cuts = c->format == CORPUS_TEXT && corpus->count < 3;
    *out = pieces_new(corpus, corpus->arena);
    return (cuts ? cut_documents : choose_documents)(corpus, c->loader.validation,
                                                     c->test_path ? 0 : c->test, out, err);
}

/* ---- Opening ---- */

static bool read_corpus(const TextConfig *c, Corpus *corpus, Error *err) {
    const char *const *paths = c->paths.items;
    if (c->sample)
        return corpus_add_text(corpus, (Span){c->sample, (int64_t)strlen(c->sample)}, "data.sample",
                               err);
    if (!c->path && !c->paths.count)
        return FAIL(err, ERROR_INPUT, "data.path is empty; it says where the text lies");
    if (c->path) TRY(corpus_add_path(corpus, c->path, err));
    for (int i = 0; i < c->paths.count; i++) TRY(corpus_add_path(corpus, paths[i], err));
    return true;
}

static bool pack(const TextConfig *c, const Corpus *corpus, const Pieces *pieces, Part part,
                 Arena *arena, PackedRows *out, Error *err) {
    return pack_rows(corpus, pieces->items[part], pieces->count[part], c->length,
                     c->format == CORPUS_TEXT, c->pack, arena, out, err);
}

static DatasetPart part_of(const PackedRows *rows) {
    return (DatasetPart){.count = rows->rows,
                         .pixels = rows->tokens,
                         .labels = rows->labels,
                         .labels_each = 2 * rows->length};
}

/* Training rows and behind them those of validation. */
static bool pack_train(const TextConfig *c, const Corpus *corpus, const Pieces *pieces,
                       Arena *arena, Dataset *out, Error *err) {
    PackedRows parts[2];
    for (int i = 0; i < 2; i++)
        TRY(pack(c, corpus, pieces, (Part)i, corpus->arena, &parts[i], err));
    PackedRows all = {.rows = parts[0].rows + parts[1].rows, .length = c->length};
    int64_t positions = all.rows * c->length, at = 0;
    all.tokens = arena_new_array(arena, int32_t, positions);
    all.labels = arena_new_array(arena, int32_t, 2 * positions);
    all.starts = all.labels + positions;
    for (int i = 0; i < 2; i++) {
        int64_t count = parts[i].rows * c->length;
        size_t bytes = sizeof(int32_t) * (size_t)count;
        memcpy(all.tokens + at, parts[i].tokens, bytes);
        memcpy(all.labels + at, parts[i].labels, bytes);
        memcpy(all.starts + at, parts[i].starts, bytes);
        at += count;
    }
    out->kept = parts[1].rows;
    out->train = part_of(&all);
    return true;
}

static bool pack_test(const TextConfig *c, Corpus *corpus, Pieces *pieces, Arena *arena,
                      Dataset *out, Error *err) {
    PackedRows rows;
    if (c->test_path) {
        int64_t first = corpus->count;
        TRY(corpus_add_path(corpus, c->test_path, err));
        *pieces = pieces_new(corpus, corpus->arena);
        for (int64_t i = first; i < corpus->count; i++)
            add_piece(pieces, PART_TEST, &corpus->documents[i], 0, corpus->documents[i].count);
    }
    TRY(pack(c, corpus, pieces, PART_TEST, arena, &rows, err));
    out->test = part_of(&rows);
    return true;
}

static const char *describe(const Dataset *d, const Corpus *corpus, Arena *arena) {
    int64_t scored_labels = 0, positions = d->train.count * d->height;
    for (int64_t i = 0; i < positions; i++) scored_labels += d->train.labels[i] >= 0;
    if (!d->train.count)
        return arena_format(arena, "data: %ld test rows of %ld tokens; vocabulary of %ld",
                            (long)d->test.count, (long)d->height, (long)d->class_count);
    return arena_format(
        arena,
        "data: %ld documents, %ld tokens by %s (vocabulary of %ld); rows of %ld tokens: %ld for "
        "training, %ld for validation, %ld for the test; of the first two %.0f%% is learned",
        (long)corpus->count, (long)corpus->ids.count, corpus->vocabulary->name,
        (long)d->class_count, (long)d->height, (long)(d->train.count - d->kept), (long)d->kept,
        (long)d->test.count, positions ? 100.0 * (double)scored_labels / (double)positions : 0);
}

static bool read_all(const TextConfig *c, DatasetParts parts, Corpus *corpus, Arena *arena,
                     Dataset *out, Error *err) {
    Pieces pieces = {0};
    bool needs_rest = parts == DATASET_BOTH || !c->test_path;
    TRY(!needs_rest || (read_corpus(c, corpus, err) && choose(c, corpus, &pieces, err)));
    TRY(parts == DATASET_TEST || pack_train(c, corpus, &pieces, arena, out, err));
    TRY(pack_test(c, corpus, &pieces, arena, out, err));
    out->description = describe(out, corpus, arena);
    return true;
}

static void name_tokenizer(const Vocabulary *vocabulary, Arena *arena, Dataset *out) {
    char digest[ENVELOPE_DIGEST_TEXT];
    vocabulary_digest(vocabulary, digest);
    out->tokenizer = arena_strdup(arena, vocabulary->name);
    out->tokenizer_digest = arena_strdup(arena, digest);
}

static bool text_open(const void *settings, DatasetParts parts, Arena *arena, Dataset *out,
                      Error *err) {
    const TextConfig *c = settings;
    Vocabulary vocabulary;
    Corpus corpus = {.arena = arena_new("text"), /* what rows are packed from */
                     .vocabulary = &vocabulary,
                     .format = (CorpusFormat)c->format,
                     .template = &chat_templates[c->template],
                     .scores_all = c->score == SCORE_ALL};
    corpus.ids.arena = corpus.arena;
    *out = (Dataset){.height = c->length,
                     .width = 1,
                     .channels = 1,
                     .has_kept = true,
                     .pixel_type = PIXEL_TOKENS};
    bool ok = text_vocabulary_open(c, corpus.arena, &vocabulary, err);
    out->class_count = count_most(vocabulary.size, c->vocabulary);
    if (ok) name_tokenizer(&vocabulary, arena, out);
    ok = ok && read_all(c, parts, &corpus, arena, out, err);
    vocabulary_close(&vocabulary);
    arena_free(corpus.arena);
    return ok;
}

/* ---- Rows ---- */

static void row_write(const void *context, RowKey key, int64_t at, void *const arrays[]) {
    const Dataset *d = context;
    const DatasetPart *part = key.is_test ? &d->test : &d->train;
    int64_t length = d->height, first = key.row * length;
    const int32_t *tokens = (const int32_t *)part->pixels + first, *labels = part->labels + first;
    const int32_t *starts = labels + part->count * length;
    float *token_out = (float *)arrays[TEXT_TOKENS] + at * length;
    float *start_out = (float *)arrays[TEXT_STARTS] + at * length;
    memcpy((int32_t *)arrays[TEXT_LABELS] + at * length, labels, sizeof *labels * (size_t)length);
    for (int64_t i = 0; i < length; i++) {
        token_out[i] = (float)tokens[i];
        start_out[i] = (float)starts[i];
    }
}

static Rows text_rows(const Dataset *dataset, const LoaderConfig *config, uint64_t seed,
                      Arena *arena) {
    static const float zero, one = 1;
    Shape row = SHAPE(dataset->height);
    (void)config, (void)seed, (void)arena;
    return (Rows){.column_count = TEXT_COLUMNS,
                  .columns = {[TEXT_TOKENS] = {"tokens", ELEMENT_F32, row},
                              [TEXT_LABELS] = {"labels", ELEMENT_I32, row},
                              [TEXT_STARTS] = {"starts", ELEMENT_F32, row}},
                  .write = row_write,
                  .mean = &zero,
                  .deviation = &one,
                  .context = (void *)(uintptr_t)dataset};
}

const DatasetKind dataset_text = {
    .kind = {"text", "documents, prompts or chats for language models", sizeof(TextConfig),
             text_fields},
    .open = text_open,
    .rows = text_rows,
    .finds_paths = true,
};
