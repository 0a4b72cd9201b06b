/* Ids and texts against those of Hugging Face's tokenizers (tests/golden/make_tokenizers.py), and
 * what bad files and texts get. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/json.h"
#include "data/text/tokenizer.h"

#define FOLDER "tests/golden/tokenizers/"
static const char *const kinds[] = {"llama3", "qwen2", "smollm", "gpt2", "llama2", "llama2_new"};
enum { KIND_COUNT = sizeof kinds / sizeof *kinds };

static Span span(const char *text) {
    return (Span){text, (int64_t)strlen(text)};
}

/* ---- Goldens ---- */

static bool add_id(void *context, const JsonMember *member) {
    token_ids_add(context, (int32_t)member->integer);
    return true;
}

static void check_case(Tokenizer *t, const char *kind, const Json *golden, Arena *arena) {
    TokenIds wanted = {.arena = arena}, ids = {.arena = arena};
    Error err = {0};
    json_each_element(golden, arena_format(arena, "ids.%s", kind), add_id, &wanted);
    const char *text = json_get_text(golden, "text");
    if (text) {
        assert_true(tokenizer_encode(t, span(text), true, &ids, &err));
        if (ids.count != wanted.count ||
            memcmp(ids.items, wanted.items, sizeof *ids.items * (size_t)ids.count))
            fail_msg("%s: other ids than expected of '%s'", kind, text);
    }
    Span decoded;
    assert_true(tokenizer_decode(t, wanted.items, wanted.count, false, arena, &decoded, &err));
    assert_string_equal(decoded.text,
                        json_get_text(golden, arena_format(arena, "decoded.%s", kind)));
}

static void test_goldens(void **state) {
    (void)state;
    Error err = {0};
    Json *json = json_read_file(FOLDER "texts.json", &err);
    assert_non_null(json);
    int count = json_count(json, "cases");
    assert_true(count > 50);
    for (int i = 0; i < KIND_COUNT; i++) {
        Arena *arena = arena_new("test");
        Tokenizer *t;
        char path[128];
        snprintf(path, sizeof path, FOLDER "%s.json", kinds[i]);
        if (!tokenizer_open(path, arena, &t, &err)) fail_msg("%s", err.message);
        for (int j = 0; j < count; j++)
            check_case(t, kinds[i], json_element(json, "cases", j), arena);
        tokenizer_close(t);
        arena_free(arena);
    }
    json_free(json);
}

/* ---- A small file of our own ---- */

#define FLAGS "\"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false"
#define VOCAB "\"vocab\": {\"<unk>\": 0, \"a\": 1, \"b\": 2, \"ab\": 3, \"aba\": 4, \" \": 5}"
#define MODEL "\"type\": \"BPE\", " VOCAB ", \"merges\": [\"a b\", [\"ab\", \"a\"]]"
#define SMALL "{\"model\": {" MODEL "}}"

static const char *write_file(const char *text, char path[64]) {
    snprintf(path, 64, "/tmp/nibble-test-tokenizer-%d.json", (int)getpid());
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    return path;
}

typedef struct Small {
    const char *file, *text;
    int count;
    int32_t ids[8];
} Small;

