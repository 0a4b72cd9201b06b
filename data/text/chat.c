#include "data/text/chat.h"

#include <string.h>

const char *const chat_role_names[] = {"system", "user", "assistant", NULL};
const char *const chat_template_names[] = {"plain", "chatml", "llama2", "llama3", "mistral", NULL};

#define HEADER(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"

const ChatTemplate chat_templates[] = {
    {.around = {{"", ""}, {"", ""}, {"", ""}}}, /* plain: contents, one after the other */
    {.begin = "",
     .around = {{"<|im_start|>system\n", "<|im_end|>\n"},
                {"<|im_start|>user\n", "<|im_end|>\n"},
                {"<|im_start|>assistant\n", "<|im_end|>"}},
     .behind = "\n",
     .specials = {"<|im_start|>", "<|im_end|>"}},
    {.begin = "",
     .around = {{"<<SYS>>\n", "\n<</SYS>>\n\n"}, {"<s>[INST] ", " [/INST]"}, {" ", " </s>"}},
     .has_inner_system = true,
     .trims = true,
     .specials = {"<s>", "</s>"}},
    {.begin = "<|begin_of_text|>",
     .around = {{HEADER("system"), "<|eot_id|>"},
                {HEADER("user"), "<|eot_id|>"},
                {HEADER("assistant"), "<|eot_id|>"}},
     .trims = true,
     .specials = {"<|begin_of_text|>", "<|start_header_id|>", "<|eot_id|>"}},
    {.begin = "<s>",
     .around = {{"", "\n\n"}, {"[INST] ", " [/INST]"}, {" ", "</s>"}},
     .has_inner_system = true,
     .specials = {"<s>", "</s>"}},
};

bool chat_check(const ChatTemplate *t, const Vocabulary *vocabulary, Error *err) {
    for (int i = 0; vocabulary->tokenizer && t->specials[i]; i++)
        if (tokenizer_find(vocabulary->tokenizer, t->specials[i]) < 0)
            return FAIL(err, ERROR_INPUT, "the template '%s' writes %s, which %s does not have",
                        chat_template_names[t - chat_templates], t->specials[i],
                        vocabulary->name) ||
                   error_blame(err, "data.template");
    return true;
}

/* ---- Contents ---- */

/* What Python's strip takes away: Unicode's blanks, and ASCII's separators. */
static bool is_blank(int32_t point) {
    return unicode_is_space(point) || (point >= 0x1c && point <= 0x1f);
}

static const char *trimmed(const char *text, Arena *arena) {
    Span all = {text, (int64_t)strlen(text)};
    int64_t first = 0, end = all.bytes, bytes;
    while (first < end && is_blank(unicode_at(all, first, &bytes))) first += bytes;
    while (end > first) {
        int64_t before = unicode_before(all, end);
        if (!is_blank(unicode_at(all, before, &bytes))) break;
        end = before;
    }
    return arena_format(arena, "%.*s", (int)(end - first), text + first);
}

/* The messages as they are written: none of the system's within a user's, and trimmed. */
static ChatMessage *prepare(const ChatTemplate *t, const ChatMessage *messages, int *count,
                            Arena *arena) {
    ChatMessage *out = arena_new_array(arena, ChatMessage, *count);
    const char *system = NULL; /* one that waits for its user */
    int used = 0;
    for (int i = 0; i < *count; i++) {
        ChatMessage m = messages[i];
        if (t->has_inner_system && m.role == CHAT_SYSTEM) {
            system = m.content;
            continue;
        }
        if (system && m.role == CHAT_USER) {
            m.content = arena_format(arena, "%s%s%s%s", t->around[CHAT_SYSTEM].before, system,
                                     t->around[CHAT_SYSTEM].after, m.content);
            system = NULL;
        }
        if (t->trims) m.content = trimmed(m.content, arena);
        out[used++] = m;
    }
    *count = used;
    return out;
}

bool chat_check_order(const ChatTemplate *t, const ChatMessage *messages, int count, Error *err) {
    for (int i = 0; i < count && t->has_inner_system; i++) {
        bool is_lost = messages[i].role == CHAT_SYSTEM &&
                       (i + 1 == count || messages[i + 1].role != CHAT_USER);
        if (is_lost)
            return FAIL(err, ERROR_INPUT,
                        "message %d: the template '%s' writes the system's message within the "
                        "user's that follows, and none does",
                        i + 1, chat_template_names[t - chat_templates]);
    }
    return true;
}

/* ---- The text ---- */

typedef struct Text { /* first counts, then writes */
    char *at;
    int64_t bytes;
} Text;

static void put(Text *out, const char *text) {
    size_t bytes = text ? strlen(text) : 0;
    if (out->at && bytes) memcpy(out->at + out->bytes, text, bytes);
    out->bytes += (int64_t)bytes;
}

static void put_answer(const ChatTemplate *t, const char *content, Text *out, ChatText *chat) {
    put(out, t->around[CHAT_ASSISTANT].before);
    int64_t first = out->bytes;
    put(out, content);
    put(out, t->around[CHAT_ASSISTANT].after);
    if (out->at) chat->answers[chat->answer_count++] = (Span){out->at + first, out->bytes - first};
    put(out, t->behind);
}

static void put_all(const ChatTemplate *t, const ChatMessage *messages, int count, Text *out,
                    ChatText *chat) {
    put(out, t->begin);
    for (int i = 0; i < count; i++) {
        const ChatMessage *m = &messages[i];
        if (m->role == CHAT_ASSISTANT) {
            put_answer(t, m->content, out, chat);
            continue;
        }
        put(out, t->around[m->role].before);
        put(out, m->content);
        put(out, t->around[m->role].after);
    }
}

ChatText chat_render(const ChatTemplate *t, const ChatMessage *messages, int count, Arena *arena) {
    Text out = {0};
    ChatText chat = {.begin = t->begin, .answers = arena_new_array(arena, Span, count + 1)};
    const ChatMessage *prepared = prepare(t, messages, &count, arena);
    put_all(t, prepared, count, &out, &chat);
    out = (Text){.at = arena_alloc(arena, (size_t)out.bytes + 1)};
    put_all(t, prepared, count, &out, &chat);
    chat.text = (Span){out.at, out.bytes};
    return chat;
}

Span chat_prompt(const ChatTemplate *t, const ChatMessage *messages, int count, Arena *arena) {
    ChatMessage *all = arena_new_array(arena, ChatMessage, count + 1);
    if (count) memcpy(all, messages, sizeof *all * (size_t)count);
    all[count] = (ChatMessage){CHAT_ASSISTANT, ""};
    ChatText chat = chat_render(t, all, count + 1, arena);
    const char *before = t->around[CHAT_ASSISTANT].before;
    size_t blanks = strlen(before);
    if (before[strspn(before, " ")]) blanks = 0;
    int64_t bytes = chat.answers[chat.answer_count - 1].text - chat.text.text;
    return (Span){chat.text.text, bytes - (int64_t)blanks};
}
