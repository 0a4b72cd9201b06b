#include "data/text/tokenizer.h"

#include <string.h>

#include "core/file.h"
#include "data/envelope.h"

enum { FRAME_MAX = 64 };

struct Tokenizer {
    const char *path;
    Arena *scratch; /* of one text */
    Arena *merging; /* of one word */
    Bpe *bpe;
    AddedTokens added;
    Steps normalizer, pre_tokenizer, decoder;
    int32_t before[FRAME_MAX], after[FRAME_MAX]; /* ids that the template puts around */
    int before_count, after_count;
    int32_t size;
    char digest[ENVELOPE_DIGEST_TEXT];
};

/* ---- The template ---- */

typedef struct Reading {
    Tokenizer *t;
    Error *err;
    const Json *specials;
    const char *wanted;
    bool is_behind; /* the text was met */
} Reading;

static bool keep_ids(void *context, const JsonMember *member) {
    Reading *r = context;
    Tokenizer *t = r->t;
    int32_t *ids = r->is_behind ? t->after : t->before;
    int *count = r->is_behind ? &t->after_count : &t->before_count;
    if (member->type != JSON_INT || member->integer < 0 || member->integer >= BPE_TOKENS_MAX)
        return FAIL(r->err, ERROR_INPUT, "'%s' has an id that is none", r->wanted);
    if (*count == FRAME_MAX) return FAIL(r->err, ERROR_INPUT, "more than %d tokens", FRAME_MAX);
    ids[(*count)++] = (int32_t)member->integer;
    return true;
}

/* Names of special tokens may hold dots, so they are no paths. */
static bool find_special(void *context, const JsonMember *member) {
    Reading *r = context;
    if (strcmp(member->name, r->wanted)) return true;
    bool is_there = member->type == JSON_MEMBERS && json_count(member->inside, "ids") > 0 &&
                    json_each_element(member->inside, "ids", keep_ids, r);
    if (is_there) r->wanted = NULL;
    return false;
}

static bool read_piece(void *context, const JsonMember *member) {
    Reading *r = context;
    const Json *piece = member->inside;
    const char *special = piece ? json_get_text(piece, "SpecialToken.id") : NULL;
    if (special) {
        r->wanted = special;
        json_each_member(r->specials, "", find_special, r);
        return !r->wanted || FAIL(r->err, ERROR_INPUT, "special_tokens has no '%s'", special);
    }
    if (!piece || json_type_at(piece, "Sequence") != JSON_MEMBERS || r->is_behind)
        return FAIL(r->err, ERROR_INPUT, "single: must be special tokens around one Sequence");
    r->is_behind = true;
    return true;
}

static bool read_list(Reading *r, const Json *json, const char *name, JsonVisit visit) {
    return json_type_at(json, name) == JSON_LIST
               ? json_each_element(json, name, visit, r)
               : FAIL(r->err, ERROR_INPUT, "%s: must be a list", name);
}

static bool read_processor(void *context, const JsonMember *member) {
    Reading *r = context;
    const char *type = member->inside ? json_get_text(member->inside, "type") : NULL;
    if (!type) return FAIL(r->err, ERROR_INPUT, "has no 'type'");
    if (!strcmp(type, "Sequence"))
        return read_list(r, member->inside, "processors", read_processor);
    if (!strcmp(type, "ByteLevel")) return true; /* moves offsets, no ids */
    if (strcmp(type, "TemplateProcessing"))
        return FAIL(r->err, ERROR_INPUT, "nibble does not know the type '%s'", type);
    if (r->is_behind) return FAIL(r->err, ERROR_INPUT, "more than one template");
    TRY(step_section(member->inside, "special_tokens", &r->specials, r->err));
    TRY(read_list(r, member->inside, "single", read_piece));
    return r->is_behind || FAIL(r->err, ERROR_INPUT, "single: names no Sequence");
}

/* ---- The sections of the file ---- */

static bool read_model(Tokenizer *t, const Json *json, Arena *arena, Error *err) {
    const Json *model;
    TRY(step_section(json, "model", &model, err));
    bool is_read = model ? bpe_read(model, arena, &t->bpe, err)
                         : FAIL(err, ERROR_INPUT, "is missing; is this a tokenizer.json?");
    if (!is_read) error_prefix(err, "model");
    return is_read;
}

