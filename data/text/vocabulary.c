#include "data/text/vocabulary.h"

#include <string.h>
#include <sys/stat.h>

#include "core/file.h"

static const char *const usual_ends[] = {"</s>",  "<|endoftext|>", "<|end_of_text|>",
                                         "<eos>", "<|im_end|>",    NULL};

static bool find_end(Vocabulary *v, const char *end, Error *err) {
    v->end = -1;
    for (int i = 0; !end && usual_ends[i] && v->end < 0; i++)
        v->end = tokenizer_find(v->tokenizer, usual_ends[i]);
    if (!end) return true;
    v->end = tokenizer_find(v->tokenizer, end);
    return v->end >= 0 || FAIL(err, ERROR_INPUT, "%s has no token '%s'", v->name, end) ||
           error_blame(err, "data.end_token");
}

bool vocabulary_open(const char *source, const char *end, Arena *arena, Vocabulary *out,
                     Error *err) {
    struct stat status;
    *out = (Vocabulary){.name = "byte", .size = VOCABULARY_BYTES_END + 1};
    out->end = VOCABULARY_BYTES_END;
    if (!source || !strcmp(source, "byte")) return true;
    bool is_directory = !stat(source, &status) && S_ISDIR(status.st_mode);
    out->name = is_directory ? arena_format(arena, "%s/tokenizer.json", source) : source;
    if (!tokenizer_open(file_resolve(out->name, arena), arena, &out->tokenizer, err))
        return error_blame(err, "data.tokenizer");
    out->size = tokenizer_size(out->tokenizer);
    return find_end(out, end, err);
}

void vocabulary_close(Vocabulary *vocabulary) {
    tokenizer_close(vocabulary->tokenizer);
    vocabulary->tokenizer = NULL;
}

void vocabulary_digest(const Vocabulary *v, char digest[ENVELOPE_DIGEST_TEXT]) {
    if (v->tokenizer)
        memcpy(digest, tokenizer_digest(v->tokenizer), ENVELOPE_DIGEST_TEXT);
    else
        envelope_digest(v->name, strlen(v->name), digest);
}

bool vocabulary_has(const Vocabulary *vocabulary, int32_t id) {
    if (vocabulary->tokenizer) return tokenizer_token(vocabulary->tokenizer, id).text != NULL;
    return id >= 0 && id < vocabulary->size;
}

bool vocabulary_encode(const Vocabulary *vocabulary, Span text, bool is_framed, TokenIds *out,
                       Error *err) {
    if (vocabulary->tokenizer)
        return tokenizer_encode(vocabulary->tokenizer, text, is_framed, out, err);
    for (int64_t i = 0; i < text.bytes; i++) token_ids_add(out, (unsigned char)text.text[i]);
    return true;
}

bool vocabulary_decode(const Vocabulary *vocabulary, const int32_t *ids, int64_t count,
                       Arena *arena, Span *out, Error *err) {
    if (vocabulary->tokenizer)
        return tokenizer_decode(vocabulary->tokenizer, ids, count, true, arena, out, err);
    char *text = arena_alloc(arena, (size_t)count + 1);
    int64_t bytes = 0;
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < VOCABULARY_BYTES_END) text[bytes++] = (char)ids[i];
    text[bytes] = '\0';
    *out = (Span){text, bytes};
    return true;
}