/* Worked out by hand. */
static const Small smalls[] = {
    {SMALL, "ab", 1, {3}},
    {SMALL, "abab", 2, {3, 3}}, /* both pairs were learned before ab + a */
    {SMALL, "aba", 1, {4}},
    {SMALL, "ba", 2, {2, 1}},
    {SMALL, "xax", 1, {1}}, /* no unknown token: what is none is left out */
    {"{\"model\": {" MODEL ", \"unk_token\": \"<unk>\"}}", "xxa", 3, {0, 0, 1}},
    {"{\"model\": {" MODEL ", \"unk_token\": \"<unk>\", \"fuse_unk\": true}}",
     "xxax",
     3,
     {0, 1, 0}},
    {"{\"model\": {" MODEL ", \"ignore_merges\": true}}", "aba", 1, {4}},
    {"{\"model\": {" MODEL "}, \"pre_tokenizer\": {\"type\": \"WhitespaceSplit\"}}",
     "a b  ab",
     3,
     {1, 2, 3}},
    {"{\"model\": {" MODEL "}, \"normalizer\": {\"type\": \"Strip\", \"strip_left\": true, "
     "\"strip_right\": false}}",
     "  a ",
     2,
     {1, 5}},
    {"{\"model\": {" MODEL
     "}, \"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"String\": \"b\"}, "
     "\"behavior\": \"MergedWithPrevious\", \"invert\": false}}",
     "abab",
     2,
     {3, 3}},
    {"{\"model\": {" MODEL
     "}, \"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"b\"}, "
     "\"behavior\": \"Removed\", \"invert\": false}}",
     "aba",
     2,
     {1, 1}},
    {"{\"model\": {" MODEL
     "}, \"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"a\"}, "
     "\"behavior\": \"Contiguous\", \"invert\": true}}",
     "aabba",
     5,
     {1, 1, 2, 2, 1}},
};

static void test_small_files(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof smalls / sizeof *smalls; i++) {
        char path[64];
        Error err = {0};
        Arena *arena = arena_new("test");
        Tokenizer *t;
        TokenIds ids = {.arena = arena};
        if (!tokenizer_open(write_file(smalls[i].file, path), arena, &t, &err))
            fail_msg("%s", err.message);
        assert_true(tokenizer_encode(t, span(smalls[i].text), true, &ids, &err));
        if (ids.count != smalls[i].count ||
            memcmp(ids.items, smalls[i].ids, sizeof *ids.items * (size_t)ids.count)) {
            for (int64_t j = 0; j < ids.count; j++) printf(" %d", (int)ids.items[j]);
            fail_msg("case %zu: other ids", i);
        }
        tokenizer_close(t);
        arena_free(arena);
        unlink(path);
    }
}

/* A long word takes no time out of proportion: n log n steps, not n squared. */
static void test_long_word(void **state) {
    (void)state;
    enum { LENGTH = 1 << 21 };
    char path[64];
    Error err = {0};
    Arena *arena = arena_new("test");
    Tokenizer *t;
    TokenIds ids = {.arena = arena};
    char *text = arena_alloc(arena, LENGTH);
    for (int i = 0; i < LENGTH; i++) text[i] = "ab"[i % 2];
    assert_true(tokenizer_open(write_file(SMALL, path), arena, &t, &err));
    assert_true(tokenizer_encode(t, (Span){text, LENGTH}, true, &ids, &err));
    assert_int_equal(ids.count, LENGTH / 2);
    tokenizer_close(t);
    arena_free(arena);
    unlink(path);
}

/* ---- Bad files ---- */

typedef struct Bad {
    const char *file, *message; /* behind the path */
} Bad;