static bool read_template(Tokenizer *t, const Json *json, Error *err) {
    Reading r = {.t = t, .err = err};
    JsonMember member = {.name = ""};
    TRY(step_section(json, "post_processor", &member.inside, err));
    bool is_read = !member.inside || read_processor(&r, &member);
    if (!is_read) error_prefix(err, "post_processor");
    return is_read;
}

static void find_size(Tokenizer *t) {
    t->size = bpe_size(t->bpe);
    for (int i = 0; i < t->added.count; i++)
        if (t->added.items[i].id >= t->size) t->size = t->added.items[i].id + 1;
}

static bool read_all(Tokenizer *t, const Json *json, Arena *arena, Error *err) {
    TRY(read_model(t, json, arena, err));
    TRY(steps_read(json, "normalizer", "normalizers", normalizer_rows, arena, &t->normalizer, err));
    TRY(steps_read(json, "pre_tokenizer", "pretokenizers", pre_tokenizer_rows, arena,
                   &t->pre_tokenizer, err));
    TRY(steps_read(json, "decoder", "decoders", decoder_rows, arena, &t->decoder, err));
    TRY(added_tokens_read(json, t->bpe, &t->normalizer, arena, &t->added, err));
    find_size(t);
    return read_template(t, json, err);
}

/* A frame of ids that are no tokens would come out of every text. */
static bool check_frame(const Tokenizer *t, const int32_t *ids, int count, Error *err) {
    for (int i = 0; i < count; i++)
        if (!tokenizer_token(t, ids[i]).text)
            return FAIL(err, ERROR_INPUT, "post_processor: no token has the id %d", (int)ids[i]);
    return true;
}

bool tokenizer_read(const char *text, size_t bytes, const char *name, Arena *arena, Tokenizer **out,
                    Error *err) {
    Tokenizer *t = *out = arena_new_array(arena, Tokenizer, 1);
    t->path = arena_strdup(arena, name);
    envelope_digest(text, bytes, t->digest);
    t->scratch = arena_new("text to tokens");
    t->merging = arena_new("word to tokens");
    Json *json = json_read_text(text, bytes, name, err);
    if (!json) return false;
    bool is_read = read_all(t, json, arena, err) &&
                   check_frame(t, t->before, t->before_count, err) &&
                   check_frame(t, t->after, t->after_count, err);
    json_free(json);
    if (!is_read) error_prefix(err, "%s", name);
    return is_read;
}

bool tokenizer_open(const char *path, Arena *arena, Tokenizer **out, Error *err) {
    Arena *file = arena_new("tokenizer.json");
    size_t bytes;
    *out = NULL;
    const char *text = file_read(path, JSON_BYTES_MAX, file, &bytes, err);
    bool is_read = text && tokenizer_read(text, bytes, path, arena, out, err);
    arena_free(file);
    return is_read;
}

void tokenizer_close(Tokenizer *t) {
    if (!t) return;
    steps_close(&t->normalizer);
    steps_close(&t->pre_tokenizer);
    steps_close(&t->decoder);
    arena_free(t->scratch);
    arena_free(t->merging);
}

/* ---- Encoding ---- */

static void add_ids(TokenIds *out, const int32_t *ids, int count) {
    for (int i = 0; i < count; i++) token_ids_add(out, ids[i]);
}

static int64_t bytes_of(const Spans *words) {
    int64_t bytes = 0;
    for (int64_t i = 0; i < words->count; i++) bytes += words->items[i].bytes;
    return bytes;
}

/* Text without added tokens. */
static bool encode_words(Tokenizer *t, Span text, bool begins, TokenIds *out, Error *err) {
    Spans words = {.arena = t->scratch};
    spans_add(&words, text);
    for (int i = 0; i < t->pre_tokenizer.count; i++) {
        const Step *step = &t->pre_tokenizer.items[i];
        Spans parts = {.arena = t->scratch};
        for (int64_t j = 0; j < words.count; j++)
            TRY(step->row->split(step, words.items[j], begins && j == 0, &parts, err));
        words = parts;
        TRY(step_check_growth(text.bytes, bytes_of(&words), err));
    }
    for (int64_t i = 0; i < words.count; i++) bpe_encode(t->bpe, words.items[i], t->merging, out);
    return true;
}

