#include "data/text/bpe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { UNUSED_MAX = 1 << 16 }; /* ids without a token, besides as many as have one */

typedef struct Token {
    Span text;
    int32_t id;
} Token;

typedef struct Merge {
    int32_t left, right;
    int32_t rank; /* the lower, the sooner */
    int32_t id;   /* of what the two become */
} Merge;

struct Bpe {
    Arena *arena;
    Token *tokens; /* [token_count], by their bytes */
    Span *by_id;   /* [size] */
    Merge *merges; /* [merge_count], by the pair */
    int32_t token_count, token_capacity, size, merge_count;
    int32_t unknown;    /* -1: none */
    int32_t bytes[256]; /* "<0x00>" and on; -1: none */
    bool fuses_unknown, has_fallback, takes_whole;
};

void token_ids_add(TokenIds *ids, int32_t id) {
    if (ids->count == ids->capacity) {
        int64_t capacity = 2 * ids->capacity + 64;
        int32_t *items = arena_alloc(ids->arena, checked_mul(sizeof *items, (size_t)capacity));
        if (ids->count) memcpy(items, ids->items, sizeof *items * (size_t)ids->count);
        ids->items = items;
        ids->capacity = capacity;
    }
    ids->items[ids->count++] = id;
}

/* ---- Finding: sorted tables, which no choice of tokens makes slow ---- */

static int compare_spans(Span a, Span b) {
    int order = memcmp(a.text, b.text, (size_t)(a.bytes < b.bytes ? a.bytes : b.bytes));
    return order ? order : (a.bytes > b.bytes) - (a.bytes < b.bytes);
}

static int compare_tokens(const void *a, const void *b) {
    return compare_spans(((const Token *)a)->text, ((const Token *)b)->text);
}

static int compare_pairs(const void *a, const void *b) {
    const Merge *m = a, *n = b;
    if (m->left != n->left) return m->left < n->left ? -1 : 1;
    return (m->right > n->right) - (m->right < n->right);
}

/* Of equal pairs the last counts, as in a table that is filled in order. */
static int compare_merges(const void *a, const void *b) {
    const Merge *m = a, *n = b;
    int order = compare_pairs(a, b);
    return order ? order : (m->rank < n->rank) - (m->rank > n->rank);
}

int32_t bpe_find(const Bpe *bpe, Span token) {
    Token wanted = {.text = token};
    const Token *found =
        bsearch(&wanted, bpe->tokens, (size_t)bpe->token_count, sizeof *found, compare_tokens);
    return found ? found->id : -1;
}

static const Merge *find_merge(const Bpe *bpe, int32_t left, int32_t right) {
    Merge wanted = {.left = left, .right = right};
    return bsearch(&wanted, bpe->merges, (size_t)bpe->merge_count, sizeof wanted, compare_pairs);
}

Span bpe_token(const Bpe *bpe, int32_t id) {
    return id >= 0 && id < bpe->size ? bpe->by_id[id] : (Span){0};
}

int32_t bpe_size(const Bpe *bpe) {
    return bpe->size;
}

/* ---- Reading ---- */

typedef struct Reading {
    Bpe *bpe;
    Error *err;
    int32_t at; /* in the list of merges */
} Reading;

static bool read_token(void *context, const JsonMember *member) {
    Reading *r = context;
    Bpe *bpe = r->bpe;
    if (member->type != JSON_INT || member->integer < 0 || member->integer >= BPE_TOKENS_MAX)
        return FAIL(r->err, ERROR_INPUT, "vocab: the id of '%.40s' must be 0 to %d", member->name,
                    BPE_TOKENS_MAX - 1);
    if (bpe->token_count == bpe->token_capacity) {
        int32_t capacity = 2 * bpe->token_capacity + 1024;
        Token *tokens = arena_new_array(bpe->arena, Token, capacity);
        if (bpe->token_count)
            memcpy(tokens, bpe->tokens, sizeof *tokens * (size_t)bpe->token_count);
        bpe->tokens = tokens;
        bpe->token_capacity = capacity;
    }
    Token *token = &bpe->tokens[bpe->token_count++];
    *token = (Token){{arena_strdup(bpe->arena, member->name), (int64_t)strlen(member->name)},
                     (int32_t)member->integer};
    if (token->id >= bpe->size) bpe->size = token->id + 1;
    return true;
}