#define WITH(section) "{\"model\": {" MODEL "}, " section "}"
static const Bad bads[] = {
    {"[1]", "expected a JSON object"},
    {"{}", "model: is missing; is this a tokenizer.json?"},
    {"{\"model\": {\"type\": \"Unigram\"}}", "model: type 'Unigram' is not supported, only BPE"},
    {"{\"model\": {\"type\": \"BPE\"}}", "model: vocab: holds no tokens"},
    {"{\"model\": {\"vocab\": {\"a\": -1}}}", "model: vocab: the id of 'a' must be 0 to 4194303"},
    {"{\"model\": {\"vocab\": {\"a\": 4194304}}}",
     "model: vocab: the id of 'a' must be 0 to 4194303"},
    {"{\"model\": {\"vocab\": {\"a\": 1, \"b\": 1}}}",
     "model: vocab: 'a' and 'b' have the same id 1"},
    {"{\"model\": {\"vocab\": {\"a\": 99999}}}",
     "model: vocab: 1 tokens have ids up to 99999; most would be unused"},
    {WITH("\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": "
          "{\"id\": \"s\"}}, {\"Sequence\": {\"id\": \"A\"}}], \"special_tokens\": {\"s\": "
          "{\"ids\": [77]}}}"),
     "post_processor: no token has the id 77"},
    {"{\"model\": {" VOCAB "}}", "model: merges: must be a list"},
    {"{\"model\": {" VOCAB ", \"merges\": [\"ab\"]}}", "model: merges.0: is no pair of tokens"},
    {"{\"model\": {" VOCAB ", \"merges\": [\"a b a\"]}}", "model: merges.0: is no pair of tokens"},
    {"{\"model\": {" VOCAB ", \"merges\": [[\"a\"]]}}", "model: merges.0: is no pair of tokens"},
    {"{\"model\": {" VOCAB ", \"merges\": [\"a b\", \"a c\"]}}",
     "model: merges.1: 'c' is not in the vocab"},
    {"{\"model\": {" VOCAB ", \"merges\": [\"b b\"]}}",
     "model: merges.0: 'bb' is not in the vocab"},
    {"{\"model\": {" MODEL ", \"unk_token\": \"x\"}}", "model: unk_token: 'x' is not in the vocab"},
    {"{\"model\": {" MODEL ", \"dropout\": 1}}", "model: 'dropout' is not supported"},
    {"{\"model\": {" MODEL ", \"end_of_word_suffix\": \"</w>\"}}",
     "model: 'end_of_word_suffix' is not supported"},
    {"{\"model\": {" MODEL ", \"surprise\": 1}}", "model: nibble does not know 'surprise'"},
    {WITH("\"normalizer\": {\"type\": \"Precompiled\"}"),
     "normalizer: nibble does not know the type 'Precompiled'"},
    {WITH("\"normalizer\": {}"), "normalizer: a step has no 'type'"},
    {WITH("\"normalizer\": 1"), "normalizer: is no object"},
    /* a list for an object and an object for a list, wherever the file has one */
    {"{\"model\": [1]}", "model: is no object"},
    {"{\"model\": {\"vocab\": [0]}}", "model: 'vocab' must be an object"},
    {"{\"model\": {" VOCAB ", \"merges\": {\"a\": 1}}}", "model: 'merges' must be a list"},
    {WITH("\"normalizer\": [{\"type\": \"NFC\"}]"), "normalizer: is no object"},
    {WITH("\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": {\"a\": 1}}"),
     "normalizer: 'normalizers' must be a list"},
    {WITH("\"added_tokens\": {\"a\": 1}"), "added_tokens: must be a list"},
    {WITH("\"post_processor\": [1]"), "post_processor: is no object"},
    {WITH("\"post_processor\": {\"type\": \"Sequence\", \"processors\": {\"a\": 1}}"),
     "post_processor: processors: must be a list"},
    {WITH("\"post_processor\": {\"type\": \"Sequence\", \"processors\": [[1]]}"),
     "post_processor: has no 'type'"},
    {WITH("\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": {\"a\": 1}}"),
     "post_processor: single: must be a list"},
    {WITH("\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [[1]]}"),
     "post_processor: single: must be special tokens around one Sequence"},
    {WITH("\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": "
          "{\"id\": \"<s>\"}}], \"special_tokens\": [{\"ids\": [1]}]}"),
     "post_processor: special_tokens: is no object"},
    {WITH("\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": "
          "{\"id\": \"<s>\"}}], \"special_tokens\": {\"<s>\": {\"ids\": {\"a\": 1}}}}"),
     "post_processor: special_tokens has no '<s>'"},
    /* what cannot be read is not absent */
    {"{\"model\": {\"type\": 1, " VOCAB "}}", "model: 'type' must be text"},
    {"{\"model\": {" MODEL ", \"unk_token\": 1}}", "model: 'unk_token' must be text"},
    {"{\"model\": {" MODEL ", \"fuse_unk\": 1}}", "model: 'fuse_unk' must be true or false"},
    {"{\"model\": {" MODEL ", \"dropout\": \"\"}}", "model: 'dropout' must be a number"},
    {WITH("\"decoder\": {\"type\": \"Metaspace\", \"replacement\": \"_\", \"prepend_scheme\": 1}"),
     "decoder: Metaspace: 'prepend_scheme' is 'no text', which nibble does not know"},
    {WITH(
         "\"decoder\": {\"type\": \"Metaspace\", \"replacement\": \"_\", \"add_prefix_space\": 1}"),
     "decoder: Metaspace: 'add_prefix_space' must be true or false"},
    {WITH("\"normalizer\": {\"type\": \"Prepend\"}"),
     "normalizer: Prepend: 'prepend' must be text"},
    {WITH("\"normalizer\": {\"type\": \"NFC\", \"x\": 1}"),
     "normalizer: NFC: nibble does not know 'x'"},
    {WITH("\"normalizer\": {\"type\": \"NFC\", \"\": 1}"),
     "normalizer: NFC: nibble does not know ''"},
    {WITH("\"normalizer\": {\"type\": \"Prepend\", \"prepend\": \"a\", \"prepend \": 1}"),
     "normalizer: Prepend: nibble does not know 'prepend '"},
    {WITH("\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"ab\"}"),
     "pre_tokenizer: Metaspace: 'replacement' must be one character"},
    {WITH("\"decoder\": {\"type\": \"Metaspace\", \"replacement\": \"\"}"),
     "decoder: Metaspace: 'replacement' must be one character"},
    {WITH("\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [1]}"),
     "normalizer: 'normalizers' holds what is no step"},
    {WITH(
         "\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"a(\"}, \"behavior\": "
         "\"Isolated\", \"invert\": false}"),
     "pre_tokenizer: Split: regular expression, character 2: missing closing parenthesis"},
    {WITH(
         "\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"String\": \"a\"}, \"behavior\": "
         "\"Torn\", \"invert\": false}"),
     "pre_tokenizer: Split: 'behavior' is 'Torn', which nibble does not know"},
    {WITH("\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"[a\\\\S]\"}, "
          "\"behavior\": \"Isolated\", \"invert\": false}"),
     "pre_tokenizer: Split: regular expression: \\S within brackets is not supported"},
    {WITH("\"pre_tokenizer\": {\"type\": \"Digits\"}"),
     "pre_tokenizer: Digits: 'individual_digits' must be true or false"},
    {WITH("\"decoder\": {\"type\": \"Strip\", \"content\": \" \"}"),
     "decoder: Strip: 'start' and 'stop' must be counts"},
    {WITH("\"added_tokens\": [1]"), "added_tokens.0: is no object"},
    {WITH("\"added_tokens\": [{\"id\": -1}]"), "added_tokens.0: 'id' must be 0 to 4194303"},
    {WITH("\"added_tokens\": [{\"id\": 9, \"content\": \"x\"}]"),
     "added_tokens.0: 'special' must be true or false"},
    {WITH("\"added_tokens\": [{\"id\": 1, \"content\": \"x\", \"special\": true, " FLAGS "}]"),
     "added_tokens.0: 'x' has the id 1, which the vocab gives to 'a'"},
    {WITH("\"post_processor\": {\"type\": \"BertProcessing\"}"),
     "post_processor: nibble does not know the type 'BertProcessing'"},
    {WITH("\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": []}"),
     "post_processor: single: names no Sequence"},
    {WITH("\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": "
          "{\"id\": "
          "\"<s>\"}}], \"special_tokens\": {}}"),
     "post_processor: special_tokens has no '<s>'"},
};

static void test_bad_files(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof bads / sizeof *bads; i++) {
        char path[64], wanted[512];
        Error err = {0};
        Arena *arena = arena_new("test");
        Tokenizer *t;
        assert_false(tokenizer_open(write_file(bads[i].file, path), arena, &t, &err));
        assert_int_equal(err.code, ERROR_INPUT);
        snprintf(wanted, sizeof wanted, "%s: %s", path, bads[i].message);
        assert_string_equal(err.message, wanted);
        tokenizer_close(t);
        arena_free(arena);
        unlink(path);
    }
}

static void test_bad_texts(void **state) {
    (void)state;
    char path[64];
    Error err = {0};
    Arena *arena = arena_new("test");
    Tokenizer *t;
    TokenIds ids = {.arena = arena};
    Span decoded;
    assert_true(tokenizer_open(write_file(SMALL, path), arena, &t, &err));
    assert_false(tokenizer_encode(t, span("ab\xc3("), true, &ids, &err));
    assert_string_equal(err.message, "byte 2 (0xc3) is not UTF-8; convert the text first");
    assert_int_equal(ids.count, 0);
    err = (Error){0};
    assert_false(tokenizer_decode(t, (const int32_t[]){1, 6}, 2, true, arena, &decoded, &err));
    assert_non_null(strstr(err.message, ": no token has the id 6"));
    assert_int_equal(tokenizer_size(t), 6);
    assert_int_equal(tokenizer_find(t, "aba"), 4);
    assert_int_equal(tokenizer_find(t, "bab"), -1);
    tokenizer_close(t);
    arena_free(arena);
    unlink(path);
}

/* A pattern that would try for ever is an error, and soon. */
static void test_costly_pattern(void **state) {
    (void)state;
    char path[64], text[64];
    Error err = {0};
    Arena *arena = arena_new("test");
    Tokenizer *t;
    TokenIds ids = {.arena = arena};
    memset(text, 'a', sizeof text);
    text[63] = 'b';
    write_file(
        WITH("\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"(a+)+$\"}, "
             "\"behavior\": \"Isolated\", \"invert\": false}"),
        path);
    assert_true(tokenizer_open(path, arena, &t, &err));
    assert_false(tokenizer_encode(t, (Span){text, sizeof text}, true, &ids, &err));
    assert_non_null(strstr(err.message, "a regular expression fails at byte 0 of a text: "));
    tokenizer_close(t);
    arena_free(arena);
    unlink(path);
}

/* The same step, so many times. */
static const char *doubling(const char *section, const char *list, int count, Arena *arena) {
    const char *steps = "";
    for (int i = 0; i < count; i++)
        steps = arena_format(arena,
                             "%s%s{\"type\": \"Replace\", \"pattern\": {\"String\": \"a\"}, "
                             "\"content\": \"aa\"}",
                             steps, i ? ", " : "");
    return arena_format(arena,
                        "{\"model\": {" MODEL "}, \"%s\": {\"type\": \"Sequence\", \"%s\": [%s]}}",
                        section, list, steps);
}

/* Steps that let a text grow without end are noticed before the memory is taken. */
static void test_growing_texts(void **state) {
    (void)state;
    static const char wanted[] =
        "the tokenizer makes a text of 131072 bytes out of one of 1; texts may grow 32 times";
    char path[64];
    Error err = {0}, other = {0}, third = {0};
    Arena *arena = arena_new("test");
    Tokenizer *t;
    TokenIds ids = {.arena = arena};
    Span decoded;
    assert_true(tokenizer_open(write_file(doubling("normalizer", "normalizers", 40, arena), path),
                               arena, &t, &err));
    assert_false(tokenizer_encode(t, span("a"), true, &ids, &err));
    assert_string_equal(err.message, wanted);
    tokenizer_close(t);
    assert_true(tokenizer_open(write_file(doubling("decoder", "decoders", 40, arena), path), arena,
                               &t, &other));
    assert_false(tokenizer_decode(t, (const int32_t[]){1}, 1, true, arena, &decoded, &other));
    assert_string_equal(other.message, wanted);
    tokenizer_close(t);
    assert_true(tokenizer_open(write_file(doubling("normalizer", "normalizers", 4, arena), path),
                               arena, &t, &third));
    assert_true(tokenizer_encode(t, span("a"), true, &ids, &third));
    assert_int_equal(ids.count, 16);
    tokenizer_close(t);
    assert_true(arena_peak(arena) < 64 << 20);
    arena_free(arena);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),       cmocka_unit_test(test_small_files),
        cmocka_unit_test(test_long_word),     cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_bad_texts),     cmocka_unit_test(test_costly_pattern),
        cmocka_unit_test(test_growing_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