/* Text without the added tokens that are looked for raw. */
static bool encode_text(Tokenizer *t, Span text, bool begins, TokenIds *out, Error *err) {
    int64_t given = text.bytes;
    for (int i = 0; i < t->normalizer.count; i++) {
        const Step *step = &t->normalizer.items[i];
        TRY(step->row->normalize(step, &text, t->scratch, err));
        TRY(step_check_growth(given, text.bytes, err));
    }
    AddedParts parts = {.arena = t->scratch};
    added_tokens_split(&t->added, text, true, &parts);
    for (int64_t i = 0; i < parts.count; i++) {
        const AddedPart *part = &parts.items[i];
        if (part->id >= 0)
            token_ids_add(out, part->id);
        else
            TRY(encode_words(t, part->text, begins && part->begins, out, err));
    }
    return true;
}

bool tokenizer_encode(Tokenizer *t, Span text, bool is_framed, TokenIds *out, Error *err) {
    if (text.bytes > TOKENIZER_TEXT_MAX)
        return FAIL(err, ERROR_INPUT, "a text of %ld bytes is too long for one piece (at most %d)",
                    (long)text.bytes, TOKENIZER_TEXT_MAX);
    int64_t fault = unicode_find_fault(text);
    if (fault >= 0)
        return FAIL(err, ERROR_INPUT, "byte %ld (0x%02x) is not UTF-8; convert the text first",
                    (long)fault, (unsigned)(unsigned char)text.text[fault]);
    arena_reset(t->scratch);
    if (is_framed) add_ids(out, t->before, t->before_count);
    AddedParts parts = {.arena = t->scratch};
    added_tokens_split(&t->added, text, false, &parts);
    for (int64_t i = 0; i < parts.count; i++) {
        const AddedPart *part = &parts.items[i];
        if (part->id >= 0)
            token_ids_add(out, part->id);
        else
            TRY(encode_text(t, part->text, part->begins, out, err));
    }
    if (is_framed) add_ids(out, t->after, t->after_count);
    return true;
}

/* ---- Decoding ---- */

Span tokenizer_token(const Tokenizer *t, int32_t id) {
    const AddedToken *added = added_tokens_find(&t->added, id);
    return added ? added->text : bpe_token(t->bpe, id);
}

bool tokenizer_is_special(const Tokenizer *t, int32_t id) {
    const AddedToken *added = added_tokens_find(&t->added, id);
    return added && added->is_special;
}

int32_t tokenizer_find(const Tokenizer *t, const char *token) {
    Span wanted = {token, (int64_t)strlen(token)};
    for (int i = 0; i < t->added.count; i++) {
        Span name = t->added.items[i].name;
        if (name.bytes == wanted.bytes && !memcmp(name.text, token, (size_t)name.bytes))
            return t->added.items[i].id;
    }
    return bpe_find(t->bpe, wanted);
}

int32_t tokenizer_size(const Tokenizer *t) {
    return t->size;
}

const char *tokenizer_digest(const Tokenizer *t) {
    return t->digest;
}

bool tokenizer_decode(Tokenizer *t, const int32_t *ids, int64_t count, bool with_special,
                      Arena *arena, Span *out, Error *err) {
    Spans tokens = {.arena = arena};
    for (int64_t i = 0; i < count; i++) {
        Span token = tokenizer_token(t, ids[i]);
        if (!token.text)
            return FAIL(err, ERROR_INPUT, "%s: no token has the id %d", t->path, (int)ids[i]);
        if (with_special || !tokenizer_is_special(t, ids[i])) spans_add(&tokens, token);
    }
    int64_t bytes = bytes_of(&tokens), given = bytes;
    for (int i = 0; i < t->decoder.count; i++) {
        const Step *step = &t->decoder.items[i];
        TRY(step->row->decode(step, &tokens, err));
        bytes = bytes_of(&tokens);
        TRY(step_check_growth(given, bytes, err));
    }
    char *text = arena_alloc(arena, (size_t)bytes + 1), *at = text;
    for (int64_t i = 0; i < tokens.count; i++) {
        memcpy(at, tokens.items[i].text, (size_t)tokens.items[i].bytes);
        at += tokens.items[i].bytes;
    }
    *at = '\0';
    *out = (Span){text, bytes};
    return true;
}
