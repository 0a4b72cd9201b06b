#include "data/text/added_tokens.h"

#include <stdlib.h>
#include <string.h>

enum { ADDED_MAX = 1 << 16 };

/* ---- Reading ---- */

typedef struct Reading {
    AddedTokens *tokens;
    const Bpe *bpe;
    const Steps *normalizer;
    Arena *arena;
    Error *err;
} Reading;

static bool read_flags(const Json *json, AddedToken *token, Error *err) {
    return step_flag(json, "special", &token->is_special, err) &&
           step_flag(json, "single_word", &token->is_word, err) &&
           step_flag(json, "lstrip", &token->strips_left, err) &&
           step_flag(json, "rstrip", &token->strips_right, err) &&
           step_flag(json, "normalized", &token->is_normalized, err);
}

static bool read_token(Reading *r, const JsonMember *member, AddedToken *token) {
    int64_t id;
    if (member->type != JSON_MEMBERS) return FAIL(r->err, ERROR_INPUT, "is no object");
    if (!json_get_int(member->inside, "id", &id) || id < 0 || id >= BPE_TOKENS_MAX)
        return FAIL(r->err, ERROR_INPUT, "'id' must be 0 to %d", BPE_TOKENS_MAX - 1);
    TRY(step_text(member->inside, "content", &token->name, r->arena, r->err));
    TRY(read_flags(member->inside, token, r->err));
    token->id = (int32_t)id;
    token->text = token->name;
    Span other = bpe_token(r->bpe, token->id);
    bool is_other = other.text && (other.bytes != token->name.bytes ||
                                   memcmp(other.text, token->name.text, (size_t)other.bytes));
    if (is_other)
        return FAIL(r->err, ERROR_INPUT, "'%.40s' has the id %d, which the vocab gives to '%.40s'",
                    token->name.text, (int)token->id, other.text);
    for (int i = 0; token->is_normalized && i < r->normalizer->count; i++) {
        const Step *step = &r->normalizer->items[i];
        TRY(step->row->normalize(step, &token->text, r->arena, r->err));
        TRY(step_check_growth(token->name.bytes, token->text.bytes, r->err));
    }
    return true;
}

static bool add_token(void *context, const JsonMember *member) {
    Reading *r = context;
    AddedToken token = {0};
    if (r->tokens->count == ADDED_MAX)
        return FAIL(r->err, ERROR_INPUT, "added_tokens: more than %d", ADDED_MAX);
    if (!read_token(r, member, &token)) {
        error_prefix(r->err, "added_tokens.%d", r->tokens->count);
        return false;
    }
    r->tokens->items[r->tokens->count++] = token;
    return true;
}

static int compare_text(const AddedToken *a, const AddedToken *b) {
    int64_t shorter = a->text.bytes < b->text.bytes ? a->text.bytes : b->text.bytes;
    int order = memcmp(a->text.text, b->text.text, (size_t)shorter);
    return order ? order : (a->text.bytes > b->text.bytes) - (a->text.bytes < b->text.bytes);
}

static int compare(const void *a, const void *b) {
    const AddedToken *m = a, *n = b;
    if (m->is_normalized != n->is_normalized) return m->is_normalized ? 1 : -1;
    return compare_text(m, n);
}

/* Of equal ids the first in the list. */
static int compare_ids(const void *a, const void *b) {
    const AddedToken *m = *(const AddedToken *const *)a, *n = *(const AddedToken *const *)b;
    return m->id != n->id ? (m->id > n->id) - (m->id < n->id) : (m > n) - (m < n);
}

static void sort_ids(AddedTokens *tokens, Arena *arena) {
    const AddedToken **by_id = arena_new_array(arena, const AddedToken *, tokens->count + 1);
    for (int i = 0; i < tokens->count; i++) by_id[i] = &tokens->items[i];
    qsort(by_id, (size_t)tokens->count, sizeof *by_id, compare_ids);
    for (int i = 0; i < tokens->count; i++)
        if (!i || by_id[i]->id != by_id[i - 1]->id) by_id[tokens->id_count++] = by_id[i];
    tokens->by_id = by_id;
}

bool added_tokens_read(const Json *json, const Bpe *bpe, const Steps *normalizer, Arena *arena,
                       AddedTokens *out, Error *err) {
    int count = json_count(json, "added_tokens");
    if (json_has(json, "added_tokens") && json_type_at(json, "added_tokens") != JSON_LIST)
        return FAIL(err, ERROR_INPUT, "added_tokens: must be a list");
    *out = (AddedTokens){.items = arena_new_array(arena, AddedToken, count + 1)};
    Reading r = {out, bpe, normalizer, arena, err};
    TRY(json_each_element(json, "added_tokens", add_token, &r));
    qsort(out->items, (size_t)out->count, sizeof *out->items, compare);
    sort_ids(out, arena);
    while (out->raw_count < out->count && !out->items[out->raw_count].is_normalized)
        out->raw_count++;
    return true;
}

