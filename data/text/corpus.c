#include "data/text/corpus.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/json.h"
#include "data/bytes.h"

static void add_document(Corpus *c, Document document) {
    if (c->count == c->capacity) {
        c->capacity = 2 * c->capacity + 16;
        Document *items = arena_new_array(c->arena, Document, c->capacity);
        if (c->count) memcpy(items, c->documents, sizeof *items * (size_t)c->count);
        c->documents = items;
    }
    document.count = c->ids.count - document.first;
    c->documents[c->count++] = document;
}

static void add_end(Corpus *c, int64_t first) {
    int32_t end = c->vocabulary->end;
    bool is_there = c->ids.count > first && c->ids.items[c->ids.count - 1] == end;
    if (end >= 0 && !is_there) token_ids_add(&c->ids, end);
}

bool corpus_add_text(Corpus *c, Span text, const char *name, Error *err) {
    Document document = {.first = c->ids.count, .file = name};
    if (!vocabulary_encode(c->vocabulary, text, true, &c->ids, err)) {
        error_prefix(err, "%s", name);
        return false;
    }
    add_end(c, document.first);
    add_document(c, document);
    return true;
}

/* ---- Answers ---- */

/* How many ids the text up to `bytes` shares with the whole: where a token spans the border, it
 * belongs to what follows. */
static bool shared_ids(const Corpus *c, const ChatText *chat, int64_t bytes, const TokenIds *whole,
                       int64_t *count, Error *err) {
    Arena *arena = arena_new("prompt");
    TokenIds part = {.arena = arena};
    Span text = {chat->text.text, bytes};
    bool ok = vocabulary_encode(c->vocabulary, text, !chat->begin, &part, err);
    for (*count = 0; *count < part.count && *count < whole->count; ++*count)
        if (part.items[*count] != corpus_token(whole->items[*count])) break;
    arena_free(arena);
    return ok;
}

/* Marks what is no answer, from behind the last one on too. */
static bool mask(const Corpus *c, const ChatText *chat, TokenIds *ids, Error *err) {
    int64_t at = 0, first, end;
    for (int i = 0; i < chat->answer_count; i++) {
        Span answer = chat->answers[i];
        int64_t before = answer.text - chat->text.text;
        TRY(shared_ids(c, chat, before, ids, &first, err));
        if (before + answer.bytes == chat->text.bytes)
            end = ids->count;
        else
            TRY(shared_ids(c, chat, before + answer.bytes, ids, &end, err));
        for (; at < first; at++) ids->items[at] = ~ids->items[at];
        at = at < end ? end : at;
    }
    for (; at < ids->count; at++) ids->items[at] = ~ids->items[at];
    return true;
}

/* Where an answer begins in ids, encoding all that is before it tells. */
static bool check_work(const Corpus *c, const ChatText *chat, Error *err) {
    enum { WORK_MAX = 1 << 27 }; /* bytes: some seconds */
    if (c->scores_all || chat->text.bytes <= WORK_MAX / (chat->answer_count + 1)) return true;
    return FAIL(err, ERROR_INPUT,
                "has %d answers in %ld bytes, too many for a conversation so long; divide it",
                chat->answer_count, (long)chat->text.bytes);
}

static bool is_learned(const Corpus *c, int64_t first) {
    for (int64_t i = first + 1; i < c->ids.count; i++)
        if (c->ids.items[i] >= 0) return true;
    return false;
}

static bool add_chat(Corpus *c, const ChatText *chat, Document document, Arena *arena, Error *err) {
    TokenIds ids = {.arena = arena};
    TRY(check_work(c, chat, err));
    TRY(vocabulary_encode(c->vocabulary, chat->text, !chat->begin, &ids, err));
    if (!c->scores_all) TRY(mask(c, chat, &ids, err));
    document.first = c->ids.count;
    for (int64_t i = 0; i < ids.count; i++) token_ids_add(&c->ids, ids.items[i]);
    if (!is_learned(c, document.first))
        return FAIL(err, ERROR_INPUT, "there is no answer to learn");
    if (c->template == &chat_templates[0]) add_end(c, document.first); /* others write their own */
    add_document(c, document);
    return true;
}

/* ---- Lines ---- */

static bool take_text(const Json *json, const char *name, const char **out, Error *err) {
    *out = json_get_text(json, name);
    if (*out) return true;
    return FAIL(err, ERROR_INPUT, json_type_at(json, name) ? "\"%s\" is no text" : "has no \"%s\"",
                name);
}

static bool read_prompt(const Json *json, Arena *arena, ChatMessage **out, int *count, Error *err) {
    ChatMessage *m = *out = arena_new_array(arena, ChatMessage, *count = 2);
    m[0].role = CHAT_USER;
    m[1].role = CHAT_ASSISTANT;
    return take_text(json, "prompt", &m[0].content, err) &&
           take_text(json, "completion", &m[1].content, err);
}