static bool read_tokens(const Json *json, Reading *r) {
    Bpe *bpe = r->bpe;
    TRY(json_each_member(json, "vocab", read_token, r));
    if (!bpe->token_count) return FAIL(r->err, ERROR_INPUT, "vocab: holds no tokens");
    qsort(bpe->tokens, (size_t)bpe->token_count, sizeof *bpe->tokens, compare_tokens);
    if (bpe->size > 2 * bpe->token_count + UNUSED_MAX)
        return FAIL(r->err, ERROR_INPUT, "vocab: %d tokens have ids up to %d; most would be unused",
                    (int)bpe->token_count, (int)bpe->size - 1);
    bpe->by_id = arena_new_array(bpe->arena, Span, bpe->size);
    for (int32_t i = 0; i < bpe->token_count; i++) {
        Span *place = &bpe->by_id[bpe->tokens[i].id];
        if (place->text)
            return FAIL(r->err, ERROR_INPUT, "vocab: '%.40s' and '%.40s' have the same id %d",
                        place->text, bpe->tokens[i].text.text, (int)bpe->tokens[i].id);
        *place = bpe->tokens[i].text;
    }
    return true;
}

static bool find_part(Reading *r, const char *text, size_t bytes, int32_t *id) {
    *id = bpe_find(r->bpe, (Span){text, (int64_t)bytes});
    return *id >= 0 || FAIL(r->err, ERROR_INPUT, "merges.%d: '%.*s' is not in the vocab",
                            (int)r->at, bytes > 40 ? 40 : (int)bytes, text);
}

/* "a b", or in newer files ["a", "b"]. */
static bool read_merge(void *context, const JsonMember *member) {
    Reading *r = context;
    const char *left = member->text, *right = NULL;
    size_t left_bytes = 0;
    if (left) {
        const char *space = strchr(left, ' ');
        left_bytes = space ? (size_t)(space - left) : 0;
        right = space && !strchr(space + 1, ' ') ? space + 1 : NULL;
    } else if (member->type == JSON_LIST && json_count(member->inside, "") == 2) {
        left = json_get_text(member->inside, "0");
        right = json_get_text(member->inside, "1");
        left_bytes = left ? strlen(left) : 0;
    }
    if (!left_bytes || !right || !*right)
        return FAIL(r->err, ERROR_INPUT, "merges.%d: is no pair of tokens", (int)r->at);
    Merge merge = {.rank = r->at};
    size_t right_bytes = strlen(right);
    TRY(find_part(r, left, left_bytes, &merge.left));
    TRY(find_part(r, right, right_bytes, &merge.right));
    ArenaMark mark = arena_mark(r->bpe->arena);
    char *both = arena_format(r->bpe->arena, "%.*s%s", (int)left_bytes, left, right);
    bool is_found = find_part(r, both, left_bytes + right_bytes, &merge.id);
    arena_rewind(r->bpe->arena, mark);
    if (is_found) r->bpe->merges[r->at++] = merge;
    return is_found;
}

static bool read_merges(const Json *json, Reading *r) {
    Bpe *bpe = r->bpe;
    if (json_type_at(json, "merges") != JSON_LIST)
        return FAIL(r->err, ERROR_INPUT, "merges: must be a list");
    bpe->merges = arena_new_array(bpe->arena, Merge, json_count(json, "merges") + 1);
    TRY(json_each_element(json, "merges", read_merge, r));
    qsort(bpe->merges, (size_t)r->at, sizeof *bpe->merges, compare_merges);
    for (int32_t i = 0; i < r->at; i++)
        if (!i || compare_pairs(&bpe->merges[bpe->merge_count - 1], &bpe->merges[i]))
            bpe->merges[bpe->merge_count++] = bpe->merges[i];
    return true;
}

