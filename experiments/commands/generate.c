/* nibble generate RUN|MODEL_DIR --prompt TEXT: what a language model writes behind it; or a
 * conversation with it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "core/print.h"
#include "data/text/chat.h"
#include "experiments/commands/commands.h"
#include "experiments/generate/writer.h"

enum { PROMPT, CHAT, TOKENS, GREEDY, TEMPERATURE, TOP_P, SEED, AS_JSON };

typedef struct Settings {
    const char *prompt;
    const ChatTemplate *chat;
    Sampling sampling;
    int64_t tokens; /* at most so many new ones */
    bool as_json;
} Settings;

/* ---- Options ---- */

static bool parse_number(const char *option, const char *text, double fallback, double least,
                         double most, double *out, Error *err) {
    char *end;
    *out = fallback;
    if (!text) return true;
    *out = strtod(text, &end);
    if (*text && !*end && *out >= least && *out <= most) return true;
    return FAIL(err, ERROR_INPUT, "%s must be a number from %g to %g, not '%s'", option, least,
                most, text);
}

static bool parse_count(const char *option, const char *text, int64_t fallback, int64_t least,
                        int64_t *out, Error *err) {
    const int64_t most = (int64_t)1 << 53;
    char *end;
    *out = fallback;
    if (!text) return true;
    *out = strtoll(text, &end, 10);
    if (*text && !*end && *out >= least && *out <= most) return true;
    return FAIL(err, ERROR_INPUT, "%s must be a whole number from %ld on, not '%s'", option,
                (long)least, text);
}

static bool find_template(const char *name, const ChatTemplate **out, Error *err) {
    for (int i = 0; name && chat_template_names[i]; i++)
        if (!strcmp(name, chat_template_names[i])) *out = &chat_templates[i];
    if (!name || *out) return true;
    return FAIL(err, ERROR_INPUT,
                "--chat: there is no template '%s'; there are plain, chatml, llama2, llama3 and "
                "mistral",
                name);
}

static bool parse_options(const Arguments *a, Settings *s, Error *err) {
    int64_t seed;
    *s = (Settings){.prompt = a->values[PROMPT], .as_json = a->values[AS_JSON] != NULL};
    if (!s->prompt == !a->values[CHAT])
        return FAIL(err, ERROR_INPUT,
                    "say what to begin with: --prompt \"...\", or --chat TEMPLATE to converse");
    if (a->values[CHAT] && s->as_json)
        return FAIL(err, ERROR_INPUT, "--json goes with --prompt, not with --chat");
    TRY(find_template(a->values[CHAT], &s->chat, err));
    TRY(parse_count("--tokens", a->values[TOKENS], 128, 1, &s->tokens, err));
    TRY(parse_count("--seed", a->values[SEED], 1, 0, &seed, err));
    TRY(parse_number("--temperature", a->values[TEMPERATURE], 0.8, 0, 100, &s->sampling.temperature,
                     err));
    TRY(parse_number("--top-p", a->values[TOP_P], 0.95, 0, 1, &s->sampling.top_p, err));
    s->sampling.seed = (uint64_t)seed;
    if (a->values[GREEDY]) s->sampling.temperature = 0;
    return true;
}

/* ---- A prompt ---- */

static void set_ids(Json *json, const char *name, const TokenIds *ids, Arena *arena) {
    int64_t *wide = arena_new_array(arena, int64_t, ids->count);
    for (int64_t i = 0; i < ids->count; i++) wide[i] = ids->items[i];
    json_set_ints(json, name, wide, (int)ids->count);
}

static bool print_json(const Writer *w, const TokenIds *prompt, Error *err) {
    Span text;
    TRY(writer_text(w, true, w->arena, &text, err));
    Json *json = json_new();
    set_ids(json, "prompt_ids", prompt, w->arena);
    set_ids(json, "new_ids", &w->fresh, w->arena);
    json_set_text(json, "text", arena_format(w->arena, "%.*s", (int)text.bytes, text.text));
    print_out("%s\n", json_line(json, w->arena));
    json_free(json);
    return true;
}

static bool go_on(Writer *w, const Settings *s, Error *err) {
    TokenIds prompt = {.arena = w->arena};
    Span text = {s->prompt, (int64_t)strlen(s->prompt)};
    if (!writer_encode(w, text, true, &prompt, err)) {
        error_prefix(err, "--prompt");
        return false;
    }
    w->is_silent = s->as_json;
    TRY(writer_read(w, &prompt, err) && writer_write(w, s->tokens, &s->sampling, err));
    if (s->as_json) return print_json(w, &prompt, err);
    putchar('\n');
    return true;
}

