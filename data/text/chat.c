#include "data/text/chat.h"

#include <string.h>

const char *const chat_role_names[] = {"system", "user", "assistant", NULL};
const char *const chat_template_names[] = {"plain", "chatml", "llama2", "llama3", "mistral", NULL};

#define HEADER(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"

const ChatTemplate chat_templates[] = {
    {.around = {{"", ""}, {"", ""}, {"", ""}}}, /* plain: contents, one after the other */
    {.around = {{"<|im_start|>system\n", "<|im_end|>\n"},
                {"<|im_start|>user\n", "<|im_end|>\n"},
                {"<|im_start|>assistant\n", "<|im_end|>"}},
     .behind = "\n",
     .specials = {"<|im_start|>", "<|im_end|>"}},
    {.begin = "",
     .around = {{"<<SYS>>\n", "\n<</SYS>>\n\n"}, {"<s>[INST] ", " [/INST]"}, {" ", " </s>"}},
     .has_inner_system = true,
     .specials = {"<s>", "</s>"}},
    {.begin = "<|begin_of_text|>",
     .around = {{HEADER("system"), "<|eot_id|>"},
                {HEADER("user"), "<|eot_id|>"},
                {HEADER("assistant"), "<|eot_id|>"}},
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
    const ChatMessage *system = NULL; /* one that waits for its user */
    put(out, t->begin);
    for (int i = 0; i < count; i++) {
        const ChatMessage *m = &messages[i];
        if (m->role == CHAT_ASSISTANT) {
            put_answer(t, m->content, out, chat);
            continue;
        }
        if (m->role == CHAT_SYSTEM && t->has_inner_system) {
            system = m;
            continue;
        }
        put(out, t->around[m->role].before);
        if (system) {
            put(out, t->around[CHAT_SYSTEM].before);
            put(out, system->content);
            put(out, t->around[CHAT_SYSTEM].after);
            system = NULL;
        }
        put(out, m->content);
        put(out, t->around[m->role].after);
    }
}

ChatText chat_render(const ChatTemplate *t, const ChatMessage *messages, int count, Arena *arena) {
    Text out = {0};
    ChatText chat = {.begin = t->begin, .answers = arena_new_array(arena, Span, count + 1)};
    put_all(t, messages, count, &out, &chat);
    out = (Text){.at = arena_alloc(arena, (size_t)out.bytes + 1)};
    put_all(t, messages, count, &out, &chat);
    chat.text = (Span){out.at, out.bytes};
    return chat;
}