static void find_bytes(Bpe *bpe) {
    for (int byte = 0; byte < 256; byte++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", byte);
        bpe->bytes[byte] = bpe_find(bpe, (Span){name, 6});
    }
}

typedef struct Known {
    const char *name;
    JsonType type; /* or null */
    const char *what;
    bool is_built; /* else only what is nothing: 0 or no text */
} Known;

static const Known known_members[] = {{"type", JSON_TEXT, "text", true},
                                      {"vocab", JSON_MEMBERS, "an object", true},
                                      {"merges", JSON_LIST, "a list", true},
                                      {"unk_token", JSON_TEXT, "text", true},
                                      {"fuse_unk", JSON_BOOL, "true or false", true},
                                      {"byte_fallback", JSON_BOOL, "true or false", true},
                                      {"ignore_merges", JSON_BOOL, "true or false", true},
                                      {"dropout", JSON_NUMBER, "a number", false},
                                      {"continuing_subword_prefix", JSON_TEXT, "text", false},
                                      {"end_of_word_suffix", JSON_TEXT, "text", false},
                                      {NULL, JSON_ABSENT, NULL, false}};

static bool check_member(void *context, const JsonMember *member) {
    const Reading *r = context;
    const Known *known = known_members;
    if (member->type == JSON_NOTHING) return true;
    while (known->name && strcmp(known->name, member->name)) known++;
    if (!known->name) return FAIL(r->err, ERROR_INPUT, "nibble does not know '%s'", member->name);
    bool is_number = known->type == JSON_NUMBER && member->type == JSON_INT;
    if (member->type != known->type && !is_number)
        return FAIL(r->err, ERROR_INPUT, "'%s' must be %s", known->name, known->what);
    bool is_nothing = member->text ? !*member->text : member->number == 0;
    return known->is_built || is_nothing ||
           FAIL(r->err, ERROR_INPUT, "'%s' is not supported", known->name);
}

bool bpe_read(const Json *json, Arena *arena, Bpe **out, Error *err) {
    Bpe *bpe = *out = arena_new_array(arena, Bpe, 1);
    *bpe = (Bpe){.arena = arena, .unknown = -1};
    Reading r = {.bpe = bpe, .err = err};
    const char *type = json_get_text(json, "type"), *unknown = json_get_text(json, "unk_token");
    if (type && strcmp(type, "BPE"))
        return FAIL(err, ERROR_INPUT, "type '%s' is not supported, only BPE", type);
    TRY(json_each_member(json, "", check_member, &r));
    TRY(read_tokens(json, &r) && read_merges(json, &r));
    json_get_bool(json, "fuse_unk", &bpe->fuses_unknown);
    json_get_bool(json, "byte_fallback", &bpe->has_fallback);
    json_get_bool(json, "ignore_merges", &bpe->takes_whole);
    find_bytes(bpe);
    if (!unknown) return true;
    bpe->unknown = bpe_find(bpe, (Span){unknown, (int64_t)strlen(unknown)});
    return bpe->unknown >= 0 ||
           FAIL(err, ERROR_INPUT, "unk_token: '%.40s' is not in the vocab", unknown);
}

/* ---- Encoding ---- */

/* A word while it is merged: tokens in a list, and a heap of pairs that could become one. */
typedef struct Link {
    int32_t id; /* -1: merged into the one before it */
    int32_t before, after;
} Link;

typedef struct Candidate {
    int32_t rank, at, left, right, id;
} Candidate;

typedef struct Word {
    const Bpe *bpe;
    Link *links;
    int32_t count;
    Candidate *heap;
    int32_t heap_count;
} Word;

