/* Templates of conversations: the texts, what a model is given to answer, and the ids, as
 * transformers has them (golden/make_chat.py); what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/json.h"
#include "data/text/chat.h"

static Arena *arena;
static Json *golden;

typedef struct Conversation {
    ChatMessage messages[16];
    int count;
} Conversation;

static Conversation conversation(int number) {
    Conversation c = {0};
    const char *path = arena_format(arena, "conversations.%d", number);
    c.count = json_count(golden, path);
    assert_in_range(c.count, 1, 16);
    for (int i = 0; i < c.count; i++) {
        const Json *m = json_element(golden, path, i);
        const char *role = json_get_text(m, "role");
        while (strcmp(chat_role_names[c.messages[i].role], role) != 0) c.messages[i].role++;
        c.messages[i].content = json_get_text(m, "content");
    }
    return c;
}

static const char *text_of(Span text) {
    return arena_format(arena, "%.*s", (int)text.bytes, text.text);
}

static void texts_are_those_of_transformers(void **state) {
    (void)state;
    int prompts = 0;
    for (int t = 1; chat_template_names[t]; t++) /* all but plain */
        for (int i = 0; i < json_count(golden, "conversations"); i++) {
            Conversation c = conversation(i);
            const char *name = chat_template_names[t];
            const char *path = arena_format(arena, "templates.%s.texts.%d", name, i);
            ChatText chat = chat_render(&chat_templates[t], c.messages, c.count, arena);
            assert_string_equal(text_of(chat.text), json_get_text(golden, path));
            path = arena_format(arena, "templates.%s.prompts.%d", name, i);
            const char *prompt = json_get_text(golden, path);
            if (!prompt) continue;
            Span ours = chat_prompt(&chat_templates[t], c.messages, c.count, arena);
            assert_string_equal(text_of(ours), prompt);
            prompts++;
        }
    assert_int_equal(prompts, 8);
}

static const char *replaced(const char *text, const char *from, const char *to) {
    const char *out = "", *at;
    for (; (at = strstr(text, from)); text = at + strlen(from))
        out = arena_format(arena, "%s%.*s%s", out, (int)(at - text), text, to);
    return arena_format(arena, "%s%s", out, text);
}

/* The golden tokenizer with a template's tokens in the place of some of its own. */
static Tokenizer *tokenizer_of(const Json *row) {
    Error err = {0};
    size_t bytes;
    const char *path =
        arena_format(arena, "tests/golden/tokenizers/%s.json", json_get_text(row, "file"));
    const char *text = file_read(path, JSON_BYTES_MAX, arena, &bytes, &err);
    assert_non_null(text);
    for (int i = 0; i < json_count(row, "rename"); i++)
        text = replaced(text, json_get_text(row, arena_format(arena, "rename.%d.0", i)),
                        json_get_text(row, arena_format(arena, "rename.%d.1", i)));
    Tokenizer *tokenizer;
    if (!tokenizer_read(text, strlen(text), path, arena, &tokenizer, &err))
        fail_msg("%s", err.message);
    return tokenizer;
}

static void compare_ids(const Json *row, int template) {
    Error err = {0};
    Tokenizer *tokenizer = tokenizer_of(row);
    Vocabulary vocabulary = {.tokenizer = tokenizer, .name = "golden"};
    if (!chat_check(&chat_templates[template], &vocabulary, &err)) fail_msg("%s", err.message);
    for (int i = 0; i < json_count(golden, "conversations"); i++) {
        Conversation c = conversation(i);
        ChatText chat = chat_render(&chat_templates[template], c.messages, c.count, arena);
        TokenIds ids = {.arena = arena};
        assert_true(vocabulary_encode(&vocabulary, chat.text, !chat.begin, &ids, &err));
        const char *path = arena_format(arena, "ids.%d", i);
        int64_t expected[200];
        int count = json_count(row, path);
        assert_in_range(count, 1, 200);
        assert_true(json_get_ints(row, path, expected, count));
        bool is_same = ids.count == count;
        for (int k = 0; is_same && k < count; k++) is_same = ids.items[k] == expected[k];
        if (!is_same)
            fail_msg("%s, %s, conversation %d", chat_template_names[template],
                     json_get_text(row, "file"), i);
    }
    tokenizer_close(tokenizer);
}

static void ids_are_those_of_transformers(void **state) {
    (void)state;
    int compared = 0;
    for (int t = 1; chat_template_names[t]; t++) {
        const char *path = arena_format(arena, "templates.%s.tokenizers", chat_template_names[t]);
        for (int i = 0; i < json_count(golden, path); i++, compared++)
            compare_ids(json_element(golden, path, i), t);
    }
    assert_int_equal(compared, 7);
}

/* Where it would be part of a user's message, and there is none behind it. */
static void a_system_message_is_not_lost(void **state) {
    (void)state;
    static const ChatMessage last[] = {{CHAT_USER, "u"}, {CHAT_SYSTEM, "s"}};
    static const ChatMessage answered[] = {{CHAT_SYSTEM, "s"}, {CHAT_ASSISTANT, "a"}};
    static const ChatMessage good[] = {{CHAT_SYSTEM, "s"}, {CHAT_USER, "u"}};
    for (int t = 0; chat_template_names[t]; t++) {
        Error err = {0};
        bool is_inner = chat_templates[t].has_inner_system;
        assert_true(chat_check_order(&chat_templates[t], good, 2, &err));
        assert_int_equal(chat_check_order(&chat_templates[t], last, 2, &err), !is_inner);
        if (!is_inner) continue;
        assert_string_equal(err.message,
                            arena_format(arena,
                                         "message 2: the template '%s' writes the system's message "
                                         "within the user's that follows, and none does",
                                         chat_template_names[t]));
        assert_false(chat_check_order(&chat_templates[t], answered, 2, &err));
    }
}

static int set_up(void **state) {
    (void)state;
    Error err = {0};
    arena = arena_new("test");
    golden = json_read_file("tests/golden/chat.json", &err);
    return golden ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    json_free(golden);
    arena_free(arena);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_are_those_of_transformers),
        cmocka_unit_test(ids_are_those_of_transformers),
        cmocka_unit_test(a_system_message_is_not_lost),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
