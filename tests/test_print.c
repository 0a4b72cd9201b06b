/* Text that people see: what a terminal would obey is written out, all else stays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/json.h"
#include "core/log.h"
#include "core/print.h"
#include "core/settings/yaml.h"

static Arena *arena;

static int set_up(void **state) {
    (void)state;
    arena = arena_new("test");
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    arena_free(arena);
    return 0;
}

static const char *line_of(const char *text) {
    return print_line(text, strlen(text), arena);
}

/* As UTF-8, by RFC 3629's table. */
static size_t encode(unsigned code, char *to) {
    static const unsigned char marks[] = {0, 0, 0xc0, 0xe0, 0xf0};
    size_t bytes = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    if (bytes == 1) to[0] = (char)code;
    for (size_t i = bytes; bytes > 1 && i-- > 0; code >>= i ? 6 : 0)
        to[i] = (char)(i ? 0x80 | (code & 0x3f) : marks[bytes] | code);
    return bytes;
}

static void test_every_character(void **state) {
    (void)state;
    for (unsigned code = 0; code <= 0x10ffff; code++) {
        char text[5] = "";
        unsigned found;
        size_t bytes = encode(code, text), used;
        bool is_surrogate = code >= 0xd800 && code <= 0xdfff;
        assert_int_equal(print_decode(text, bytes, &found, &used), !is_surrogate);
        if (is_surrogate) continue;
        assert_int_equal(found, code);
        assert_int_equal(used, bytes);
        bool is_control = code < 0x20 || (code >= 0x7f && code < 0xa0);
        bool is_bidi = code == 0x61c || code == 0x200e || code == 0x200f ||
                       (code >= 0x2028 && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
        assert_int_equal(print_is_hidden(code), is_control || is_bidi);
    }
}

static void test_bytes_that_are_no_characters(void **state) {
    (void)state;
    static const char *const texts[] = {"\xc0\x80",
                                        "\xc1\xbf",
                                        "\xe0\x9f\xbf",
                                        "\xf0\x8f\xbf\xbf",
                                        "\xf4\x90\x80\x80",
                                        "\xf8\x80\x80\x80",
                                        "\x80",
                                        "\xc3",
                                        "\xc3(",
                                        "\xe2\x82"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        unsigned code;
        size_t bytes;
        assert_false(print_decode(texts[i], strlen(texts[i]), &code, &bytes));
        assert_int_equal(code, (unsigned char)texts[i][0]);
        assert_int_equal(bytes, 1);
    }
    assert_string_equal(line_of("\xc3(\xff"), "\\xc3(\\xff");
}

static void test_lines(void **state) {
    (void)state;
    assert_string_equal(line_of("caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x99\x82 \\n"),
                        "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x99\x82 \\n");
    assert_string_equal(line_of("\x1b[31m\a\n\r\t\x7f"), "\\x1b[31m\\x07\\n\\r\\t\\x7f");
    assert_string_equal(line_of("\xc2\x9b\xe2\x80\xae\xe2\x80\xa8\xe2\x81\xa6"),
                        "\\x9b\\u202e\\u2028\\u2066");
    assert_string_equal(print_line("a\0b", 3, arena), "a\\x00b");
    assert_string_equal(print_lines("a\n\tb\r\x1b", 6, arena), "a\n\tb\\r\\x1b");
}

static const char *printed(void (*print)(FILE *stream)) {
    char *text = NULL;
    size_t bytes;
    FILE *stream = open_memstream(&text, &bytes);
    print(stream);
    fclose(stream);
    const char *copy = arena_strdup(arena, text);
    free(text);
    return copy;
}

static void print_ours(FILE *stream) {
    print_to(stream, "a\n%s %d\n", "b", 7);
}

static void print_theirs(FILE *stream) {
    print_to(stream, "a\n%s %d\n", "b\nnibble: all is well", 7);
}

static void print_long(FILE *stream) {
    char text[5000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    print_to(stream, "%s\x1b", text);
}

static void print_several(FILE *stream) {
    print_text(stream, "a\n\x1b\tb\n", 6);
}

/* Whose line breaks they are. */
static void test_streams(void **state) {
    (void)state;
    assert_string_equal(printed(print_ours), "a\nb 7\n");
    assert_string_equal(printed(print_theirs), "a\\nb\\nnibble: all is well 7\n");
    assert_string_equal(printed(print_several), "a\n\\x1b\tb\n");
    const char *text = printed(print_long);
    assert_int_equal(strlen(text), 4999 + 4);
    assert_string_equal(text + 4999, "\\x1b");
}

/* Whole characters, whatever the room; the end is always there. */
static void check_room(char *to, size_t room, const char *format, ...) {
    va_list args;
    va_start(args, format);
    print_format(to, room, format, args);
    va_end(args);
}

static void test_room(void **state) {
    (void)state;
    static const char *const expected[] = {"",          "a",         "a",         "a\xc3\xa9",
                                           "a\xc3\xa9", "a\xc3\xa9", "a\xc3\xa9", "a\xc3\xa9\\x1b"};
    for (size_t room = 1; room <= 8; room++) {
        char text[16];
        memset(text, '?', sizeof text);
        check_room(text, room, "%s", "a\xc3\xa9\x1b");
        assert_string_equal(text, expected[room - 1]);
        assert_int_equal(text[room], '?');
    }
}

static void keep(void *context, LogLevel level, const char *message) {
    (void)level;
    *(const char **)context = arena_strdup(arena, message);
}

/* Nobody who reports has to think of it. */
static void test_errors_and_log(void **state) {
    (void)state;
    Error err = {0};
    const char *message = NULL;
    assert_false(FAIL(&err, ERROR_INPUT, "'%s'", "\x1b[2J\n"));
    error_prefix(&err, "%s",
                 "a\xe2\x80\xae"
                 "b");
    error_append(&err, ", %s", "\r");
    assert_string_equal(err.message, "a\\u202eb: '\\x1b[2J\\n', \\r");
    LogTarget before = log_set_sink(keep, &message);
    log_warning("%s", "\a");
    log_set_sink(before.sink, before.context);
    assert_string_equal(message, "\\x07");
}

/* A prefix that is cut is cut between characters. */
static void test_prefix_of_characters(void **state) {
    (void)state;
    for (int shift = 0; shift < 3; shift++) {
        char prefix[1000] = "aaa";
        Error err = {0};
        for (int i = shift; i + 3 < 990; i += 3) strcpy(prefix + i, "\xe2\x82\xac");
        assert_false(FAIL(&err, ERROR_INPUT, "what"));
        error_prefix(&err, "%s", prefix);
        assert_non_null(strstr(err.message, "..."));
        assert_string_equal(line_of(err.message), err.message);
        assert_non_null(strstr(err.message, ": what"));
    }
}

/* Files that people look at; the content is the same. */
static void test_files(void **state) {
    (void)state;
    static const char text[] = "\x1b\x7f\xc2\x9b\xe2\x80\xae\xc3\xa9";
    Error err = {0};
    Json *json = json_new();
    json_set_text(json, "a", text);
    const char *line = json_line(json, arena);
    assert_string_equal(line, "{\"a\": \"\\u001B\\u007f\\u009b\\u202e\xc3\xa9\"}");
    Json *again = json_read_text(line, strlen(line), "json", &err);
    assert_string_equal(json_get_text(again, "a"), text);
    json_free(again);
    json_free(json);
    Node node = {.type = NODE_SCALAR, .text = text, .is_quoted = true};
    assert_non_null(strstr(node_to_yaml(&node, arena), "\"\\x1b\\x7f\\x9b\\u202e\xc3\xa9\""));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_character),
        cmocka_unit_test(test_bytes_that_are_no_characters),
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_streams),
        cmocka_unit_test(test_room),
        cmocka_unit_test(test_errors_and_log),
        cmocka_unit_test(test_prefix_of_characters),
        cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