static bool comes_first(const Candidate *a, const Candidate *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void push(Word *w, Candidate c) {
    int32_t i = w->heap_count++;
    while (i > 0 && comes_first(&c, &w->heap[(i - 1) / 2])) {
        w->heap[i] = w->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    w->heap[i] = c;
}

static Candidate pop(Word *w) {
    Candidate first = w->heap[0], last = w->heap[--w->heap_count];
    int32_t i = 0, child;
    while ((child = 2 * i + 1) < w->heap_count) {
        if (child + 1 < w->heap_count && comes_first(&w->heap[child + 1], &w->heap[child])) child++;
        if (!comes_first(&w->heap[child], &last)) break;
        w->heap[i] = w->heap[child];
        i = child;
    }
    w->heap[i] = last;
    return first;
}

/* The pair that begins at link `at`, if the two may be merged. */
static void consider(Word *w, int32_t at) {
    if (at < 0 || w->links[at].after < 0) return;
    int32_t left = w->links[at].id, right = w->links[w->links[at].after].id;
    const Merge *merge = find_merge(w->bpe, left, right);
    if (merge) push(w, (Candidate){merge->rank, at, left, right, merge->id});
}

/* A candidate may be out of date: one of the two has been merged with another since. */
static bool is_current(const Word *w, const Candidate *c) {
    const Link *link = &w->links[c->at];
    return link->id == c->left && link->after >= 0 && w->links[link->after].id == c->right;
}

static void merge_word(Word *w) {
    for (int32_t i = 0; i + 1 < w->count; i++) consider(w, i);
    while (w->heap_count) {
        Candidate c = pop(w);
        if (!is_current(w, &c)) continue;
        Link *link = &w->links[c.at], *gone = &w->links[link->after];
        link->id = c.id;
        gone->id = -1;
        link->after = gone->after;
        if (link->after >= 0) w->links[link->after].before = c.at;
        consider(w, link->before);
        consider(w, c.at);
    }
}

static void add_link(Word *w, int32_t id) {
    int32_t at = w->count++;
    w->links[at] = (Link){id, at - 1, -1};
    if (at) w->links[at - 1].after = at;
}

static bool has_bytes(const Bpe *bpe, Span character) {
    for (int64_t i = 0; i < character.bytes; i++)
        if (bpe->bytes[(unsigned char)character.text[i]] < 0) return false;
    return bpe->has_fallback;
}

/* Its characters; one that is no token is its bytes, or the unknown token, or nothing. */
static void begin_word(Word *w, Span word) {
    bool was_unknown = false;
    for (int64_t i = 0, used; i < word.bytes; i += used) {
        unicode_at(word, i, &used);
        Span character = {word.text + i, used};
        int32_t id = bpe_find(w->bpe, character);
        bool is_unknown = id < 0 && !has_bytes(w->bpe, character);
        if (id >= 0) {
            add_link(w, id);
        } else if (!is_unknown) {
            for (int64_t j = 0; j < used; j++)
                add_link(w, w->bpe->bytes[(unsigned char)character.text[j]]);
        } else if (w->bpe->unknown >= 0 && !(was_unknown && w->bpe->fuses_unknown)) {
            add_link(w, w->bpe->unknown);
        }
        was_unknown = is_unknown;
    }
}

void bpe_encode(const Bpe *bpe, Span word, Arena *scratch, TokenIds *out) {
    int32_t whole = bpe->takes_whole ? bpe_find(bpe, word) : -1;
    if (whole >= 0) {
        token_ids_add(out, whole);
        return;
    }
    ArenaMark mark = arena_mark(scratch);
    Word w = {.bpe = bpe};
    w.links = arena_alloc(scratch, checked_mul(sizeof *w.links, (size_t)word.bytes));
    /* One pair per character at first, and two more for each merge. */
    w.heap = arena_alloc(scratch, checked_mul(3 * sizeof *w.heap, (size_t)word.bytes));
    begin_word(&w, word);
    merge_word(&w);
    for (int32_t i = w.count ? 0 : -1; i >= 0; i = w.links[i].after)
        token_ids_add(out, w.links[i].id);
    arena_rewind(scratch, mark);
}
