/* nibble eval --text of a run: windows, other text, what is quantized, and what is refused. */
#include "tests/program.h"

#define CAT "the cats sat on the mat. "
#define SETTINGS                                                                                   \
    "model: {kind: transformer, width: 16, layers: 1, heads: 2, ff: 24}\n"                         \
    "data: {kind: text, path: cat.txt, length: 8, batch: 4, eval_batch: 3, validation: 0.2, "      \
    "test: 0.2}\n"                                                                                 \
    "optimizer: {kind: adamw, lr: 0.01}\n"                                                         \
    "train: {epochs: 20}\n"

static void test_run(void **state) {
    (void)state;
    const char *text = "";
    for (int i = 0; i < 16; i++) text = format("%s%s", text, CAT);
    text_file("cat.txt", text);
    text_file("cat.yaml", SETTINGS);
    run(0, "train cat.yaml --out run");
    text_file("other.txt", CAT CAT); /* 50 bytes: 6 windows and one of 2 */
    Json *json = json_of(run(0, "eval run --text other.txt --json").out);
    assert_true(number_of(json, "tokens") == 50 && number_of(json, "scored") == 43);
    assert_true(number_of(json, "window") == 8 && number_of(json, "stride") == 8);
    assert_true(number_of(json, "perplexity") < 8);
    json_free(json);
    json = json_of(run(0, "eval run --text other.txt --stride 1 --json").out);
    assert_true(number_of(json, "scored") == 49 && number_of(json, "stride") == 1);
    json_free(json);
    text_file("noise.txt", "%&zQ8 ]w9X}~^#@1");
    json = json_of(run(0, "eval run --text noise.txt --json").out);
    assert_true(number_of(json, "perplexity") > 100);
    json_free(json);
}

/* What a run quantizes is quantized. */
static void test_quantized(void **state) {
    (void)state;
    text_file("w2.yaml", SETTINGS "quant: {bits: 2}\n");
    run(0, "train w2.yaml --out w2 train.steps=30");
    Json *json = json_of(run(0, "eval w2 --text other.txt --json").out);
    assert_true(number_of(json, "perplexity") > 1 && number_of(json, "scored") == 43);
    json_free(json);
}

/* A network out of a directory keeps the context that it was made for, whatever rows were. */
static void test_pretrained(void **state) {
    (void)state;
    const char *llama = format("%s/tests/golden/llm/llama", program_source_root);
    text_file("llama.yaml",
              format("model: {kind: pretrained, path: %s}\n"
                     "data: {kind: text, path: cat.txt, tokenizer: %s, length: 8, batch: 4, "
                     "validation: 0.2, test: 0.2}\n"
                     "optimizer: {kind: adamw, lr: 0.001}\n",
                     llama, llama));
    run(0, "train llama.yaml --out llama train.steps=1");
    Json *json = json_of(run(0, "eval llama --text cat.txt --json").out);
    assert_true(number_of(json, "window") == 64);
    assert_true(number_of(json, "tokens") > 64);
    json_free(json);
}

static void test_mistakes(void **state) {
    (void)state;
    assert_has(run(2, "eval run --text none.txt").err, "none.txt");
    text_file("bad.txt", "ab\xff");
    assert_has(run(2, "eval run --text bad.txt").err, "bad.txt: byte 2 (0xff) is not UTF-8");
    text_file("one.txt", "a");
    assert_has(run(2, "eval run --text one.txt").err, "one.txt: the text has 1 tokens");
    assert_has(run(2, "eval run --text other.txt --stride 9").err,
               "a stride of 9 does not fit windows of 8 tokens");
    text_file("images.yaml", "model: {kind: mlp, widths: [4]}\n" PROGRAM_DATA);
    run(0, "train images.yaml --out images train.steps=1");
    assert_has(run(2, "eval images --text other.txt").err, "images: this network reads no text");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_run),
        cmocka_unit_test(test_quantized),
        cmocka_unit_test(test_pretrained),
        cmocka_unit_test(test_mistakes),
    };
    return cmocka_run_group_tests(tests, program_folder_enter, program_folder_leave);
}
