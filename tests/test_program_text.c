/* nibble tokenize, nibble eval --text, and nibble inspect of safetensors, as a user meets them. */
#include "tests/program.h"

#include <math.h>

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

/* ---- eval --text ---- */

#define LLM "tests/golden/llm/"
static const char *const models[] = {"llama", "mistral", "qwen2", "qwen3"};

static const char *golden(const char *path) {
    return format("%s/" LLM "%s", program_source_root, path);
}

static void check_perplexity(const char *model, const char *options, const char *under) {
    Json *facts = json_of(file_text(golden(format("%s.json", model))));
    Json *json = json_of(
        run(0, "eval %s --text %s --json%s", golden(model), golden("text.txt"), options).out);
    double wanted = number_of(facts, format("%sperplexity", under));
    double found = number_of(json, "perplexity");
    if (!(fabs(found - wanted) < 1e-3 * wanted))
        fail_msg("%s: perplexity %.9g, transformers has %.9g", model, found, wanted);
    assert_true(number_of(json, "scored") == number_of(facts, format("%sscored", under)));
    assert_true(number_of(json, "tokens") == number_of(facts, "token_count"));
    assert_true(fabs(exp(number_of(json, "loss")) - found) < 1e-9 * found);
    assert_true(number_of(json, "window") == 64 && number_of(json, "tokens_per_second") > 0);
    json_free(json);
    json_free(facts);
}

static void test_perplexity(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) {
        check_perplexity(models[i], "", "");
        check_perplexity(models[i], " --stride 24", "stride.");
    }
    const char *text = run(0, "eval %s --text %s", golden("llama"), golden("text.txt")).out;
    assert_has(text, "perplexity 922.");
    assert_has(text, "of 688 of 699 tokens\nwindows of 64 tokens, one every 64; ");
}

static void refuse(const char *options, const char *message) {
    assert_has(run(2, "eval %s %s", golden("llama"), options).err, message);
}

static void copy_model(const char *to) {
    static const char *const files[] = {"config.json", "model.safetensors", "tokenizer.json"};
    assert_int_equal(mkdir(to, 0777), 0);
    for (int i = 0; i < 3; i++)
        file_copy(golden(format("llama/%s", files[i])), format("%s/%s", to, files[i]));
}

static void test_perplexity_mistakes(void **state) {
    (void)state;
    text_file("long.txt", "It took a while.\n");
    refuse("--json", "is a model's directory: say with --text FILE");
    refuse("--text none.txt", "none.txt");
    refuse("--text long.txt --stride 65", "a stride of 65 does not fit windows of 64 tokens");
    refuse("--text long.txt --stride 0", "--stride must be a number from 1 on, not '0'");
    refuse("--text long.txt --split", "--split is about a run's data");
    refuse("--text long.txt --calibrate 3", "--calibrate is about a run; ");
    refuse("--text long.txt data.path=x", "'data.path=x': a model's directory has no settings");
    refuse("--stride 4", "--stride says where windows of --text begin");
    text_file("bad.txt", "It took\xff");
    refuse("--text bad.txt", "bad.txt: byte 7 (0xff) is not UTF-8");
    text_file("empty.txt", "");
    refuse("--text empty.txt", "empty.txt: the text has ");
    assert_has(run(2, "eval nowhere --text long.txt").err, "nowhere");
    copy_model("other");
    const char *config = file_text("other/config.json");
    const char *at = strstr(config, "\"vocab_size\": 300");
    assert_non_null(at);
    text_file("other/config.json", format("%.*s\"vocab_size\": 200%s", (int)(at - config), config,
                                          at + strlen("\"vocab_size\": 300")));
    assert_has(run(2, "eval other --text long.txt").err,
               "other/tokenizer.json has ids up to 299, but the network of config.json knows 200");
    remove("other/tokenizer.json");
    assert_has(run(2, "eval other --text long.txt").err, "other/tokenizer.json");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokenize),
        cmocka_unit_test(test_perplexity),
        cmocka_unit_test(test_perplexity_mistakes),
        cmocka_unit_test(test_inspect_safetensors),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