static int find_id(const void *id, const void *token) {
    int32_t wanted = *(const int32_t *)id, found = (*(const AddedToken *const *)token)->id;
    return (wanted > found) - (wanted < found);
}

const AddedToken *added_tokens_find(const AddedTokens *tokens, int32_t id) {
    if (!tokens->id_count) return NULL; /* an array of none has no address */
    const AddedToken *const *found =
        bsearch(&id, tokens->by_id, (size_t)tokens->id_count, sizeof *tokens->by_id, find_id);
    return found ? *found : NULL;
}

/* ---- Looking for them ---- */

/* Of tokens that are the same before `depth`: the first whose byte there is `byte` or more. */
static const AddedToken *first_from(const AddedToken *low, const AddedToken *high, int64_t depth,
                                    int byte) {
    while (low < high) {
        const AddedToken *middle = low + (high - low) / 2;
        bool is_before =
            middle->text.bytes <= depth || (unsigned char)middle->text.text[depth] < byte;
        if (is_before)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest token that begins at `at`. Tokens are sorted, so those that begin like the text
 * narrow down byte by byte. */
static const AddedToken *longest_at(const AddedToken *items, int count, Span text, int64_t at) {
    const AddedToken *found = NULL, *low = items, *high = items + count;
    for (int64_t depth = 0; low < high && at + depth < text.bytes; depth++) {
        unsigned char byte = (unsigned char)text.text[at + depth];
        low = first_from(low, high, depth, byte);
        high = first_from(low, high, depth, byte + 1);
        if (low < high && low->text.bytes == depth + 1) found = low;
    }
    return found;
}

static bool is_in_word(Span text, int64_t start, int64_t end) {
    int64_t bytes;
    if (start > 0 && unicode_is_word(unicode_at(text, unicode_before(text, start), &bytes)))
        return true;
    return end < text.bytes && unicode_is_word(unicode_at(text, end, &bytes));
}

static void add_part(AddedParts *parts, Span text, int64_t start, int64_t end, int32_t id) {
    if (start >= end) return;
    if (parts->count == parts->capacity) {
        int64_t capacity = 2 * parts->capacity + 16;
        AddedPart *items = arena_alloc(parts->arena, checked_mul(sizeof *items, (size_t)capacity));
        if (parts->count) memcpy(items, parts->items, sizeof *items * (size_t)parts->count);
        parts->items = items;
        parts->capacity = capacity;
    }
    parts->items[parts->count++] = (AddedPart){{text.text + start, end - start}, id, start == 0};
}

/* Spaces beside the token that belong to it. */
static void widen(const AddedToken *token, Span text, int64_t done, int64_t *start, int64_t *end) {
    int64_t bytes;
    while (token->strips_left && *start > done) {
        int64_t before = unicode_before(text, *start);
        if (!unicode_is_space(unicode_at(text, before, &bytes))) break;
        *start = before;
    }
    while (token->strips_right && *end < text.bytes &&
           unicode_is_space(unicode_at(text, *end, &bytes)))
        *end += bytes;
}

void added_tokens_split(const AddedTokens *tokens, Span text, bool is_normalized, AddedParts *out) {
    const AddedToken *items = tokens->items + (is_normalized ? tokens->raw_count : 0);
    int count = is_normalized ? tokens->count - tokens->raw_count : tokens->raw_count;
    bool begins[256] = {0};
    for (int i = 0; i < count; i++)
        if (items[i].text.bytes) begins[(unsigned char)items[i].text.text[0]] = true;
    int64_t done = 0;
    out->count = 0;
    for (int64_t at = 0; at < text.bytes;) {
        const AddedToken *token =
            begins[(unsigned char)text.text[at]] ? longest_at(items, count, text, at) : NULL;
        if (!token) {
            at++;
            continue;
        }
        int64_t start = at, end = at + token->text.bytes;
        at = end; /* a match that does not count hides others all the same */
        if (token->is_word && is_in_word(text, start, end)) continue;
        widen(token, text, done, &start, &end);
        add_part(out, text, done, start, -1);
        add_part(out, text, start, end, token->id);
        done = at = end;
    }
    add_part(out, text, done, text.bytes, -1);
}
