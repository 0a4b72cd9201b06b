/* nibble tokenize, and nibble inspect of safetensors, as a user meets them. */
#include "tests/program.h"

#include "core/json.h"

#define TINY                                                                                       \
    "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2, \"\\n\": 3}, "     \
    "\"merges\": [\"a b\"]}, \"added_tokens\": [{\"id\": 4, \"content\": \"<s>\", \"special\": "   \
    "true, "                                                                                       \
    "\"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false}], "      \
    "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": "      \
    "{\"id\": "                                                                                    \
    "\"<s>\"}}, {\"Sequence\": {\"id\": \"A\"}}], \"special_tokens\": {\"<s>\": {\"ids\": [4]}}}}"

static void test_tokenize(void **state) {
    (void)state;
    run(2, "tokenize model text.txt");
    assert_int_equal(mkdir("model", 0777), 0);
    assert_has(run(2, "tokenize model text.txt").err, "model/tokenizer.json");
    text_file("model/tokenizer.json", TINY);
    assert_has(run(2, "tokenize model text.txt").err, "text.txt");
    text_file("text.txt", "abba\n");
    assert_string_equal(run(0, "tokenize model text.txt --json").out,
                        "{\"ids\": [4, 2, 1, 0, 3]}\n");
    assert_string_equal(run(0, "tokenize model text.txt --json --plain").out,
                        "{\"ids\": [2, 1, 0, 3]}\n");
    assert_string_equal(run(0, "tokenize model/tokenizer.json text.txt").out,
                        "       4  <s>\n       2  ab\n       1  b\n       0  a\n       3  \\n\n");
    text_file("text.txt", "ab\xff");
    assert_has(run(2, "tokenize model text.txt").err,
               "text.txt: byte 2 (0xff) is not UTF-8; convert the text first");
}

static void test_inspect_safetensors(void **state) {
    (void)state;
    static const char file[] =
        "\x40\0\0\0\0\0\0\0"
        "{\"w\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 8]}}   "
        "\0\0\0\0\0\0\0\0";
    file_write("x.safetensors", file, sizeof file - 1);
    assert_string_equal(run(0, "inspect x.safetensors").out,
                        "w  F32 [2]\n1 tensor, 8 bytes, in 1 file\n");
    file_write("x.safetensors", file, sizeof file - 2);
    assert_has(run(2, "inspect x.safetensors").err,
               "x.safetensors: tensor 'w': lies at 0 to 8, but");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokenize),
        cmocka_unit_test(test_inspect_safetensors),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