static bool find_role(const char *name, ChatRole *out, Error *err) {
    for (int i = 0; chat_role_names[i]; i++) {
        *out = (ChatRole)i;
        if (!strcmp(chat_role_names[i], name)) return true;
    }
    return FAIL(err, ERROR_INPUT, "the role \"%s\" is none of system, user, assistant", name);
}

static bool read_message(const Json *json, ChatMessage *out, Error *err) {
    const char *role;
    if (!json) return FAIL(err, ERROR_INPUT, "is no object");
    return take_text(json, "role", &role, err) && find_role(role, &out->role, err) &&
           take_text(json, "content", &out->content, err);
}

static bool read_chat(const Json *json, Arena *arena, ChatMessage **out, int *count, Error *err) {
    *count = json_count(json, "messages");
    if (!*count) return FAIL(err, ERROR_INPUT, "has no list \"messages\", or an empty one");
    *out = arena_new_array(arena, ChatMessage, *count);
    for (int i = 0; i < *count; i++) {
        if (read_message(json_element(json, "messages", i), &(*out)[i], err)) continue;
        error_prefix(err, "message %d", i + 1);
        return false;
    }
    return true;
}

static bool add_line(Corpus *c, Span text, const Document *document, Arena *arena, Error *err) {
    ChatMessage *messages;
    int count;
    const char *place = arena_format(arena, "%s, line %ld", document->file, (long)document->line);
    Json *json = json_read_text(text.text, (size_t)text.bytes, place, err);
    if (!json) return false;
    bool ok =
        (c->format == CORPUS_CHAT ? read_chat : read_prompt)(json, arena, &messages, &count, err);
    ok = ok && chat_check_order(c->template, messages, count, err);
    if (ok) {
        ChatText chat = chat_render(c->template, messages, count, arena);
        ok = add_chat(c, &chat, *document, arena, err);
    }
    if (!ok) error_prefix(err, "%s", place);
    json_free(json);
    return ok;
}

static bool is_blank(Span line) {
    for (int64_t i = 0; i < line.bytes; i++)
        if (!strchr(" \t\r", line.text[i]) || !line.text[i]) return false;
    return true;
}

static bool add_lines(Corpus *c, Span text, const char *path, Error *err) {
    Document document = {.file = path};
    const char *at = text.text, *end = at + text.bytes;
    bool ok = true;
    while (ok && at < end) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        Span line = {at, (stop ? stop : end) - at};
        document.line++;
        at += line.bytes + 1;
        if (is_blank(line)) continue;
        Arena *arena = arena_new("line");
        ok = add_line(c, line, &document, arena, err);
        arena_free(arena);
    }
    return ok;
}

/* ---- Files ---- */

bool corpus_add_file(Corpus *c, const char *path, Error *err) {
    Arena *arena = arena_new("text file");
    Bytes bytes;
    bool ok = bytes_read(path, arena, &bytes, err);
    Span text = {ok ? (const char *)bytes.data : "", ok ? (int64_t)bytes.count : 0};
    int64_t fault = unicode_find_fault(text);
    if (ok && fault >= 0)
        ok = FAIL(err, ERROR_INPUT,
                  "%s: byte %ld (0x%02x) is not UTF-8; convert the text first, as with iconv", path,
                  (long)fault, (unsigned)(unsigned char)text.text[fault]);
    ok = ok && (c->format == CORPUS_TEXT ? corpus_add_text(c, text, path, err)
                                         : add_lines(c, text, path, err));
    arena_free(arena);
    return ok;
}

static int is_shown(const struct dirent *entry) {
    return entry->d_name[0] != '.';
}

static int compare_names(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name); /* whatever the locale */
}

bool corpus_add_path(Corpus *c, const char *path, Error *err) {
    struct stat status;
    struct dirent **entries;
    if (stat(path, &status) || !S_ISDIR(status.st_mode)) return corpus_add_file(c, path, err);
    int count = scandir(path, &entries, is_shown, compare_names), files = 0;
    if (count < 0) return FAIL(err, ERROR_INPUT, "%s: %s", path, strerror(errno));
    bool ok = true;
    for (int i = 0; i < count; i++) {
        const char *file = arena_format(c->arena, "%s/%s", path, entries[i]->d_name);
        free(entries[i]);
        if (!ok || stat(file, &status) || !S_ISREG(status.st_mode)) continue;
        files++;
        ok = corpus_add_file(c, file, err);
    }
    free(entries);
    return ok && (files || FAIL(err, ERROR_INPUT, "%s: a directory without files", path));
}