/* ---- A conversation ---- */

/* The user's next line, without its end; NULL: there is none. */
static const char *read_line(Arena *arena) {
    char *line = NULL;
    size_t room = 0;
    fputs("> ", stdout);
    fflush(stdout);
    ssize_t bytes = getline(&line, &room, stdin);
    if (bytes > 0 && line[bytes - 1] == '\n') line[--bytes] = '\0';
    const char *text = bytes < 0 ? NULL : arena_strdup(arena, line);
    free(line);
    return text;
}

/* All that was said, and the beginning of an answer. */
static bool answer(Writer *w, const Settings *s, ChatMessage *messages, int count, Error *err) {
    TokenIds ids = {.arena = w->arena};
    Span text = chat_prompt(s->chat, messages, count, w->arena);
    TRY(writer_encode(w, text, !s->chat->begin, &ids, err));
    TRY(writer_read(w, &ids, err) && writer_write(w, s->tokens, &s->sampling, err));
    putchar('\n');
    TRY(writer_text(w, false, w->arena, &text, err));
    const char *blank = s->chat->around[CHAT_ASSISTANT].before; /* which the model wrote itself */
    bool has_blank = *blank && text.bytes > 0 && *text.text == *blank;
    messages[count] =
        (ChatMessage){CHAT_ASSISTANT, arena_format(w->arena, "%.*s", (int)text.bytes - has_blank,
                                                   text.text + has_blank)};
    return true;
}

/* A template's own tokens end an answer. */
static bool converse(Writer *w, const Settings *s, Error *err) {
    enum { MESSAGES_MAX = 4096 };
    ChatMessage *messages = arena_new_array(w->arena, ChatMessage, MESSAGES_MAX);
    const Tokenizer *t = w->vocabulary.tokenizer;
    if (!chat_check(s->chat, &w->vocabulary, err)) {
        error_prefix(err, "--chat");
        return false;
    }
    for (int i = 0; t && s->chat->specials[i]; i++)
        w->ends[w->end_count++] = tokenizer_find(t, s->chat->specials[i]);
    for (int count = 0; count + 2 <= MESSAGES_MAX; count += 2) {
        const char *line = read_line(w->arena);
        if (!line) break;
        messages[count] = (ChatMessage){CHAT_USER, line};
        TRY(answer(w, s, messages, count + 1, err));
    }
    putchar('\n');
    return true;
}

static bool run(const Arguments *a, Error *err) {
    Arena *arena = arena_new("model");
    Settings s;
    Writer w = {0};
    bool ok = parse_options(a, &s, err) && writer_open(a->items[0], arena, &w, err) &&
              (s.chat ? converse : go_on)(&w, &s, err);
    writer_close(&w);
    arena_free(arena);
    return ok;
}

const Command command_generate = {
    .name = "generate",
    .synopsis = "generate RUN|MODEL_DIR --prompt TEXT|--chat TEMPLATE [--tokens N] [--greedy] "
                "[--json]",
    .help = "what a language model writes behind a text; control characters are written out, as "
            "\\x1b: a terminal would obey them (--json has the text as it is)",
    .min_items = 1,
    .max_items = 1,
    .options = {[PROMPT] = {"--prompt", "TEXT", "what it begins with"},
                [CHAT] = {"--chat", "TEMPLATE",
                          "a conversation, a line each: plain, chatml, llama2, llama3, mistral"},
                [TOKENS] = {"--tokens", "N",
                            "at most so many new tokens (default: 128); fewer where one ends the "
                            "text"},
                [GREEDY] = {"--greedy", NULL, "always the likeliest token"},
                [TEMPERATURE] = {"--temperature", "T",
                                 "logits are divided by it, 0 to 100 (default: 0.8); 0: greedy"},
                [TOP_P] = {"--top-p", "P",
                           "only the likeliest tokens, which have this probability together, 0 to "
                           "1 (default: 0.95); 0: the likeliest alone"},
                [SEED] = {"--seed", "N", "what is drawn depends on it alone (default: 1)"},
                [AS_JSON] = {"--json", NULL, "one object: prompt_ids, new_ids, text"}},
    .is_parallel = true,
    .run = run,
};
